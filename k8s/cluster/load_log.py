"""Samples of a load test out of the log of a pod, as they are written: whoever may read logs needs no way to the pod itself.

A thread follows the log, for an API server ends such a connection when it likes. It begins again with the second of the last line that it
has, and what it reads twice counts once. Following matters: a kubelet rotates a log at 10 MiB, and who asks later gets the new file alone.
"""

from __future__ import annotations

import random
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing

from k8s.cluster.api import Api
from k8s.errors import RolloutError
from loadtests.log_lines import LogReader
from loadtests.samples import Samples

SILENCE_S = 30.0
"""Without a line for so long the connection counts as broken: a generator that sends writes every second."""

FIRST_PAUSE_S, MAX_PAUSE_S = 0.25, 5.0
"""Before the log is asked for again; pauses double, with a jitter of half, until a line comes."""

MAX_ASKED_S = 60.0
"""Longest that a server may ask to be left alone."""

MAX_WAITING = 1000
"""Chunks that nobody has taken: a quarter of an hour of them. Beyond that reading stops until somebody does."""

TAIL_LINES, TAIL_CHARACTERS = 5, 1000
"""Of what is no sample, for messages."""

STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) (.*)", re.DOTALL)
"""A line with its time. ``sinceTime`` knows whole seconds."""


class PodLog:
    """Follows the log of a pod, which need not be there yet.

    Parameters
    ----------
    find
        Returns the path of the pod; None while there is none. Called in the thread, each time before the log is asked for.
    container
        Whose log.
    """

    def __init__(self, api: Api, find: Callable[[], str | None], container: str) -> None:
        self._api, self._find, self._container = api, find, container
        self._reader, self._chunks = LogReader(), deque[Samples]()
        self._lock, self._stop = threading.Condition(), threading.Event()
        self._since, self._told = "", 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._trouble = ""
        self._thread = threading.Thread(target=self._follow, name="follow the load's log", daemon=True)
        self._thread.start()

    def take(self) -> list[Samples]:
        """Return what has come since the last time; does not wait."""
        with self._lock:
            found = list(self._chunks)
            self._chunks.clear()
            self._lock.notify()
        return found

    def gap(self) -> str | None:
        """Say what of the log was lost since the last time."""
        with self._lock:
            chunks, requests = self._reader.lost_chunks, self._reader.lost_requests
            fresh, self._told = chunks - self._told, chunks
        return f"{chunks} chunks of samples, {requests} requests, are missing in the log of the load generator" if fresh else None

    @property
    def is_over(self) -> bool:
        """Whether the generator has said that this was all."""
        with self._lock:
            return self._reader.end is not None

    @property
    def trouble(self) -> str:
        """Why the log could not be read the last time; empty where it could."""
        with self._lock:
            return self._trouble

    @property
    def tail(self) -> str:
        """The last lines of the log that are no samples, on one line."""
        with self._lock:
            return " | ".join(self._tail)

    def close(self) -> None:
        """Stop; a connection that is silent is left to its thread, which ends with it."""
        self._stop.set()
        with self._lock:
            self._lock.notify()
        self._thread.join(FIRST_PAUSE_S)

    def _follow(self) -> None:
        pause_s, jitter = FIRST_PAUSE_S, random.Random()  # noqa: S311 - keeps nothing secret
        while not self._stop.is_set() and not self.is_over:
            asked_s, before = 0.0, self._since
            try:
                self._read()
                self._note("")
            except RolloutError as error:
                # Not there yet, not allowed, broken off: who looks is told where nothing comes.
                asked_s = min(getattr(error, "retry_after_s", None) or 0.0, MAX_ASKED_S)
                self._note(str(error))
            pause_s = FIRST_PAUSE_S if self._since != before else min(2 * pause_s, MAX_PAUSE_S)
            self._stop.wait(max(pause_s * jitter.uniform(0.5, 1.0), asked_s))

    def _read(self) -> None:
        pod = self._find()
        if pod is None:
            return
        query = {"container": self._container, "follow": "true", "timestamps": "true"}
        with closing(self._api.lines(f"{pod}/log", query | ({"sinceTime": self._since} if self._since else {}), SILENCE_S)) as lines:
            for line in lines:
                self._note("")
                self._line(line)
                if self._stop.is_set() or self.is_over:
                    return

    def _line(self, line: bytes) -> None:
        stamped = STAMPED.fullmatch(line)
        if stamped is None:
            return
        self._since = (stamped[1] + stamped[2]).decode()
        text = stamped[3]
        with self._lock:
            samples = self._reader.read(text)
            if samples is not None:
                self._chunks.append(samples)
            elif not text.startswith(b"pilotage-"):
                self._tail.append(text.decode(errors="replace").strip()[:TAIL_CHARACTERS])
            self._lock.wait_for(lambda: len(self._chunks) < MAX_WAITING or self._stop.is_set())

    def _note(self, trouble: str) -> None:
        with self._lock:
            self._trouble = trouble
