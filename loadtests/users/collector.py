"""Where the samples of a test come together: in the only process, or in the master."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from loadtests.recorder import Recorder
from loadtests.samples import Samples, joined


class Stream(Protocol):
    """Takes down chunks while the load runs."""

    def add(self, samples: Samples) -> None:
        """Write a chunk."""
        ...

    def end(self, whole: Samples) -> None:
        """Say that this was all."""
        ...


class Collector:
    """Joins what the senders hand over.

    Parameters
    ----------
    stream
        Where chunks go while the load runs; None writes none.
    senders
        How many hand over.
    """

    def __init__(self, stream: Stream | None, senders: int) -> None:
        self._parts: list[Samples] = []
        self._fresh: list[Samples] = []
        self._writer = stream
        self._senders = senders
        self._writing = Semaphore()
        self.started_at = datetime.now(UTC)
        self.done = Event()
        """All have handed over their last."""

    def add(self, samples: Samples, *, last: bool) -> None:
        """Take samples in; blocks the calling greenlet, but no other, while a chunk is written."""
        self._parts.append(samples)
        self._fresh.append(samples)
        self._senders -= last
        with self._writing:
            if self._writer is not None and self._fresh and len(self._fresh) >= self._senders:
                fresh, self._fresh = self._fresh, []
                # Synced to the disk in a thread: that takes milliseconds, in which requests are due.
                gevent.get_hub().threadpool.apply(self._writer.add, (joined(fresh),))
            if self._senders == 0 and not self.done.is_set():
                if self._writer is not None:
                    self._writer.end(self.samples())
                self.done.set()

    def lose(self, missing: int) -> None:
        """Take in that a sender has gone, with `missing` requests of its share not told of."""
        self.add(replace(Recorder(()).samples(), lost_workers=1, unanswered=missing), last=True)

    def samples(self) -> Samples:
        """Everything so far."""
        return joined(self._parts)
