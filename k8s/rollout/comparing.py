"""Asks all versions the same requests, recorded ones or copies of live ones, and keeps what they answered for the judge.

In a thread of its own, since it waits for answers most of the time; the engine takes what has come, and never waits. Each request is asked
once: asked again, it would tell nothing new.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np

from k8s.rollout.answers import AnswerLimits
from k8s.rollout.arms import ARM_HEADER, Arm
from k8s.rollout.questions import Answers, Asked, Labels, Pair, Ranking, answer_to, compare, recorded
from serving.contract.errors import SettingsError

TIMEOUT_S = 10.0
"""As the load generator: who waits longer has left."""

BACKOFF_S = 0.5
"""After a request that was not answered, by an arm that is restarted perhaps."""

MAX_LINE_BYTES = 16 * 2**20
"""As in the load generator: longer than any body that a service takes."""

MAX_RECORDED_BYTES = 512 * 2**20
"""Of all recorded requests, as in the load generator: images are large, and the engine is a guest where it runs."""

BUSY = (408, 429)
"""What a service says that would take the request at another time."""

REFUSED: Literal["refused"] = "refused"

_Answer = Ranking | Labels | Literal["refused"] | None
"""None where there was no answer, or a failure."""

_Outcome = Pair | Literal["canary", "stable"]
"""Both answered, or one of them refused what the other took."""


def read_recorded(path: Path, most: int) -> list[Asked]:
    """Read recorded requests, one JSON body a line (``requests.jsonl``); all candidates are asked for.

    Raises
    ------
    SettingsError
        The file cannot be read, a line is no request on which answers can be compared, or they are too large together.
    """
    found: list[Asked] = []
    size_bytes = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                asked = recorded(json.loads(line))
                if asked is None:
                    raise SettingsError(f"{path}, line {number}: it has neither candidates to rank, nor images with labels or a label set")
                size_bytes += len(asked.body)
                if size_bytes > MAX_RECORDED_BYTES:
                    raise SettingsError(f"{path}: the first {number} lines take over {MAX_RECORDED_BYTES} bytes: compare fewer (requests)")
                found.append(asked)
                if len(found) >= most:
                    break
    except (OSError, ValueError) as error:
        raise SettingsError(f"recorded requests {path} cannot be read: {error}") from error
    if not found:
        raise SettingsError(f"{path} holds no request; answers are compared on recorded requests, one JSON body a line")
    return found


def requests_of(path: Path | None, limits: AnswerLimits | None) -> tuple[list[Asked], Path | None]:
    """Return the recorded requests to compare answers on, and the file to load the arms with; without it requests are made up.

    Images are compared alone: each is asked once, which does for a verdict on answers and is far from what a load takes.

    Raises
    ------
    SettingsError
        As `read_recorded`; or there are images, and no answers are compared.
    """
    if path is None:
        return [], None
    found = read_recorded(path, 1 if limits is None else limits.requests)
    ranks = all(asked.ranks for asked in found)
    if limits is None and not ranks:
        raise SettingsError(f"{path}: classifications are compared, not sent as a load, and the plan has no table [answers] for that")
    return [] if limits is None else found, path if ranks else None


def _lines(file: Any) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        if line.strip():
            yield line


class Comparer:
    """Compares canaries with another arm.

    Parameters
    ----------
    host
        Address of the proxy or gateway, ``http://…``, which tells arms by header.
    asked
        Requests, each asked once; may wait for the next.
    arms
        The canaries, and last what they are compared with.
    top_k
        Places of the ranking that are compared.
    rate_per_s
        Requests to each arm.
    addresses
        Where an arm is reached by itself.
    """

    def __init__(
        self,
        host: str,
        asked: Iterable[Asked],
        arms: Sequence[Arm],
        top_k: int,
        rate_per_s: float,
        addresses: Mapping[Arm, str] | None = None,
    ) -> None:
        self._urls = {arm: urllib.parse.urlsplit((addresses or {}).get(arm, host)) for arm in arms}
        self._asked, self._arms, self._top_k, self._pause_s = asked, tuple(arms), top_k, 1 / rate_per_s
        self._found: dict[Arm, list[_Outcome]] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="compare answers", daemon=True)
        self._thread.start()

    def take(self) -> dict[Arm, Answers]:
        """Return what has come since the last time, of each canary that there is something of."""
        with self._lock:
            found, self._found = self._found, {}
        return {arm: _answers(outcomes) for arm, outcomes in found.items()}

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join(2 * TIMEOUT_S)

    def _run(self) -> None:
        due_s = time.monotonic()
        *canaries, beside = self._arms
        for number, asked in enumerate(self._asked):
            # Who is asked first changes: those after it may find caches warm.
            first = number % len(self._arms)
            answers = {arm: self._ask(asked, arm) for arm in (*self._arms[first:], *self._arms[:first])}
            for canary in canaries:
                outcome = _outcome(answers[beside], answers[canary], self._top_k)
                if outcome is not None:
                    with self._lock:
                        self._found.setdefault(canary, []).append(outcome)
            due_s = max(due_s + self._pause_s, time.monotonic() - self._pause_s)
            if self._stop.wait(max(due_s - time.monotonic(), 0.0) if None not in answers.values() else BACKOFF_S):
                return

    def _ask(self, asked: Asked, arm: Arm) -> _Answer:
        """What an arm says; failures are counted by those who load the arms."""
        url = self._urls[arm]
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        headers = {"content-type": asked.media, ARM_HEADER: arm}
        if asked.authorization is not None:
            headers["authorization"] = asked.authorization
        with closing(kind(url.netloc, timeout=TIMEOUT_S)) as connection:
            try:
                connection.request("POST", asked.path, asked.body, headers)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, ValueError, http.client.HTTPException):
                return None
        if answer.status == 200:
            return answer_to(asked, content) or REFUSED
        return REFUSED if 400 <= answer.status < 500 and answer.status not in BUSY else None


def _answers(outcomes: Sequence[_Outcome]) -> Answers:
    pairs = [outcome for outcome in outcomes if isinstance(outcome, Pair)]
    return Answers(
        stable_scores=np.array([score for pair in pairs for score in pair.stable]),
        canary_scores=np.array([score for pair in pairs for score in pair.canary]),
        sizes=np.array([len(pair.stable) for pair in pairs], dtype=np.int64),
        overlap=np.array([pair.overlap for pair in pairs]),
        images=np.array([pair.labels for pair in pairs], dtype=np.bool_),
        refused=np.array([(outcome == "canary", outcome == "stable") for outcome in outcomes], dtype=np.bool_).reshape(-1, 2),
    )


def _outcome(stable: _Answer, canary: _Answer, top_k: int) -> _Outcome | None:
    """Compare what both said; None where one was not there to answer, or both refuse."""
    if stable is None or canary is None or stable == canary == REFUSED:
        return None
    if stable == REFUSED:
        return "stable"
    return "canary" if canary == REFUSED else compare(stable, canary, top_k) or "canary"
