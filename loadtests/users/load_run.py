"""One test in one process that sends: its source, its schedule, its samples."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import gevent
from gevent.event import Event

from loadtests.arms import ARM_HEADER, Arm, interleave
from loadtests.calls import Call, CallSource
from loadtests.recorder import Recorder
from loadtests.samples import Samples
from loadtests.users.dispatch import Dispatcher, Due, Share

logger = logging.getLogger("pilotage.loadtest")

TIMEOUT_S = 10.0
"""No answer after this is a failure. Whoever waits for a page with a ranking has left by then, and a test of some seconds has to end."""

LAST_ANSWERS_S = TIMEOUT_S + 1
"""Requests under way at the end are waited for: cutting them off would drop the slowest of all."""

CHUNK_S = 1.0
"""Between hand-overs of samples. Putting a thousand rows together takes a fraction of a millisecond."""


class LoadRun:
    """From the first request to the last answer.

    Parameters
    ----------
    host
        Address of the service, where an arm has none of its own.
    source
        Gives calls and judges answers.
    arms
        Where they go.
    seed
        Of the interleave; the same in all processes of a test.
    open_loop
        Whether latency counts from the intended start.
    """

    def __init__(self, host: str, source: CallSource, arms: Sequence[Arm], seed: int, *, open_loop: bool) -> None:
        self._host, self.source, self.open_loop = host, source, open_loop
        self._arms = tuple(arms)
        self._dealt: list[int] = interleave(len(arms), seed).tolist()
        self.recorder = Recorder([arm.name for arm in arms], open_loop=open_loop)
        self.dispatcher = Dispatcher()
        self.handed_over = Event()
        """All samples are delivered."""
        self._ended = Event()
        self._is_cut_short = False
        self._handed_on = 0
        self._began_s = 0.0
        self._sender: gevent.Greenlet | None = None

    def begin(self, share: Share, lead_s: float, deliver: Callable[[Samples, bool], None]) -> None:
        """Begin to send after `lead_s`.

        Parameters
        ----------
        deliver
            Is handed the samples of about a second, and whether they are the last.
        """
        # What lives now will live on: without it, no collection has much to look through while the load runs.
        gc.collect()
        gc.freeze()
        self._began_s = time.monotonic() + lead_s
        self._sender = gevent.spawn(self.dispatcher.run, share, self._began_s)
        gevent.spawn(self._await_end)
        gevent.spawn(self._hand_on, deliver)

    def halt(self) -> None:
        """Send nothing more; answers under way are still waited for."""
        self.dispatcher.halt()
        if self._sender is not None and not self._sender.ready():
            self._is_cut_short = True
            self._sender.kill(block=False)

    @property
    def is_begun(self) -> bool:
        """Whether there is a schedule."""
        return self._sender is not None

    def now_s(self) -> float:
        """Seconds since the start of the test."""
        return time.monotonic() - self._began_s

    def arm(self, due: Due) -> int:
        """Return the number of the arm that a request goes to."""
        return self._dealt[due.index % len(self._dealt)]

    def target(self, call: Call, number: int) -> tuple[str, str, dict[str, str]]:
        """Return name, address of the service and headers of a call to an arm."""
        arm = self._arms[number]
        headers = dict(call.headers)
        if arm.header is not None:
            headers[ARM_HEADER] = arm.header
        name = call.endpoint if len(self._arms) == 1 else f"{call.endpoint} {arm.name}"
        return name, arm.host or self._host, headers

    def _await_end(self) -> None:
        assert self._sender is not None
        self._sender.join()
        until_s = time.monotonic() + LAST_ANSWERS_S
        while len(self.recorder) < self._to_come() and time.monotonic() < until_s:
            gevent.sleep(0.01)
        self.dispatcher.halt()
        self._ended.set()

    def _to_come(self) -> int:
        """Answers to wait for: of all that was due, or, once somebody has ended the test, of what was sent."""
        return self.recorder.sent if self._is_cut_short else self.dispatcher.given

    def _hand_on(self, deliver: Callable[[Samples, bool], None]) -> None:
        while not self._ended.wait(CHUNK_S):
            deliver(self._chunk(), False)
        last = replace(
            self._chunk(),
            unanswered=self.recorder.sent - len(self.recorder),
            unsent=self.dispatcher.given - self.recorder.sent,
            starved=self.dispatcher.starved,
            cut_short=self._is_cut_short,
        )
        deliver(last, True)
        self.handed_over.set()

    def _chunk(self) -> Samples:
        first, self._handed_on = self._handed_on, len(self.recorder)
        return self.recorder.chunk(first)
