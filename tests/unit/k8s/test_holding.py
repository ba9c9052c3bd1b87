"""While a person decides, the users' own requests are judged on: a release that begins to fail goes back, and none is promoted by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from k8s.rollout.arms import Arm, Release
from k8s.rollout.disk import DiskJournal
from k8s.rollout.phases import Phase
from k8s.rollout.plan import Plan, Step
from k8s.rollout.ports import Look
from k8s.rollout.record import Record, Request
from loadtests.judge import Batch
from tests.rollouts import NEW, PLAN, Town, is_settled, plan, roll_out

LIVE = {"every_s": 1, "objectives": {"error_increase": {"max_points": 10.0}, "policy": {"min_samples": 200, "planned_samples": 1000}}}


class Seen:
    """One source of requests in a town.

    Attributes
    ----------
    begun
        Arms of each beginning.
    arms
        What it looks at now.
    """

    def __init__(self, town: Town) -> None:
        self._town, self.arms, self.begun = town, tuple[Arm, ...](), list[tuple[Arm, ...]]()

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        self.arms = tuple(arms)
        self.begun.append(self.arms)

    def look(self) -> dict[Arm, Look]:
        *canaries, beside = (self._town._requests(arm) for arm in self.arms)
        return {arm: Look(Batch(canary=canary, baseline=beside)) for arm, canary in zip(self.arms, canaries, strict=False)}

    def end(self) -> None:
        self.arms = ()


class Crash(BaseException):
    """The engine's process ends here."""


def _held(**changes: Any) -> Plan:
    """A plan whose one step passes, and that then holds."""
    step = changes.pop("step", [{"weight_pct": 10, "samples": 2000}])
    return plan(live=LIVE, step=step, finish="hold", inconclusive={"extend": 0, "hold_s": 100}, **changes)


def _record(town: Town) -> Record | None:
    stored = DiskJournal(town.folder / "journal").load()
    return stored.record if stored else None


def _while_held(town: Town, do: Callable[[float], None]) -> None:
    """Have something happen at each look while it holds, given the seconds it does."""

    def look(town: Town) -> None:
        record = _record(town)
        if record is not None and record.phase is Phase.HOLDING:
            do(town.now_s() - record.since_s)

    town.on_sleep = look


def _sources(town: Town) -> tuple[dict[str, Any], Seen, Seen]:
    synthetic, live = Seen(town), Seen(town)
    return {"synthetic": synthetic, "live": live}, synthetic, live


def test_a_release_that_begins_to_fail_after_a_long_good_time_goes_back_at_once(tmp_path: Path) -> None:
    town = Town(tmp_path)
    traffic, synthetic, _ = _sources(town)

    def fail(since_s: float) -> None:
        assert synthetic.arms == (), "synthetic load goes on while a person decides"
        town.error_pct = 20.0 if since_s > 60 else 0.0  # 24,000 good requests an arm later

    _while_held(town, fail)
    record = roll_out(town, _held(), traffic=traffic)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    assert "fails more often" in record.why
    (moved,) = [entry for entry in record.timeline if entry.detail.startswith("holding → rolling_back")]
    held_s = moved.at_s - next(entry.at_s for entry in record.timeline if entry.phase is Phase.HOLDING)
    assert moved.by == "judge"
    assert 60 < held_s < 90, "it took longer than thirty looks to see what every fifth user saw"
    assert record.verdicts[-1].source == "live"
    is_settled(town, record)


def test_a_release_that_stays_good_is_never_promoted_by_itself(tmp_path: Path) -> None:
    town = Town(tmp_path)
    traffic, *_ = _sources(town)
    record = roll_out(town, _held(), traffic=traffic)
    assert (record.outcome, record.why) == ("rolled_back", "nobody decided within 100 s")
    assert record.watches > 1
    assert "ensure stable new" not in town.facts["log"]


def test_a_plan_without_live_requests_looks_at_none_and_makes_none(tmp_path: Path) -> None:
    town = Town(tmp_path)
    traffic, synthetic, live = _sources(town)
    _while_held(town, lambda since_s: setattr(town, "error_pct", 20.0))
    record = roll_out(town, _held().model_copy(update={"live": None}), traffic=traffic)
    assert record.why == "nobody decided within 100 s"
    assert (len(synthetic.begun), live.begun, record.watches) == (2, [], 0)  # warm-up and step


def test_an_engine_that_takes_over_judges_on_with_less_risk_and_leaves_the_steps_its_own(tmp_path: Path) -> None:
    town = Town(tmp_path)
    traffic, *_ = _sources(town)

    def crash(since_s: float) -> None:
        if since_s > 10:
            raise Crash

    _while_held(town, crash)
    with pytest.raises(Crash):
        roll_out(town, _held(), traffic=traffic)
    before = _record(town)
    assert before is not None
    assert before.watches > 1
    asked: list[str] = []

    def resume(since_s: float) -> None:
        now = _record(town)
        assert now is not None
        if since_s > 20 and not asked:
            assert now.watches > before.watches
            asked.append("resume")
            DiskJournal(tmp_path / "journal").ask(Request(id="1", wish="resume", by="a person", at_s=town.now_s()))

    _while_held(town, resume)
    record = roll_out(town, _held(), "next", traffic=traffic)
    assert asked
    assert record.attempt == 2  # the step's second, whatever was judged while it was held


def test_where_the_baseline_has_no_users_stable_is_compared_with(tmp_path: Path) -> None:
    town = Town(tmp_path)
    traffic, _, live = _sources(town)
    _while_held(town, lambda since_s: setattr(town, "error_pct", 20.0 if since_s > 10 else 0.0))
    record = roll_out(town, _held(step=[{"weight_pct": 50, "samples": 2000}]), traffic=traffic)
    assert record.conclusion == "fail"
    assert live.begun[-1] == ("canary", "stable")


def test_of_several_releases_the_one_that_begins_to_fail_goes_and_the_others_are_held_on(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.bad = {"worse"}
    traffic, _, live = _sources(town)
    _while_held(town, lambda since_s: setattr(town, "error_pct", 20.0 if since_s > 10 else 0.0))
    record = roll_out(town, _held(warm_up={"requests": 300}), releases=(NEW, Release("worse")), traffic=traffic)
    assert [each.arm for each in record.dropped] == ["canary-2"]
    assert "fails more often" in record.dropped[0].why
    assert record.why == "nobody decided within 100 s"
    assert live.begun[-2:] == [("canary", "canary-2", "baseline"), ("canary", "baseline")]


def test_all_judges_of_a_rollout_together_never_risk_more_false_alarms_than_the_plan_allows() -> None:
    asked = Plan.model_validate(PLAN | {"live": LIVE, "objectives": LIVE["objectives"]})
    steps = sum(asked.judge(source, attempt).verdict().false_alarm for source in asked.sources for attempt in range(1, 40))
    held = sum(asked.holding_judge(number).verdict().false_alarm for number in range(1, 2000))
    assert 0.99 * 0.01 < len(asked.steps) * steps + held <= 0.01


def test_a_step_without_live_traffic_is_judged_by_what_was_sent_and_a_large_one_beside_stable(tmp_path: Path) -> None:
    town = Town(tmp_path)
    traffic, synthetic, live = _sources(town)
    asked = plan(live=LIVE, warm_up={"requests": 0}, inconclusive={"extend": 20, "then": "roll_back"})
    record = roll_out(town, asked, traffic=traffic)
    assert record.outcome == "promoted"
    assert synthetic.begun == [("canary", "baseline")] * 3
    assert live.begun == [("canary", "baseline"), ("canary", "stable")]
