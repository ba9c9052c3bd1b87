"""A release that refuses what its users ask (4xx), and is as fast and as sound as the old one otherwise, goes back by live traffic alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster.prometheus import Prometheus
from k8s.errors import Unfit
from k8s.rollout.plan import Plan
from tests.clusters import NAMES
from tests.rollouts import Town, is_settled, plan, roll_out

A_LOOK = 400
"""Requests an arm between two looks."""


class Counted:
    """What Prometheus has counted of a town's users: at each arm so many of a look's requests are refused."""

    def __init__(self, town: Town, **refused: int) -> None:
        self._town, self._refused, self._counts = town, refused, Counter[tuple[str, str]]()

    def ask(self, _: str) -> list[dict[str, Any]]:
        for arm in self._town.arms:
            refused = self._refused.get(arm, 0)
            self._counts += {(arm, "200"): A_LOOK - refused, (arm, "422"): refused}
        return [
            {"metric": {"arm": arm, "status": status, "le": edge}, "value": [0, str(count)]}
            for (arm, status), count in self._counts.items()
            for edge in ("0.01", "+Inf")
        ]


def _plan(**live: Any) -> Plan:
    return plan(synthetic=None, live={"every_s": 1, **live}, warm_up={"requests": 0}, step=[{"weight_pct": 10, "samples": 4000}])


def _roll_out(town: Town, asked: Plan, **refused: int) -> Any:
    counted: Any = Counted(town, **refused)
    assert asked.live is not None
    return roll_out(town, asked, traffic={"live": Prometheus(counted, asked.live, NAMES, town)})


def test_a_release_that_refuses_its_users_requests_is_rolled_back_and_the_record_says_why(tmp_path: Path) -> None:
    town = Town(tmp_path)
    record = _roll_out(town, _plan(), canary=20)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    assert "the canary refuses more often: 5 % of the canary's requests were refused, 0 % of the baseline's" in record.why
    (judged,) = record.verdicts
    assert judged.source == "live"
    assert {finding["objective"]: finding["status"] for finding in judged.verdict["findings"]} == {
        "errors": "inconclusive",
        "refusals": "fail",
    }
    is_settled(town, record)


def test_callers_who_make_mistakes_at_both_arms_keep_no_release_back(tmp_path: Path) -> None:
    town = Town(tmp_path)
    record = _roll_out(town, _plan(), canary=20, baseline=20, stable=20)
    assert record.outcome == "promoted", record.why


def test_who_does_not_ask_about_refusals_is_not_told_of_them(tmp_path: Path) -> None:
    town = Town(tmp_path)
    record = _roll_out(town, _plan(objectives={"error_increase": {}}), canary=20)
    assert record.outcome == "promoted", record.why


def test_a_source_that_does_not_tell_refused_requests_moves_the_release_back_and_says_what_is_missing(tmp_path: Path) -> None:
    town = Town(tmp_path)
    record = roll_out(town, _plan(), traffic={"live": town})
    assert (record.outcome, record.conclusion) == ("rolled_back", "inconclusive")
    assert "what live traffic saw cannot be judged: refusals: the samples have no column refused" in record.why
    is_settled(town, record)


@pytest.mark.parametrize("table", [{}, {"max_points": 2.0}])
def test_refusals_are_not_asked_of_load_tests_which_count_them_as_failures(table: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match=r"count refused requests \(4xx\) as failed, as error_increase does: ask it in \[live.objectives\]"
    ):
        plan(objectives={"refusal_increase": table})


def test_where_a_cookie_keeps_users_with_an_arm_the_mistakes_of_one_are_held_against_no_release(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.facts["sticky"] = True
    record = _roll_out(town, _plan(), canary=20)
    assert record.outcome == "promoted", record.why
    assert record.plan.live is not None
    assert list(record.plan.live.objectives) == ["error_increase"]
    (note,) = (entry.detail for entry in record.timeline if entry.what == "note")
    assert "a cookie keeps users, and all mistakes of one, with an arm" in note


def test_a_plan_that_asks_of_kept_users_about_refusals_alone_does_not_begin(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.facts["sticky"] = True
    with pytest.raises(Unfit, match="ask refusal_increase alone"):
        _roll_out(town, _plan(objectives={"refusal_increase": {}, "policy": {}}))
    assert town.facts["log"] == []
