"""The queue admits by measured time, stacks when that is faster, holds nothing back and drops what nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from serving.contract.errors import CallerGone, DeadlineExceeded, ModelOutputError, Overloaded
from serving.runtime.cost import MAX_STEP, CostModel
from serving.runtime.run_queue import MAX_WAITING, RunQueue, Ticket

SMALL_RUNS = [(1, 0.001), (100, 0.0011)]
"""Hardly more for a hundred than for one: stacking pays."""

LARGE_RUNS = [(1, 0.00001), (100, 0.001)]
"""No fixed cost to speak of: stacking only delays."""


class Runs:
    """A stand-in for the graph that keeps what each run had; an item ``bad`` fails the run it is in."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        self.seen.append(list(items))
        if "bad" in items:
            raise ModelOutputError("the run failed")
        return [ModelOutputError("not finite") if item == "nan" else f"{item}!" for item in items]


def _queue(runs: Runs, samples: list[tuple[int, float]], *, objective_s: float = 10.0, max_units: int = 1000) -> RunQueue[Any, Any]:
    return RunQueue(runs, CostModel(samples), objective_s=objective_s, max_units=max_units)


async def _ask(queue: RunQueue[Any, Any], item: Any, units: int, **how: Any) -> Any:
    return await _put(queue, queue.admit(units, **how), item, units)


async def _put(queue: RunQueue[Any, Any], ticket: Ticket[Any, Any], item: Any, units: int) -> Any:
    delivered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    queue.put(ticket, item, units, delivered.set_result)
    result = await delivered
    if isinstance(result, Exception):
        raise result
    return result


def _together(*calls: Callable[[], Coroutine[Any, Any, Any]]) -> list[Any]:
    async def main() -> list[Any]:
        return list(await asyncio.gather(*(call() for call in calls), return_exceptions=True))

    return asyncio.run(main())


def test_what_comes_together_is_stacked_into_one_run_where_a_run_costs_more_than_its_size() -> None:
    runs = Runs()
    queue = _queue(runs, SMALL_RUNS)
    answers = _together(*(lambda i=i: _ask(queue, i, 10) for i in range(5)))
    assert answers == ["0!", "1!", "2!", "3!", "4!"]
    assert runs.seen == [[0, 1, 2, 3, 4]]


def test_what_comes_together_runs_singly_where_only_the_size_costs() -> None:
    runs = Runs()
    queue = _queue(runs, LARGE_RUNS)
    assert _together(*(lambda i=i: _ask(queue, i, 100) for i in range(3))) == ["0!", "1!", "2!"]
    assert runs.seen == [[0], [1], [2]]


def test_nothing_is_stacked_where_joining_costs_more_than_it_saves() -> None:
    runs = Runs()
    queue = RunQueue(runs, CostModel(SMALL_RUNS, per_joined=0.0011), objective_s=10, max_units=1000)
    assert _together(*(lambda i=i: _ask(queue, i, 10) for i in range(4))) == ["0!", "1!", "2!", "3!"]
    assert runs.seen == [[0], [1], [2], [3]]


def test_a_run_stays_within_its_most_units() -> None:
    runs = Runs()
    queue = _queue(runs, SMALL_RUNS, max_units=25)
    _together(*(lambda i=i: _ask(queue, i, 10) for i in range(5)))
    assert runs.seen == [[0, 1], [2, 3], [4]]


def test_a_request_alone_runs_at_the_next_turn_of_the_loop() -> None:
    runs = Runs()
    queue = _queue(runs, SMALL_RUNS)

    async def main() -> None:
        task = asyncio.create_task(_ask(queue, "a", 1))
        await asyncio.sleep(0)  # the task admits and asks for its run
        assert runs.seen == []
        await asyncio.sleep(0)  # the run, with no timer in between
        assert runs.seen == [["a"]]
        assert await task == "a!"

    asyncio.run(main())


def test_a_failing_run_takes_no_neighbour_with_it() -> None:
    runs = Runs()
    queue = _queue(runs, SMALL_RUNS)
    answers = _together(lambda: _ask(queue, "a", 1), lambda: _ask(queue, "bad", 1), lambda: _ask(queue, "nan", 1))
    assert answers[0] == "a!"
    assert isinstance(answers[1], ModelOutputError)
    assert isinstance(answers[2], ModelOutputError)
    assert queue.waiting == 0


def test_a_request_whose_deadline_cannot_be_met_is_refused_before_any_work() -> None:
    runs = Runs()
    queue = _queue(runs, SMALL_RUNS)
    with pytest.raises(DeadlineExceeded, match="deadline"):
        queue.admit(1, time.perf_counter() + 1e-6)
    assert queue.waiting == 0


def test_a_deadline_that_passes_in_the_queue_is_dropped_before_it_runs() -> None:
    runs = Runs()
    queue = _queue(runs, LARGE_RUNS)

    async def late() -> Any:
        deadline = time.perf_counter() + 0.02
        ticket = queue.admit(1, deadline)
        while time.perf_counter() < deadline:  # the loop is busy elsewhere meanwhile
            pass
        return await _put(queue, ticket, "late", 1)

    (answer,) = _together(late)
    assert isinstance(answer, DeadlineExceeded)
    assert runs.seen == []


