"""Requests wait here for their run: admitted by measured service time, stacked when that is faster, dropped when nobody waits.

One queue belongs to one model and lives on the event loop's thread, like the runs themselves: a run of a millisecond costs less
there than its hand-over to another thread. So a request never waits for company: what arrived while the last run was busy is
what the next one may stack.

*When to stack.* With a run costing ``fixed + per_unit * units``, taking one more request of ``u`` units into a run of ``k``
requests delays those ``k`` by ``per_unit * u`` each and saves ``fixed`` for every request from it on. It is taken while the
saving is the larger: that lowers the mean time to an answer, and with one request waiting it stacks nothing.

*Whom to admit.* The time to an answer is predicted from the runs that wait, times the measured ratio of answer time to run time
(which holds decoding, encoding and HTTP), plus the time that the request may have waited unseen in the socket while the loop was
busy. It is refused when that passes the objective or its own deadline. With nobody waiting it is always taken: one large
request may need longer than the objective, and would otherwise never be served.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from serving.contract.errors import CallerGone, DeadlineExceeded, Overloaded
from serving.runtime.cost import CostModel

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WAITING = 1024
"""Most requests that wait, whatever the predictions say."""

MEMORY = 64
"""Answers over which the ratio of answer time to run time forgets."""

FIRST_RATIO = 2.0
"""Answer time ÷ run time before any was measured: 500 candidates measured 2.2 ms against 1.0 ms of run."""


class Ticket(Generic[Item, Result]):
    """One admitted request.

    Attributes
    ----------
    units
        Its size: an estimate until `RunQueue.run` is told the true one.
    deadline_s
        On `time.perf_counter`'s clock; infinity when the caller set none.
    run_started_s, run_ended_s
        When its run began and ended.
    """

    __slots__ = ("admitted_s", "ahead_s", "cost_s", "deadline_s", "future", "gone", "item", "run_ended_s", "run_started_s", "units")

    def __init__(self, units: float, deadline_s: float, gone: Callable[[], bool], cost_s: float, ahead_s: float, now_s: float) -> None:
        self.units = units
        self.deadline_s = deadline_s
        self.gone = gone
        self.cost_s = cost_s
        self.ahead_s = ahead_s
        self.admitted_s = now_s
        self.run_started_s = self.run_ended_s = 0.0
        self.item: Item | None = None
        self.future: asyncio.Future[Result] | None = None


class RunQueue(Generic[Item, Result]):
    """The queue before one model.

    Parameters
    ----------
    run
        Runs several items at once and returns their results in the same order; a result may be an exception.
    cost
        Seconds of a run by its units.
    objective_s
        Time within which an admitted request shall be answered.
    max_units
        Most units stacked into one run. A larger request runs alone.
    on_run
        Told how many requests each run had.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        cost: CostModel,
        *,
        objective_s: float,
        max_units: int,
        on_run: Callable[[int], None] = lambda requests: None,
    ) -> None:
        self._run = run
        self._on_run = on_run
        self.cost = cost
        self.objective_s = objective_s
        self.max_units = max_units
        self._waiting: deque[Ticket[Item, Result]] = deque()
        self._admitted = 0
        self._backlog_s = 0.0  # predicted run time of all that are admitted and not yet run
        self._scheduled = False
        self._turn_began_s = self._turn_ended_s = 0.0
        self._last_turn_s = 0.0
        self._answer_s, self._ahead_s = FIRST_RATIO, 1.0  # exponentially forgotten sums, whose ratio is what counts

    @property
    def waiting(self) -> int:
        """Requests that were admitted and not yet run."""
        return self._admitted

    @property
    def ratio(self) -> float:
        """Answer time ÷ predicted run time, measured."""
        return self._answer_s / self._ahead_s

    def admit(self, units: float, deadline_s: float = float("inf"), gone: Callable[[], bool] = lambda: False) -> Ticket[Item, Result]:
        """Take a request in before any work is spent on it.

        Parameters
        ----------
        units
            Its likely size.
        gone
            Says whether its caller has left.

        Raises
        ------
        Overloaded
            It would not be answered within the objective.
        DeadlineExceeded
            It would not be answered before its deadline.
        """
        now = time.perf_counter()
        if now - self._turn_ended_s > self._last_turn_s:
            self._last_turn_s = 0.0  # the loop was idle meanwhile: nothing waited unseen
        cost_s = self.cost.predict(units)
        ahead_s = self._backlog_s + cost_s
        wait_s = ahead_s * self.ratio
        if now + wait_s > deadline_s:
            raise DeadlineExceeded(
                f"the answer would take some {wait_s * 1e3:.1f} ms, the deadline is in {(deadline_s - now) * 1e3:.1f} ms"
            )
        if self._admitted:
            unseen_s = self._last_turn_s + (now - self._turn_began_s)
            if self._admitted >= MAX_WAITING or unseen_s + wait_s > self.objective_s:
                raise Overloaded(
                    f"{self._admitted} requests wait, the answer would take longer than the objective of {self.objective_s:g} s"
                )
        else:
            self._turn_began_s = now
        self._admitted += 1
        self._backlog_s += cost_s
        return Ticket(units, deadline_s, gone, cost_s, ahead_s, now)

    def abandon(self, ticket: Ticket[Item, Result]) -> None:
        """Give up an admitted request that never came to `run`: its body broke a rule, or its caller left."""
        if ticket.future is None:
            self._release(ticket)

    async def run(self, ticket: Ticket[Item, Result], item: Item, units: int) -> Result:
        """Wait for the run of an admitted request.

        Raises
        ------
        DeadlineExceeded
            Its deadline would pass before the run's end; it was not run.
        CallerGone
            Its caller left; it was not run.
        ServingError
            The run failed.
        """
        loop = asyncio.get_running_loop()
        ticket.item = item
        ticket.units = units
        ticket.future = loop.create_future()
        self._waiting.append(ticket)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn)
        return await ticket.future

    def answered(self, ticket: Ticket[Item, Result]) -> None:
        """Learn how long an answer took, all told."""
        keep = 1 - 1 / MEMORY
        self._answer_s = self._answer_s * keep + (time.perf_counter() - ticket.admitted_s)
        self._ahead_s = self._ahead_s * keep + ticket.ahead_s

    def _release(self, ticket: Ticket[Item, Result]) -> None:
        self._admitted -= 1
        self._backlog_s = self._backlog_s - ticket.cost_s if self._admitted else 0.0

    def _turn(self) -> None:
        """One run; then the loop reads its sockets before the next."""
        self._scheduled = False
        batch = self._next_batch()
        if batch:
            self._run_batch(batch)
        if self._waiting:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)
        now = time.perf_counter()
        self._last_turn_s = now - self._turn_began_s
        self._turn_began_s = self._turn_ended_s = now

    def _next_batch(self) -> list[Ticket[Item, Result]]:
        batch: list[Ticket[Item, Result]] = []
        total = 0.0
        now = time.perf_counter()
        while self._waiting:
            ticket = self._waiting[0]
            if batch:
                joined = total + ticket.units
                delay_s = self.cost.per_unit * ticket.units * len(batch)
                if joined > self.max_units or delay_s > self.cost.fixed * len(self._waiting):
                    break
            self._waiting.popleft()
            self._release(ticket)
            refusal = self._refusal(ticket, now)
            if refusal is None:
                batch.append(ticket)
                total += ticket.units
            elif ticket.future is not None and not ticket.future.done():
                ticket.future.set_exception(refusal)
        return batch

    def _refusal(self, ticket: Ticket[Item, Result], now_s: float) -> Exception | None:
        """Why a request is not worth running any more."""
        if ticket.future is None or ticket.future.done():
            return CallerGone("the request was cancelled")
        if now_s + self.cost.predict(ticket.units) > ticket.deadline_s:
            return DeadlineExceeded(f"the deadline passed after {(now_s - ticket.admitted_s) * 1e3:.1f} ms in the queue")
        if ticket.gone():
            return CallerGone("the caller closed the connection")
        return None

    def _run_batch(self, batch: Sequence[Ticket[Item, Result]]) -> None:
        started = time.perf_counter()
        results: Sequence[Result | Exception]
        try:
            results = self._run([ticket.item for ticket in batch])  # type: ignore[misc]  # `run` has set it
        except Exception as error:
            if len(batch) > 1:  # one request must not take its neighbours with it
                for ticket in batch:
                    self._run_batch([ticket])
                return
            results = [error]
        ended = time.perf_counter()
        self.cost.observe(int(sum(ticket.units for ticket in batch)), ended - started)
        self._on_run(len(batch))
        for ticket, result in zip(batch, results, strict=True):
            ticket.run_started_s, ticket.run_ended_s = started, ended
            assert ticket.future is not None
            if ticket.future.done():
                continue
            if isinstance(result, Exception):
                ticket.future.set_exception(result)
            else:
                ticket.future.set_result(result)
