"""Several releases at the same time: each is judged beside the same old version, and goes, or stays, by itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from k8s.errors import Refused
from k8s.rollout.arms import Arm, Release, Weights
from k8s.rollout.disk import DiskJournal
from k8s.rollout.phases import Phase
from k8s.rollout.plan import Plan
from k8s.rollout.ports import Look
from k8s.rollout.record import Record, Request
from k8s.rollout.report import explain, render_page
from k8s.rollout.start import begin
from loadtests.judge.objectives import Policy
from serving.contract.errors import SettingsError
from tests.rollouts import OLD, START_S, Town, is_settled, roll_out
from tests.rollouts import plan as plan_of_one

A, B, C = Release("a"), Release("b"), Release("c")

STEPS = [{"weight_pct": 0, "samples": 2000}, {"weight_pct": 10, "samples": 2000}, {"weight_pct": 25, "samples": 2000}]


def plan(**changes: Any) -> Plan:
    """A plan that copies no requests, which go to one canary alone."""
    return plan_of_one(**{"warm_up": {"requests": 300}} | changes)


def _town(folder: Path, *bad: str, slow: float = 2.0, slow_from_pct: int = 0) -> Town:
    town = Town(folder, slow=slow, slow_from_pct=slow_from_pct)
    town.bad = set(bad)
    return town


def test_all_get_the_same_weight_and_the_first_of_those_that_pass_is_promoted(tmp_path: Path) -> None:
    town = _town(tmp_path)
    record = roll_out(town, plan(step=STEPS), releases=(A, B))
    assert (record.outcome, record.conclusion, record.title) == ("promoted", "pass", "a")
    is_settled(town, record)
    writes = [call for call in town.facts["log"] if call.startswith("write")]
    each = [Weights(70, 10, 10, (10,)), Weights(25, 25, 25, (25,)), Weights(50, 25, 25), Weights()]
    assert writes == [f"write {weights}" for weights in each]
    assert {judged.release for judged in record.verdicts} == {"a", "b"}


def test_a_bad_one_is_dropped_and_the_others_go_on(tmp_path: Path) -> None:
    town = _town(tmp_path, "a", slow_from_pct=10)
    record = roll_out(town, plan(step=STEPS), releases=(A, B))
    assert (record.outcome, record.conclusion, record.title) == ("promoted", "pass", "b")
    assert [(each.arm, each.conclusion) for each in record.dropped] == [("canary", "fail")]
    is_settled(town, record)
    log = town.facts["log"]
    weightless = log.index(f"write {Weights(80, 10, 0, (10,))}")  # before anything else of the next step
    assert weightless < log.index(f"write {Weights(50, 25, 0, (25,))}") < log.index("remove canary")
    assert "a was dropped (fail): " in "\n".join(explain(record))
    assert "canary-2" in render_page(record)


def test_weight_that_somebody_gives_a_dropped_one_while_arms_get_ready_is_taken_away(tmp_path: Path) -> None:
    town, weights = _town(tmp_path, "a", slow_from_pct=10), list[int]()

    def give(town: Town) -> None:
        stored, arm = DiskJournal(tmp_path / "journal").load(), town.arms.get("canary-2", {"ready": 0, "wanted": 0})
        if stored is not None and stored.record.dropped and stored.record.step == 2 and 0 < arm["ready"] < arm["wanted"]:
            town.facts["weights"] = asdict(Weights(70, 10, 10, (10,)))
            weights.append(town.weights.canary)
        elif len(weights) == 1:
            weights.append(town.weights.canary)

    town.on_sleep = give
    record = roll_out(town, plan(step=[*STEPS[:2], STEPS[2] | {"replicas": 4}]), releases=(A, B))
    assert (record.outcome, record.title, weights) == ("promoted", "b", [10, 0])
    is_settled(town, record)


def test_none_that_is_left_is_a_failure(tmp_path: Path) -> None:
    town = _town(tmp_path, "a", "b")
    record = roll_out(town, plan(step=STEPS), releases=(A, B))
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    assert "ensure stable" not in "".join(town.facts["log"])
    is_settled(town, record)


def test_one_that_dies_at_its_start_is_dropped_before_it_has_a_request(tmp_path: Path) -> None:
    town = _town(tmp_path, "b")
    town.dies_at_start = True
    record = roll_out(town, plan(step=STEPS), releases=(A, B, C))
    assert (record.outcome, record.title) == ("promoted", "a")
    assert [(each.arm, "canary-2 was restarted 3 times" in each.why) for each in record.dropped] == [("canary-2", True)]
    is_settled(town, record)


def test_one_that_goes_away_again_and_again_is_dropped(tmp_path: Path) -> None:
    town = _town(tmp_path)
    town.on_sleep = lambda town: town.arms.pop("canary-2", None) and None if town.weights.of("canary-2") else None
    record = roll_out(town, plan(step=[{"weight_pct": 10, "bake_s": 10}]), releases=(A, B))
    assert (record.outcome, record.title, record.losses) == ("promoted", "a", 1)
    assert record.dropped[0].why.startswith("the canary-2 has no ready endpoint")
    is_settled(town, record)


def test_one_that_nobody_can_tell_anything_of_is_dropped_where_another_passes(tmp_path: Path) -> None:
    town = _town(tmp_path)
    warm = town.look

    def silent(look: dict[Arm, Look]) -> dict[Arm, Look]:
        return {arm: each for arm, each in look.items() if arm != "canary" or town.now_s() < START_S + 4}

    town.look = lambda: silent(warm())  # type: ignore[method-assign]
    record = roll_out(town, plan(step=[{"weight_pct": 0, "timeout_s": 20}]), releases=(A, B))
    assert (record.outcome, record.title) == ("promoted", "b")
    assert [each.conclusion for each in record.dropped] == ["inconclusive"]


def test_a_person_chooses_by_name(tmp_path: Path) -> None:
    town = _town(tmp_path)
    journal = DiskJournal(tmp_path / "journal")

    def choose(town: Town) -> None:
        stored = journal.load()
        if stored is not None and stored.record.phase is Phase.HOLDING:
            name = "c" if stored.record.handled == "wrong" else "z"
            wish_id = {"z": "wrong", "c": "right"}[name]
            journal.ask(Request(id=wish_id, wish="promote", by="a person", at_s=town.now_s(), release=name))

    town.on_sleep = choose
    record = roll_out(town, plan(step=STEPS, finish="hold"), releases=(A, B, C))
    assert (record.outcome, record.title) == ("promoted", "c")
    assert any("z is not among what is tried: a, b, c" in entry.detail for entry in record.timeline)
    is_settled(town, record)


def test_risks_are_shared_out_among_the_releases() -> None:
    asked = plan()

    def policy(releases: int) -> Policy:
        return asked._careful(Policy(), 1, releases)

    assert policy(3).false_alarm == pytest.approx(policy(1).false_alarm / 3)
    assert policy(3).false_pass == pytest.approx(policy(1).false_pass / 3)


@pytest.mark.parametrize(
    ("asked", "releases", "said"),
    [
        (plan(), (A, B, C), "step 50 % gives 50 % to each of 3 releases: there is room for 2"),
        (plan(step=STEPS), (A, A), "two releases are called a"),
        (plan(step=STEPS), tuple(Release(str(number)) for number in range(6)), "6 releases cannot be tried at the same time: 1 to 5"),
        (plan(step=[{"weight_pct": 0, "mirror_pct": 5}]), (A, B), "copies requests"),
        (plan(step=STEPS), (A, OLD), "stable runs old already, and is what the others are compared with"),
    ],
)
def test_what_cannot_be_tried_together_is_refused_before_anything_starts(
    asked: Plan, releases: tuple[Release, ...], said: str, tmp_path: Path
) -> None:
    town = _town(tmp_path)
    with pytest.raises((SettingsError, Refused), match=said):
        begin(town.world(), "ranker", asked, releases, "engine")
    assert town.facts["log"] == []


def test_a_record_of_one_release_as_it_was_written_before_is_still_read(tmp_path: Path) -> None:
    record = roll_out(_town(tmp_path))
    document = record.model_dump(mode="json") | {"schema_version": 1, "release": record.model_dump(mode="json")["releases"][0]}
    del document["releases"]
    assert Record.from_json(json.dumps(document)) == record