def test_work_of_a_caller_who_left_is_not_run() -> None:
    runs = Runs()
    queue = _queue(runs, SMALL_RUNS)
    answers = _together(lambda: _ask(queue, "gone", 1, gone=lambda: True), lambda: _ask(queue, "here", 1))
    assert isinstance(answers[0], CallerGone)
    assert answers[1] == "here!"
    assert runs.seen == [["here"]]


def test_more_than_the_objective_can_bear_is_refused_and_the_rest_is_answered() -> None:
    runs = Runs()
    queue = _queue(runs, [(1, 0.010), (100, 0.010)], objective_s=0.1)
    answers = _together(*(lambda i=i: _ask(queue, i, 1000) for i in range(20)))
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    # Ten milliseconds a run, half as much again for what goes with it until a turn was measured: six fit into a tenth of a second, less
    # what admitting them took.
    assert 20 - len(refused) in (5, 6)
    assert [answer for answer in answers if answer not in refused] == [f"{i}!" for i in range(20 - len(refused))]
    assert queue.waiting == 0


def test_a_request_larger_than_the_objective_is_taken_when_nobody_waits() -> None:
    runs = Runs()
    queue = _queue(runs, [(1, 1.0)], objective_s=0.01)
    assert _together(lambda: _ask(queue, "large", 1)) == ["large!"]


def test_what_would_be_refused_is_told_before_its_body_is_there_and_takes_no_place() -> None:
    queue = _queue(Runs(), [(1, 0.010), (100, 0.010)], objective_s=0.1)
    for _ in range(100):
        assert queue.refusal(1000) is None
    assert queue.waiting == 0
    assert isinstance(queue.refusal(1000, time.perf_counter() + 1e-6), DeadlineExceeded)
    while True:
        try:
            queue.admit(1000)
        except Overloaded:
            break
    assert isinstance(queue.refusal(1000), Overloaded)
    assert "objective of 0.1 s" in str(queue.refusal(1000))


def test_refusing_again_and_again_keeps_no_frames() -> None:
    queue = _queue(Runs(), [(1, 0.010), (100, 0.010)], objective_s=0.02)
    for _ in range(10):
        with contextlib.suppress(Overloaded):
            queue.admit(1000)
    told = queue.refusal(1000)
    assert told is not None
    assert told is queue.refusal(1000)
    assert told.__traceback__ is None


def test_the_queue_is_bounded_whatever_the_predictions_say() -> None:
    queue = _queue(Runs(), [(1, 1e-12)])
    tickets = [queue.admit(1) for _ in range(MAX_WAITING)]
    with pytest.raises(Overloaded):
        queue.admit(1)
    for ticket in tickets:
        queue.abandon(ticket)
    assert queue.waiting == 0


def test_an_admitted_request_that_never_runs_gives_its_place_back() -> None:
    queue = _queue(Runs(), [(1, 0.010)], objective_s=0.1)
    for _ in range(1000):
        queue.abandon(queue.admit(1))
    assert queue.waiting == 0
    queue.admit(1)


def test_the_cost_of_runs_goes_through_the_measured_sizes_and_on_beyond_them() -> None:
    cost = CostModel([(100, 0.011), (1, 0.0011), (500, 0.071)], per_joined=0.002)
    assert cost.predict(1) == pytest.approx(0.0011)
    assert cost.predict(100) == pytest.approx(0.011)
    assert cost.predict(300) == pytest.approx(0.041)
    assert cost.predict(900) == pytest.approx(0.131)
    assert cost.predict(0.2) == pytest.approx(0.0011), "no run takes less than the smallest"
    assert cost.predict(300, requests=3) == pytest.approx(0.045)


def test_more_candidates_are_never_predicted_to_take_less() -> None:
    cost = CostModel([(1, 0.002), (10, 0.001), (100, 0.004)])
    assert cost.predict(10) == pytest.approx(0.002)


def test_one_measured_size_is_taken_in_proportion() -> None:
    cost = CostModel([(10, 0.001)])
    assert [cost.predict(units) for units in (1, 10, 30)] == pytest.approx([0.001, 0.001, 0.003])


def test_the_cost_follows_a_machine_that_became_slower() -> None:
    cost = CostModel([(1, 0.001), (100, 0.002)])
    before = cost.predict(100)
    for _ in range(500):
        cost.observe(100, 0.004)
    assert cost.predict(100) == pytest.approx(2 * before, rel=0.02)


def test_one_stall_moves_the_cost_little() -> None:
    cost = CostModel([(1, 0.001), (100, 0.002)])
    before = cost.predict(100)
    cost.observe(100, 10.0)
    assert cost.predict(100) <= before * (1 + MAX_STEP / 64)
