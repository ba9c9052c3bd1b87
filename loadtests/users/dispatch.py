"""Who sends what when: hands requests to users at their intended times.

Users that are free lie on a stack, so that as few as possible are in use: connections stay warm, and no more are opened than there are
requests under way. A request whose time comes when no user is free waits, and is counted; its latency counts from its time all the same.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from gevent.event import AsyncResult, Event
from numpy.typing import NDArray

from loadtests.users.alarm import Alarm


@dataclass(frozen=True)
class Share:
    """What one generator process is to send: requests ``first, first + step, …`` of the whole test.

    Attributes
    ----------
    starts_s
        ``(N,) float64``, intended starts; None is a closed loop.
    count, duration_s
        End of a closed loop: after so many requests or seconds; None is no such end.
    """

    first: int = 0
    step: int = 1
    starts_s: NDArray[np.float64] | None = None
    count: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """A request to be sent now; `intended_s` counts from the start of the test."""

    index: int
    intended_s: float


class Dispatcher:
    """Of one test in one process."""

    def __init__(self) -> None:
        self._share, self._began_s = Share(), 0.0
        self._began, self._halted = Event(), Event()
        self._free: list[AsyncResult] = []
        self._backlog: deque[Due] = deque()
        self.given = 0
        """Requests whose time has come."""
        self.starved = 0
        """Of them, those that found no free user."""

    def take(self) -> Due:
        """Wait for a request; called by a user that is free. Never returns when there is nothing more to send."""
        if self._backlog and not self._halted.is_set():
            return self._backlog.popleft()
        self._began.wait()
        if self._share.starts_s is None:
            return self._next()
        mine = AsyncResult()
        self._free.append(mine)
        try:
            due: Due = mine.get()
        except BaseException:  # this user is stopped: nothing may be given to it
            if mine in self._free:
                self._free.remove(mine)
            raise
        return due

    def run(self, share: Share, began_s: float) -> None:
        """Give out a share, from the moment `began_s` of the monotonic clock; returns when the last was given or somebody halts."""
        self._share, self._began_s = share, began_s
        alarm = Alarm()
        try:
            if share.starts_s is None:
                alarm.wait_until(began_s)
                self._began.set()
                self._halted.wait(share.duration_s)
                self._halted.set()
                return
            self._began.set()
            for number, start_s in enumerate(share.starts_s.tolist()):
                alarm.wait_until(began_s + start_s)
                if self._halted.is_set():
                    return
                self._give(Due(share.first + number * share.step, start_s))
        finally:
            alarm.close()

    def halt(self) -> None:
        """Give out nothing more."""
        self._halted.set()

    def _give(self, due: Due) -> None:
        self.given += 1
        if self._free:
            self._free.pop().set(due)
        else:
            self.starved += 1
            self._backlog.append(due)

    def _next(self) -> Due:
        """Return the next request of a closed loop, which is due at once."""
        share, number = self._share, self.given
        if self._halted.is_set() or (share.count is not None and number >= share.count):
            self._halted.set()
            Event().wait()
        self.given += 1
        return Due(share.first + number * share.step, time.monotonic() - self._began_s)
