"""Time that nobody sets, an engine that slept through it, and the lease that it has lost meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from k8s.errors import NotHeld, Refused, RolloutError, Unavailable
from k8s.rollout.clock import SystemClock
from k8s.rollout.disk import DiskJournal
from k8s.rollout.record import Record
from tests.rollouts import Town, roll_out


class Lease:
    """Renewed as long as `error` says nothing."""

    def __init__(self, error: Callable[[], RolloutError | None]) -> None:
        self._error = error

    def acquire(self) -> None:
        """Taken."""

    def renew(self) -> None:
        """Kept, or not."""
        if error := self._error():
            raise error

    def release(self) -> None:
        """Given back."""


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_clock_that_is_set_while_an_engine_works_moves_nothing(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    began_s = time.time()
    clock = SystemClock()
    before_s = clock.now_s()
    assert before_s == pytest.approx(began_s, abs=60)  # the wall clock's time, when it began
    monkeypatch.setattr(time, "time", lambda: began_s + jump_s)
    assert before_s <= clock.now_s() < before_s + 60


@pytest.mark.parametrize("error", [NotHeld("engine second holds it now"), Unavailable("503: nobody knows who holds it")])
def test_an_engine_that_was_frozen_before_an_action_asks_for_its_lease_before_it_acts(error: RolloutError, tmp_path: Path) -> None:
    town = Town(tmp_path)

    class Freezing(DiskJournal):
        def save(self, record: Record, expected_version: str | None) -> str:
            version = super().save(record, expected_version)
            if record.intent is not None and record.intent.action == "weights":
                town.facts["now"] += 40
            return version

    frozen_s = town.now_s() + 39
    lost = Lease(lambda: error if town.now_s() > frozen_s else None)
    with pytest.raises(type(error)):
        roll_out(town, journal=Freezing(tmp_path / "journal"), lease=lost)
    assert not [call for call in town.facts["log"] if call.startswith("write")]


def test_a_lease_that_may_not_be_renewed_says_nothing_of_the_release(tmp_path: Path) -> None:
    town = Town(tmp_path)
    forbidden = Lease(lambda: Refused("403: the role has no verb update") if town.weights.canary else None)
    with pytest.raises(RolloutError, match="the lease cannot be kept: 403") as raised:
        roll_out(town, lease=forbidden)
    assert type(raised.value) is RolloutError
    assert town.weights.canary
