"""An engine that is killed at any point, as the operating system kills: the next one goes on, or goes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.rollout.arms import Release
from k8s.rollout.disk import DiskJournal
from k8s.rollout.plan import Plan
from tests.rollouts import LATENCY_ALONE, NEW, Town, is_settled, plan, roll_out

OTHER = Release("other")

STEPS = [{"weight_pct": 0, "samples": 1000}, {"weight_pct": 10, "samples": 1000}]


class CountingJournal(DiskJournal):
    """Tells of every write, before and after."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        super().__init__(folder)
        self._tell = tell

    def save(self, record: Any, expected_version: str | None) -> str:
        version = super().save(record, expected_version)
        self._tell("saved")
        return version


def _run(folder: Path, slow: float, releases: tuple[Release, ...], tell: Callable[[str], None]) -> None:
    """Roll out; `tell` is called after each write to the journal, and after each action, before the journal knows of it."""
    town = Town(folder, slow=slow, slow_from_pct=10)
    town.after = tell
    roll_out(town, _plan(releases), releases=releases, key="once", journal=CountingJournal(folder / "journal", tell))


def _plan(releases: tuple[Release, ...]) -> Plan:
    copies = {} if len(releases) == 1 else {"warm_up": {"requests": 300}}  # which go to one canary alone
    return plan(step=STEPS, objectives=LATENCY_ALONE, **copies)


def _killed_at(point: int, folder: Path, slow: float, releases: tuple[Release, ...]) -> None:
    child = os.fork()
    if not child:
        count = 0

        def tell(_: str) -> None:
            nonlocal count
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            _run(folder, slow, releases, tell)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize(
    ("slow", "releases", "outcome", "title"),
    [
        (1.0, (NEW,), "promoted", "new"),
        (2.0, (NEW,), "rolled_back", "new"),
        (2.0, (NEW, OTHER), "promoted", "other"),  # of two at the same time the one that is slow is dropped
    ],
)
def test_killed_after_any_action_or_any_write_the_next_engine_brings_it_to_its_right_end(
    slow: float, releases: tuple[Release, ...], outcome: str, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a killed process wrote is in the kernel's memory; only a machine that stops needs it on the disk, which is most of the time here.
    monkeypatch.setattr("serving.contract.files.sync", lambda path: None)
    points: list[str] = []
    (tmp_path / "whole").mkdir()
    _run(tmp_path / "whole", slow, releases, points.append)
    assert len(points) > 30
    for point in range(1, len(points) + 1):
        folder = tmp_path / str(point)
        folder.mkdir()
        _killed_at(point, folder, slow, releases)
        town = Town(folder, slow=slow, slow_from_pct=10)
        town.facts["now"] += 5
        record = roll_out(town, _plan(releases), name="next", releases=releases, key="once")
        assert DiskJournal(folder / "journal").history() == [record], f"killed at point {point}, it was begun anew"
        assert (record.outcome, record.title) == (outcome, title), f"killed at point {point}, after {points[point - 1]}"
        is_settled(town, record)
