"""A source that sends a pool of prepared calls round and round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadtests.calls import LATE, Call

FULL_CHECK_EVERY = 64
"""Answers of which one is held against its request: often enough that a service which mixes requests up is noticed within a
second, and too rare to cost the generator anything."""


class Pool:
    """Prepared calls, sent in their order and then again.

    Parameters
    ----------
    calls
        At least one.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        if not calls:
            raise ValueError("a pool needs at least one call")
        self.calls = tuple(calls)
        self._judged = 0

    def call(self, index: int) -> Call:
        """Return the call of this number."""
        return self.calls[index % len(self.calls)]

    def failure(self, call: Call, status: int, headers: Mapping[str, str], body: bytes, latency_ms: float) -> str | None:
        """Return the kind of failure; one answer in `FULL_CHECK_EVERY`, the first among them, is checked in full."""
        in_full = self._judged % FULL_CHECK_EVERY == 0
        self._judged += 1
        kind = call.check(status, headers, body, in_full=in_full)
        if kind is None and call.deadline_ms is not None and latency_ms > call.deadline_ms:
            return LATE
        return kind
