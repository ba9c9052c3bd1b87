"""The way back where weights are not taken any more: it does not end with the bad release in front of users."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.errors import Ignored, Refused, RolloutError, Unavailable
from k8s.rollout.arms import Release, Weights
from k8s.rollout.disk import DiskJournal
from k8s.rollout.phases import Phase
from k8s.rollout.record import Request, Wish
from tests.rollouts import Town, is_settled, plan, roll_out


def _refusing(town: Town, error: RolloutError) -> Town:
    """From the moment that the canary has weight, no weights are taken any more."""

    def refuse(call: str) -> None:
        if call.startswith(("write", "mirror")) and town.weights.canary:
            raise error

    town.before = refuse
    return town


@pytest.mark.parametrize("error", [Refused("the route is not Accepted: NoMatchingParent"), Ignored("no gateway has said anything")])
def test_weights_that_no_gateway_takes_are_withdrawn(error: RolloutError, tmp_path: Path) -> None:
    town = _refusing(Town(tmp_path, slow=2.0, slow_from_pct=10), error)
    record = roll_out(town)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    assert "withdraw" in town.facts["log"]
    assert any(entry.what == "withdrawn" and str(error) in entry.detail for entry in record.timeline)
    is_settled(town, record)


def test_a_promoted_release_gets_its_weight_too(tmp_path: Path) -> None:
    town = _refusing(Town(tmp_path), Refused("the route is not Accepted"))
    record = roll_out(town, plan(step=[{"weight_pct": 0}, {"weight_pct": 10}]))
    assert record.outcome == "promoted"
    is_settled(town, record)


def test_a_gateway_that_does_not_answer_is_waited_for_and_then_left_as_it_is(tmp_path: Path) -> None:
    town = _refusing(Town(tmp_path, slow=2.0, slow_from_pct=10), Unavailable("the route is not Accepted yet"))
    with pytest.raises(Unavailable, match="not Accepted yet"):
        roll_out(town)
    assert town.weights == Weights(80, 10, 10)  # what it took before is in force: users are answered
    assert "withdraw" not in town.facts["log"]
    assert "canary" in town.arms
    town.before = lambda call: None
    record = roll_out(town, name="next")
    assert record.outcome == "rolled_back"
    is_settled(town, record)


@pytest.mark.parametrize("error", [Refused("the route is not Accepted: NoMatchingParent"), Ignored("no gateway has said anything")])
def test_before_any_weight_is_given_a_route_that_is_not_taken_ends_the_rollout(error: RolloutError, tmp_path: Path) -> None:
    town = Town(tmp_path)

    def refuse(call: str) -> None:
        if call.startswith(("write", "mirror")):
            raise error

    town.before = refuse
    record = roll_out(town)
    assert (record.outcome, record.conclusion) == ("rolled_back", "inconclusive")
    assert record.why == f"refused: {error}"
    is_settled(town, record)


def test_a_stable_that_the_new_release_took_away_gets_the_old_one_before_weight_can_return_to_it(tmp_path: Path) -> None:
    town = Town(tmp_path)

    def crash(town: Town) -> None:
        stable = town.arms["stable"]
        if stable["release"] == stable["next"] == "new":
            stable.update(ready=0, ready_s=1e12)

    town.on_sleep = crash
    record = roll_out(town)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    assert record.why.startswith("stable does not run new: 0 of 3 are ready")
    is_settled(town, record)
    log = town.facts["log"]
    assert log.index("ensure stable old") < len(log) - 1 - log[::-1].index(f"write {Weights()}")


def _ask(town: Town, wish: Wish) -> None:
    DiskJournal(town.folder / "journal").ask(Request(id=f"{wish} {town.now_s()}", wish=wish, by="a person", at_s=town.now_s()))


def test_a_pause_ends_where_the_release_goes_back_so_that_a_stable_that_is_away_is_told(tmp_path: Path) -> None:
    town = Town(tmp_path, slow=2.0, slow_from_pct=10)
    asked: list[float] = []

    def pause(town: Town) -> None:
        if town.weights.canary and not asked:
            asked.append(town.now_s())
            _ask(town, "pause")
        if town.weights.canary:
            town.arms["stable"].update(ready=0, ready_s=1e12)
        if asked and town.now_s() - asked[0] > 1000:
            raise AssertionError("it waits for ever, and tells nobody")

    town.on_sleep = pause
    with pytest.raises(RolloutError, match="stable has no ready endpoint: baseline and canary keep their weight"):
        roll_out(town)
    record = DiskJournal(tmp_path / "journal").history()[-1]
    assert record.phase is Phase.ROLLING_BACK
    assert not record.paused


def test_what_goes_back_is_not_paused(tmp_path: Path) -> None:
    town = Town(tmp_path, slow=2.0, slow_from_pct=10)

    def pause(town: Town) -> None:
        stored = DiskJournal(tmp_path / "journal").load()
        if stored is not None and stored.record.phase is Phase.ROLLING_BACK:
            _ask(town, "pause")

    town.on_sleep = pause
    record = roll_out(town)
    assert record.outcome == "rolled_back"
    assert any("pause, asked by a person; not possible while rolling_back" in entry.detail for entry in record.timeline)
    assert not record.paused
    is_settled(town, record)


def test_where_one_of_several_goes_away_no_weight_goes_to_a_stable_that_is_away_too(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.bad = set()
    lost: list[Weights] = []

    def lose(town: Town) -> None:
        if town.weights.canary and not lost:
            lost.append(town.weights)
            town.arms["canary"].update(ready=0, ready_s=town.now_s() + 3)
            town.arms["stable"].update(ready=0, ready_s=town.now_s() + 10)
        if lost and not town.arms["stable"]["ready"]:
            assert town.weights == lost[0]

    town.on_sleep = lose
    asked = plan(warm_up={}, step=[{"weight_pct": 10, "bake_s": 20}])
    record = roll_out(town, asked, releases=(Release("a"), Release("b")))
    assert lost
    assert (record.outcome, record.title, record.losses) == ("promoted", "a", 1)
    is_settled(town, record)
