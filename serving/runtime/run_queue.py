"""Requests wait here for their run: admitted by measured service time, stacked when that is faster, dropped when nobody waits.

One queue belongs to one model and lives on the event loop's thread, like the runs themselves: a run of a millisecond costs less
there than its hand-over to another thread. So a request never waits for company: what arrived while the last run was busy is
what the next one may stack.

*When to stack.* Taking one more request into a run delays the requests in it by what the run grows, and saves for every request
from it on what its own run would have cost more. It is taken while the saving is the larger: that lowers the mean time to an
answer, and with one request waiting it stacks nothing. Both come from measured runs, stacked ones too: joining arrays is not free, and
a run that outgrows the core's cache is slower a candidate than two that do not.

*When to read.* A turn runs all that waits, then the loop reads its sockets. One run a turn would let a flood that must be refused
take the core from what was accepted: reading and refusing a hundred requests costs more than a run.

*Whom to admit.* The time to an answer is at most: what the request may have waited unseen in its socket while the loop was busy, what is
left of reading the other sockets, and the runs that wait with its own, times what a turn takes beside its runs, as
measured. It is refused when that comes near the objective or would pass its own deadline. With nobody waiting it is always taken: one
large request may need longer than the objective, and would otherwise never be served.
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

INFINITY = float("inf")

MAX_WAITING = 1024
"""Most requests that wait, whatever the predictions say."""

MEMORY = 64
"""Turns over which the ratio of a turn's time to its predicted runs forgets."""

HEADROOM = 0.9
"""Share of the objective that a prediction may fill: at three times saturation the slowest hundredth took up to a tenth longer than the
objective, to which all were predicted."""

