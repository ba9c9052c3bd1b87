"""The thread of the towers: images first, texts in steps between them, nobody taken along by another's failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serving.clip.tower_thread import INFINITY, ImageJob, TowerThread
from serving.contract.errors import CallerGone, DeadlineExceeded, ModelOutputError
from serving.runtime.cost import CostModel

WAIT_S = 10
FLAT = CostModel([(1, 0.01), (8, 0.0101)])
"""Eight images cost what one does: all are stacked."""
STEEP = CostModel([(1, 0.001), (2, 0.01), (8, 0.1)])
"""Nothing is."""


class Bench:
    """A thread whose tower waits for `release` and gives each image's first value."""

    def __init__(self, cost: CostModel) -> None:
        self.events: list[str] = []
        self.batches: list[int] = []
        self.release = threading.Event()
        self.entered = threading.Event()
        self.thread = TowerThread("test", self._embed, cost, max_images=8, on_run=self.batches.append)

    def _embed(self, pixels: np.ndarray) -> np.ndarray:
        self.entered.set()
        assert self.release.wait(WAIT_S)
        self.events.append(f"images {pixels[:, 0, 0, 0].tolist()}")
        if (pixels == 13).any():
            raise ModelOutputError("thirteen")
        return pixels[:, 0, 0, :1].astype(np.float32)

    def occupy(self) -> None:
        """Have the tower busy, so that what is put next waits together."""
        self.entered.clear()
        self.release.clear()
        self.thread.put_images([job(0)[0]])
        assert self.entered.wait(WAIT_S)

    def finish(self) -> None:
        self.release.set()
        self.thread.close()
        self.thread.join(WAIT_S)


@pytest.fixture
def bench_of() -> Iterator[Callable[[CostModel], Bench]]:
    made: list[Bench] = []

    def make(cost: CostModel) -> Bench:
        made.append(Bench(cost))
        return made[-1]

    yield make
    for bench in made:
        bench.finish()


def job(*values: int, deadline_s: float = INFINITY, gone: bool = False) -> tuple[ImageJob, list[Any]]:
    results: list[Any] = []
    pixels = np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])
    return ImageJob(pixels, deadline_s, lambda: gone, lambda _, result: results.append(result)), results


class Steps:
    def __init__(self, name: str, count: int, events: list[str]) -> None:
        self.name, self.left, self.events = name, count, events

    def step(self) -> bool:
        self.left -= 1
        self.events.append(self.name)
        return not self.left


def test_images_that_wait_together_are_stacked_where_that_is_faster(bench_of: Callable[[CostModel], Bench]) -> None:
    for cost, batches in ((FLAT, [1, 3]), (STEEP, [1, 1, 1, 1])):
        bench = bench_of(cost)
        bench.occupy()
        waiting = [job(1), job(2, 3), job(4)]
        for each, _ in waiting:
            bench.thread.put_images([each])
        bench.finish()
        assert bench.batches == batches
        assert [result[0][:, 0].tolist() for _, result in waiting] == [[1], [2, 3], [4]]
        assert all(each.run_ended_s >= each.run_started_s > 0 for each, _ in waiting)


def test_no_run_has_more_images_than_may_be(bench_of: Callable[[CostModel], Bench]) -> None:
    bench = bench_of(FLAT)
    bench.occupy()
    bench.thread.put_images([job(*range(5))[0], job(*range(5))[0]])
    bench.finish()
    assert bench.batches == [1, 1, 1]


def test_texts_have_a_step_between_two_runs_of_images_and_neither_waits_long(bench_of: Callable[[CostModel], Bench]) -> None:
    bench = bench_of(STEEP)
    bench.occupy()
    bench.thread.put_texts(Steps("a", 3, bench.events))
    bench.thread.put_texts(Steps("b", 1, bench.events))
    bench.thread.put_texts(Steps("behind", 2, bench.events), background=True)
    bench.thread.put_images([job(value)[0] for value in (1, 2)])
    bench.finish()
    assert bench.events == ["images [0]", "a", "images [1]", "b", "images [2]", "a", "a", "behind", "behind"]


def test_what_nobody_waits_for_is_not_run(bench_of: Callable[[CostModel], Bench]) -> None:
    bench = bench_of(FLAT)
    bench.occupy()
    late, gone, well = job(1, deadline_s=time.perf_counter()), job(2, gone=True), job(3)
    bench.thread.put_images([late[0], gone[0], well[0]])
    bench.finish()
    assert isinstance(late[1][0], DeadlineExceeded)
    assert isinstance(gone[1][0], CallerGone)
    assert well[1][0].tolist() == [[3]]
    assert bench.events == ["images [0]", "images [3]"]


def test_a_run_that_fails_takes_no_neighbour_with_it(bench_of: Callable[[CostModel], Bench]) -> None:
    bench = bench_of(FLAT)
    bench.occupy()
    good, bad = job(1), job(13)
    bench.thread.put_images([good[0], bad[0]])
    bench.finish()
    assert good[1][0].tolist() == [[1]]
    assert isinstance(bad[1][0], ModelOutputError)


def test_a_delivery_that_fails_does_not_end_the_thread(bench_of: Callable[[CostModel], Bench], caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_of(FLAT)
    bench.release.set()

    def broken(_: ImageJob, result: object) -> None:
        raise ValueError("ours")

    bench.thread.put_images([ImageJob(np.zeros((1, 2, 2, 3), np.uint8), INFINITY, lambda: False, broken)])
    later, results = job(7)
    bench.thread.put_images([later])
    bench.finish()
    assert results[0].tolist() == [[7]]
    assert "an answer could not be delivered" in caplog.text
