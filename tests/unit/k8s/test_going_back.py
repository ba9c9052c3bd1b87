"""The way back where weights are not taken any more: it does not end with the bad release in front of users."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.errors import Ignored, Refused, RolloutError, Unavailable
from k8s.rollout.ports import Weights
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
