"""What somebody else does: an arm that was given another release is not judged, and weight that was given to an arm is taken away again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from k8s.rollout.arms import Release, Weights
from k8s.rollout.disk import DiskJournal
from k8s.rollout.phases import Phase
from tests.rollouts import Town, is_settled, plan, roll_out

STEPS = [{"weight_pct": 10, "bake_s": 10}]


def _given(town: Town, arm: str, times: int = 1) -> list[Weights]:
    """Somebody else gives this arm another release as soon as a canary has weight; weights at the time of each look since."""
    seen: list[Weights] = []

    def give(town: Town) -> None:
        seen.append(town.weights)
        if town.weights.tried and town.facts.setdefault("given", 0) < times and town.arms[arm]["release"] != "stranger":
            town.facts["given"] += 1
            town.arms[arm].update(release="stranger", next="stranger")
            seen.clear()

    town.on_sleep = give
    return seen


@pytest.mark.parametrize("arm", ["canary", "baseline"])
def test_a_canary_or_baseline_loses_its_weight_and_is_made_again_and_judged_anew(arm: str, tmp_path: Path) -> None:
    town = Town(tmp_path)
    seen = _given(town, arm)
    record = roll_out(town, plan(step=STEPS))
    assert (record.outcome, record.losses) == ("promoted", 1)
    assert any(f"somebody else gave {arm} stranger, in place of" in entry.detail for entry in record.timeline)
    assert Weights() in seen[:3]
    is_settled(town, record)


@pytest.mark.parametrize("arm", ["canary", "baseline"])
def test_again_and_again_it_goes_back_without_saying_anything_of_the_release(arm: str, tmp_path: Path) -> None:
    town = Town(tmp_path)
    _given(town, arm, times=100)
    record = roll_out(town, plan(step=STEPS))
    assert (record.outcome, record.conclusion, record.losses) == ("rolled_back", "inconclusive", 1)
    is_settled(town, record)


def test_of_several_the_one_that_is_changed_is_dropped(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.bad = set()
    _given(town, "canary", times=100)
    record = roll_out(town, plan(step=STEPS, warm_up={}, health={"max_losses": 0}), releases=(Release("a"), Release("b")))
    assert (record.outcome, record.title) == ("promoted", "b")
    assert [(each.arm, each.conclusion) for each in record.dropped] == [("canary", "inconclusive")]
    is_settled(town, record)


def test_what_somebody_else_gave_stable_is_not_overwritten(tmp_path: Path) -> None:
    town = Town(tmp_path)
    _given(town, "stable")
    record = roll_out(town, plan(step=STEPS))
    assert (record.outcome, record.conclusion) == ("rolled_back", "inconclusive")
    assert record.why == "somebody else gave stable stranger, in place of old"
    assert town.arms["stable"]["release"] == "stranger"
    assert not [call for call in town.facts["log"] if call.startswith("ensure stable")]
    assert set(town.arms) == {"stable"}


@pytest.mark.parametrize(("phase", "slow"), [(Phase.PREPARING, 1.0), (Phase.WARMING, 1.0), (Phase.REVERTING, 1.0)])
def test_weight_that_somebody_else_gives_is_taken_away_in_every_phase_that_gives_none(phase: Phase, slow: float, tmp_path: Path) -> None:
    town = Town(tmp_path, slow=slow)
    given_s: list[float] = []

    def give(town: Town) -> None:
        stored = DiskJournal(tmp_path / "journal").load()
        record = stored.record if stored else None
        if phase is Phase.REVERTING and town.arms["stable"]["next"] == "new":
            town.arms["stable"]["ready_s"] = 1e12  # stable never runs it
        if record and record.phase is phase and town.now_s() > record.since_s and not given_s:
            given_s.append(town.now_s())
            town.facts["weights"] = asdict(Weights(95, 0, 5))
        if given_s and town.now_s() >= given_s[0] + 2 and record and record.phase is phase:
            assert town.weights == Weights()

    town.on_sleep = give
    record = roll_out(town, plan(warm_up={"requests": 3000}))
    assert given_s
    assert record.drifts <= 1  # what was changed before the first look of a phase is no drift, and set right all the same
    assert record.outcome == ("rolled_back" if phase is Phase.REVERTING else "promoted")
    is_settled(town, record)


def test_somebody_who_insists_on_the_way_back_is_left_alone_for_the_route_goes(tmp_path: Path) -> None:
    town = Town(tmp_path)

    def give(town: Town) -> None:
        stored, stable = DiskJournal(tmp_path / "journal").load(), town.arms["stable"]
        if stable["next"] == "new":
            stable["ready_s"] = 1e12  # stable never runs it
        if stored and stored.record.phase is Phase.REVERTING and len(given) < 8:
            given.append(town.weights)
            town.facts["weights"] = asdict(Weights(95, 0, 5))
            stable.update(ready=2, ready_s=town.now_s() + 3)

    given: list[Weights] = []
    town.on_sleep = give
    record = roll_out(town)
    assert given[1:6] == [Weights()] * 5
    assert given[6:] == [Weights(95, 0, 5)] * 2
    assert record.drifts == record.plan.max_drifts + 1
    assert record.outcome == "rolled_back"
    is_settled(town, record)
