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
from typing import Any

import numpy as np

from k8s.errors import Refused
from k8s.rollout.answers import top_overlap
from k8s.rollout.copies import Asked, for_all
from k8s.rollout.ports import ARM_HEADER, Answers, Arm

RANK_PATH = "/v1/rank"
TIMEOUT_S = 10.0
"""As the load generator: who waits longer has left."""

BACKOFF_S = 0.5
"""After a request that was not answered, by an arm that is restarted perhaps."""

MAX_LINE_BYTES = 16 * 2**20
"""As in the load generator: longer than any body that a service takes."""

Scores = dict[str | int, float]

Pair = tuple[list[float], list[float], float]
"""Scores of the same candidates, the other arm's and the canary's, and the share of the top that both have."""


def read_bodies(path: Path, most: int) -> list[bytes]:
    """Read recorded requests, one JSON body a line (``requests.jsonl``); all candidates are asked for.

    Raises
    ------
    Refused
        The file cannot be read, or a line is no ranking request.
    """
    bodies = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                body = for_all(json.loads(line))
                if body is None:
                    raise Refused(f"{path}, line {number}: no ranking request, it has no candidates")
                bodies.append(body)
                if len(bodies) >= most:
                    break
    except (OSError, ValueError) as error:
        raise Refused(f"recorded requests {path} cannot be read: {error}") from error
    if not bodies:
        raise Refused(f"{path} holds no request; answers are compared on recorded requests, one JSON body a line")
    return bodies


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
        self._found: dict[Arm, list[Pair]] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="compare answers", daemon=True)
        self._thread.start()

    def take(self) -> dict[Arm, Answers]:
        """Return what has come since the last time, of each canary that there is something of."""
        with self._lock:
            found, self._found = self._found, {}
        return {arm: _answers(pairs) for arm, pairs in found.items()}

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
                pair = compare(answers[beside], answers[canary], self._top_k)
                if pair is not None:
                    with self._lock:
                        self._found.setdefault(canary, []).append(pair)
            due_s = max(due_s + self._pause_s, time.monotonic() - self._pause_s)
            if self._stop.wait(max(due_s - time.monotonic(), 0.0) if None not in answers.values() else BACKOFF_S):
                return

    def _ask(self, asked: Asked, arm: Arm) -> Scores | None:
        """Scores by candidate, in falling order; none where the request was refused, None where there is no good answer.

        Failures are counted by those who load the arms.
        """
        url = self._urls[arm]
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        headers = {"content-type": "application/json", ARM_HEADER: arm}
        if asked.authorization is not None:
            headers["authorization"] = asked.authorization
        with closing(kind(url.netloc, timeout=TIMEOUT_S)) as connection:
            try:
                connection.request("POST", RANK_PATH, asked.body, headers)
                answer = connection.getresponse()
                content = answer.read()
                if 400 <= answer.status < 500:  # the user's own mistake is no reason to wait
                    return {}
                return scores_of(json.loads(content)) if answer.status == 200 else None
            except (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException):
                return None


def _answers(pairs: Sequence[Pair]) -> Answers:
    return Answers(
        stable_scores=np.array([score for stable, _, _ in pairs for score in stable]),
        canary_scores=np.array([score for _, canary, _ in pairs for score in canary]),
        sizes=np.array([len(stable) for stable, _, _ in pairs], dtype=np.int64),
        overlap=np.array([overlap for _, _, overlap in pairs]),
    )


def scores_of(document: Mapping[str, Any]) -> Scores | None:
    """Read the scores out of an answer, the best first; None where candidates cannot be told apart, or one has no probability."""
    ranking = document.get("ranking", [])
    scores = {item["id"]: float(item["probability"]) for item in ranking}
    fit = len(scores) == len(ranking) and all(0.0 <= score <= 1.0 for score in scores.values())
    return scores if fit else None


def compare(stable: Scores | None, canary: Scores | None, top_k: int) -> Pair | None:
    """Put scores of the same candidates side by side, with the share of the top in common; None where there is nothing to compare."""
    if not stable or not canary or stable.keys() != canary.keys():
        return None
    overlap = top_overlap(list(stable), list(canary), top_k)
    return list(stable.values()), [canary[candidate] for candidate in stable], overlap
