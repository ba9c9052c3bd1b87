"""Copies of live requests that wait to be scored by all arms: in memory, within bounds, and nowhere else.

Bodies are what users sent, and some come with a token: neither is ever shown, logged or written.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterator

from k8s.rollout.questions import Asked

MAX_WAITING = 200
"""Copies that wait. At 40 a second, which is the default, these are the last five seconds' where no more come than are asked."""

MAX_WAITING_BYTES = 32 * 2**20
"""Of all bodies that wait: two of the largest that are taken, thousands of common ones."""

DROPPED, NO_CANDIDATES = "more than are compared", "without candidates"


class Copies:
    """Waits for copies, and gives them away by chance: which of too many are asked has nothing to do with when or how they came.

    Threads may call all of it.

    Parameters
    ----------
    most, most_bytes
        That wait; beyond it the oldest goes.
    """

    def __init__(self, most: int = MAX_WAITING, most_bytes: int = MAX_WAITING_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: list[Asked] = []
        self._bytes, self._closed = 0, False
        self._changed = threading.Condition()
        self._came = 0
        self._left: Counter[str] = Counter()

    def add(self, asked: Asked) -> None:
        """Keep a copy until it is asked, or the oldest of too many."""
        with self._changed:
            self._came += 1
            if self._closed:
                self._left[DROPPED] += 1
                return
            self._waiting.append(asked)
            self._bytes += len(asked.body)
            while len(self._waiting) > self._most or self._bytes > self._most_bytes:
                self._remove(0)
                self._left[DROPPED] += 1
            self._changed.notify()

    def leave(self, why: str) -> None:
        """Count a copy that is not kept."""
        with self._changed:
            self._came += 1
            self._left[why] += 1

    def draw(self, most: int) -> Iterator[Asked]:
        """Yield so many requests, each by chance among those that wait, and wait for more; none come after `close`."""
        drawn = 0
        while drawn < most and (copy := self._next()) is not None:
            whole = copy.whole()
            if whole is None:
                with self._changed:
                    self._left[NO_CANDIDATES] += 1
                continue
            drawn += 1
            yield whole
        self.close()

    def close(self) -> None:
        """Forget what waits, and take nothing more."""
        with self._changed:
            self._closed = True
            self._left[DROPPED] += len(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            self._changed.notify_all()

    @property
    def came(self) -> int:
        """How many came."""
        return self._came

    def __str__(self) -> str:
        """Say how many came, and what became of them, in words."""
        with self._changed:
            left = "".join(f", {count:,} left: {why}" for why, count in sorted(self._left.items()) if count)
            return f"{self._came:,} copies of live requests{left}"

    def _next(self) -> Asked | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._remove(secrets.randbelow(len(self._waiting))) if self._waiting else None

    def _remove(self, place: int) -> Asked:
        asked = self._waiting.pop(place)
        self._bytes -= len(asked.body)
        return asked
