"""Whom to admit to a model whose runs take tens of milliseconds, and how long its answer would take.

As in `serving.runtime.run_queue`, a request is refused at once when its answer would pass the objective or its own deadline. Here runs
happen on another thread while the event loop reads on, so that the prediction is plain: the work of all that were admitted and not yet
answered, with its own. All of it is called on the event loop's thread.
"""

from __future__ import annotations

import time

from serving.contract.errors import DeadlineExceeded, Overloaded
from serving.runtime.cost import CostModel

INFINITY = float("inf")

MAX_WAITING = 256
"""Most requests that are under way, whatever the predictions say: each holds its body."""

MEMORY = 64
"""Requests over which what decoding takes, and how large images are, are forgotten."""

FIRST_READ_S = 0.01
"""Seconds of decoding an image, before any was measured: a noisy photograph of 1024×768 takes PIL 15 ms."""

FIRST_IMAGE_BYTES = 150_000


class Ticket:
    """One admitted request: its predicted work in seconds."""

    __slots__ = ("admitted_s", "work_s")

    def __init__(self, work_s: float, admitted_s: float) -> None:
        self.work_s = work_s
        self.admitted_s = admitted_s


class Admission:
    """The requests of one model that are under way.

    Parameters
    ----------
    cost
        Seconds of a run of the image tower by its images.
    objective_s
        Time within which an admitted request whose labels are known shall be answered.
    """

    def __init__(self, cost: CostModel, objective_s: float) -> None:
        self._cost = cost
        self._objective_s = objective_s
        self._read_s = FIRST_READ_S
        self._image_bytes = float(FIRST_IMAGE_BYTES)
        self._backlog_s = 0.0
        self.waiting = 0

    def refusal(self, body_bytes: int, deadline_s: float = INFINITY) -> Overloaded | DeadlineExceeded | None:
        """Tell early whether a request would be refused, before its body is there, and what `admit` would raise."""
        return self._refuses(self._work_s(body_bytes), deadline_s, time.perf_counter())

    def admit(self, body_bytes: int, deadline_s: float = INFINITY) -> Ticket:
        """Take a request in; it must come to `release`.

        Raises
        ------
        Overloaded
            It would not be answered within the objective.
        DeadlineExceeded
            It would not be answered before its deadline.
        """
        now_s = time.perf_counter()
        work_s = self._work_s(body_bytes)
        if (refusal := self._refuses(work_s, deadline_s, now_s)) is not None:
            raise refusal
        self.waiting += 1
        self._backlog_s += work_s
        return Ticket(work_s, now_s)

    def release(self, ticket: Ticket) -> None:
        """A request was answered, or given up."""
        self.waiting -= 1
        self._backlog_s = self._backlog_s - ticket.work_s if self.waiting else 0.0

    def learn(self, body_bytes: int, images: int, read_s: float) -> None:
        """Follow what requests look like.

        Parameters
        ----------
        images
            In the request; at least one.
        read_s
            What its decoding took.
        """
        self._image_bytes += (body_bytes / images - self._image_bytes) / MEMORY
        self._read_s += (read_s / images - self._read_s) / MEMORY

    def _work_s(self, body_bytes: int) -> float:
        images = max(1.0, body_bytes / self._image_bytes)
        return self._cost.predict(images) + images * self._read_s

    def _refuses(self, work_s: float, deadline_s: float, now_s: float) -> Overloaded | DeadlineExceeded | None:
        wait_s = self._backlog_s + work_s
        if now_s + wait_s > deadline_s:
            return DeadlineExceeded(
                f"the answer would take some {wait_s * 1e3:.0f} ms, the deadline is in {(deadline_s - now_s) * 1e3:.0f} ms"
            )
        if self.waiting and (self.waiting >= MAX_WAITING or wait_s > self._objective_s):
            return Overloaded(
                f"{self.waiting} requests are under way, the answer would take longer than the objective of {self._objective_s:g} s"
            )
        return None