FIRST_RATIO = 1.5
"""Before any turn was measured: encoding and sending 500 answers' probabilities measured half of their run."""


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

    __slots__ = ("admitted_s", "cost_s", "deadline_s", "deliver", "gone", "item", "run_ended_s", "run_started_s", "units")

    def __init__(self, units: float, deadline_s: float, gone: Callable[[], bool], cost_s: float, now_s: float) -> None:
        self.units = units
        self.deadline_s = deadline_s
        self.gone = gone
        self.cost_s = cost_s
        self.admitted_s = now_s
        self.run_started_s = self.run_ended_s = 0.0
        self.item: Item | None = None
        self.deliver: Callable[[Result | Exception], None] | None = None


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
        self._longest_s = HEADROOM * objective_s
        self.max_units = max_units
        self._waiting: deque[Ticket[Item, Result]] = deque()
        self._admitted = 0
        self._backlog_s = 0.0  # predicted run time of all that are admitted and not yet run
        self._scheduled = False
        self._read_from_s = 0.0  # when the loop began to read its sockets: the end of the last turn, or a first request after idling
        self._busy_s = 0.0  # what reading and running took the last time round
        self._reading_s = 0.0  # of that, reading
        self._ratio = FIRST_RATIO
        self._overloaded = Overloaded(
            f"the requests that wait need longer than the objective of {objective_s:g} s; ask again later, or another replica"
        )

    @property
    def waiting(self) -> int:
        """Requests that were admitted and not yet run."""
        return self._admitted

    @property
    def ratio(self) -> float:
        """Time of a turn ÷ predicted time of its runs, measured."""
        return self._ratio

    def refusal(self, units: float, deadline_s: float = INFINITY) -> Overloaded | DeadlineExceeded | None:
        """Tell early whether a request would be refused, before its body is there, and what `admit` would raise.

        Under overload this is asked for most requests: what it says then is made once, and nothing is raised.
        """
        if not self._admitted and deadline_s == INFINITY:
            return None
        return self._refuses(self.cost.predict(units), deadline_s, time.perf_counter())

    def admit(self, units: float, deadline_s: float = INFINITY, gone: Callable[[], bool] = lambda: False) -> Ticket[Item, Result]:
        """Take a request in before any work is spent on it. It must come to `put` or `abandon` in the same turn of the loop.

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
        cost_s = self.cost.predict(units)
        refusal = self._refuses(cost_s, deadline_s, now)
        if refusal is not None:
            raise type(refusal)(str(refusal))  # the one for overload is made once: raised, it would keep the frames that it passed
        if not self._admitted:
            self._began(now)
        self._admitted += 1
        self._backlog_s += cost_s
        return Ticket(units, deadline_s, gone, cost_s, now)

    def abandon(self, ticket: Ticket[Item, Result]) -> None:
        """Give up an admitted request that never came to `put`: its body broke a rule."""
        self._release(ticket)

    def put(self, ticket: Ticket[Item, Result], item: Item, units: int, deliver: Callable[[Result | Exception], None]) -> None:
        """Let an admitted request wait for its run.

        Parameters
        ----------
        units
            Its true size.
        deliver
            Called once, on the loop's thread: with the result, or with what became of the request. `DeadlineExceeded` says that
            its deadline would have passed before the run's end, `CallerGone` that nobody waits for it; neither was run.
            Anything else is why the run failed.
        """
        ticket.item = item
        ticket.units = units
        ticket.deliver = deliver
        self._waiting.append(ticket)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _refuses(self, cost_s: float, deadline_s: float, now_s: float) -> Overloaded | DeadlineExceeded | None:
        """Why a request whose run takes `cost_s` is not taken in; None when it is."""
        run_s = (self._backlog_s + cost_s) * self._ratio
        if now_s + run_s > deadline_s:
            return DeadlineExceeded(
                f"the answer would take some {run_s * 1e3:.1f} ms, the deadline is in {(deadline_s - now_s) * 1e3:.1f} ms"
            )
        if self._admitted and (self._admitted >= MAX_WAITING or self._unread_s(now_s) + run_s > self._longest_s):
            return self._overloaded
        return None

    def _unread_s(self, now_s: float) -> float:
        """How long a request may have waited in its socket and will wait until the others are read."""
        return self._busy_s + max(now_s - self._read_from_s, self._reading_s)  # unseen: busy + read; to be read: the rest of reading

    def _release(self, ticket: Ticket[Item, Result]) -> None:
        self._admitted -= 1
        self._backlog_s = self._backlog_s - ticket.cost_s if self._admitted else 0.0

    def _began(self, now_s: float) -> None:
        """Note the first request that waits since the last turn: if the loop idled before it, nothing has waited unseen."""
        if now_s - self._read_from_s > self._reading_s:
            self._read_from_s = now_s
            self._busy_s = self._reading_s = 0.0

    def _turn(self) -> None:
        """Run all that waits; then the loop reads its sockets."""
        began_s = time.perf_counter()
        self._reading_s = began_s - self._read_from_s
        predicted_s = 0.0
        now_s = began_s
        while self._waiting:
            batch = self._next_batch(now_s)
            if batch:
                predicted_s += self._run_batch(batch)
            now_s = time.perf_counter()
        self._scheduled = False
        ended_s = now_s
        if predicted_s:
            self._ratio += ((ended_s - began_s) / predicted_s - self._ratio) / MEMORY
        self._busy_s = ended_s - self._read_from_s
        self._read_from_s = ended_s

    def _next_batch(self, now: float) -> list[Ticket[Item, Result]]:
        batch: list[Ticket[Item, Result]] = []
        total = 0.0
        while self._waiting:
            ticket = self._waiting[0]
            if batch:
                joined = total + ticket.units
                joined_s = self.cost.predict(joined, len(batch) + 1)
                grows_s = joined_s - self.cost.predict(total, len(batch))
                saves_s = self.cost.predict(ticket.units) - grows_s
                if joined > self.max_units or grows_s * len(batch) > saves_s * len(self._waiting):
                    break
            self._waiting.popleft()
            self._release(ticket)
            refusal = self._refusal(ticket, now)
            if refusal is None:
                batch.append(ticket)
                total += ticket.units
            else:
                _deliver(ticket, refusal)
        return batch

    def _refusal(self, ticket: Ticket[Item, Result], now_s: float) -> Exception | None:
        """Why a request is not worth running any more."""
        if ticket.deadline_s != INFINITY and now_s + self.cost.predict(ticket.units) > ticket.deadline_s:
            return DeadlineExceeded(f"the deadline passed after {(now_s - ticket.admitted_s) * 1e3:.1f} ms in the queue")
        if ticket.gone():
            return CallerGone("the caller closed the connection")
        return None

    def _run_batch(self, batch: Sequence[Ticket[Item, Result]]) -> float:
        """Run, deliver and learn; how long it was predicted to take."""
        started = time.perf_counter()
        results: Sequence[Result | Exception]
        try:
            results = self._run([ticket.item for ticket in batch])  # type: ignore[misc]  # `run` has set it
        except Exception as error:
            if len(batch) > 1:  # one request must not take its neighbours with it
                return sum(self._run_batch([ticket]) for ticket in batch)
            results = [error]
        ended = time.perf_counter()
        predicted_s = self.cost.observe(sum([ticket.units for ticket in batch]), ended - started, len(batch))
        self._on_run(len(batch))
        for ticket, result in zip(batch, results, strict=True):
            ticket.run_started_s, ticket.run_ended_s = started, ended
            _deliver(ticket, result)
        return predicted_s


def _deliver(ticket: Ticket[Item, Result], result: Result | Exception) -> None:
    deliver, ticket.deliver = ticket.deliver, None  # it knows the ticket: kept, the two would be garbage for the collector
    assert deliver is not None  # `put` has set it
    deliver(result)
