"""Copies of live requests are asked for while a step is judged, and at no other time; a release that answers otherwise goes by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from k8s.errors import NotHeld, RolloutError, Unfit
from k8s.rollout.arms import Arm, Release
from k8s.rollout.disk import DiskJournal
from k8s.rollout.phases import Phase
from k8s.rollout.plan import Plan
from k8s.rollout.ports import Look
from k8s.rollout.questions import Answers
from k8s.rollout.record import Request
from k8s.rollout.start import held, put_back
from tests.rollouts import NEW, Town, is_settled, plan, roll_out

REQUESTS, CANDIDATES = 400, 5


class Copying(Town):
    """Compares answers to copies, which come while they are asked for.

    Attributes
    ----------
    wrong
        Arms that answer otherwise.
    seen
        Phase and share at each look of the engine, while time passes.
    """

    def __init__(self, folder: Path, *wrong: Arm, **more: Any) -> None:
        super().__init__(folder, **more)
        self.wrong, self.seen = wrong, list[tuple[str, int]]()
        self.on_sleep = lambda _: self.note()

    def note(self) -> None:
        stored = DiskJournal(self.folder / "journal").load()
        if stored is not None:
            self.seen.append((stored.record.phase.value, self.facts["mirror"]))

    def look(self) -> dict[Arm, Look]:
        looks = super().look()
        return {arm: replace(look, answers=self.answers(arm) if self.facts["mirror"] else None) for arm, look in looks.items()}

    def answers(self, arm: Arm) -> Answers:
        draw = np.random.default_rng(int(self.now_s()))
        scores = draw.random(REQUESTS * CANDIDATES)
        other = draw.random(len(scores)) ** 4 if arm in self.wrong else scores
        overlap = np.full(REQUESTS, 0.1 if arm in self.wrong else 1.0)
        none = np.zeros((REQUESTS, 2), dtype=bool)
        return Answers(scores, other, np.full(REQUESTS, CANDIDATES), overlap, none[:, 0], none)

    @property
    def mirrors(self) -> list[str]:
        return [call for call in self.facts["log"] if call.startswith("mirror")]


def copying(**changes: Any) -> Plan:
    changes = {"answers": {"mirror_pct": 20}, "warm_up": {"requests": 300}} | changes
    return plan(**changes)


def carried(town: Town, asked: Plan | None = None, **more: Any) -> Any:
    return roll_out(town, asked or copying(), answers=Plan.answers_judge, **({"collects": True} | more))


def test_copies_go_to_the_engine_while_a_step_is_judged_and_at_no_other_time(tmp_path: Path) -> None:
    town = Copying(tmp_path)
    record = carried(town)
    assert record.outcome == "promoted"
    assert town.mirrors == ["mirror 20 to the engine", "mirror 0"] * 3
    phases = {phase for phase, share in town.seen if share}
    assert phases == {Phase.STEPPING}
    assert {"preparing", "warming", "promoting"} <= {phase for phase, share in town.seen if not share}
    assert {judged.source for judged in record.verdicts} == {"synthetic", "answers"}
    is_settled(town, record)


def test_a_release_that_answers_otherwise_is_stopped_by_copies_alone(tmp_path: Path) -> None:
    town = Copying(tmp_path, "canary")
    record = carried(town)
    assert (record.outcome, record.conclusion, record.step) == ("rolled_back", "fail", 0)
    assert record.why.startswith("Other answers after")
    assert town.mirrors[-1] == "mirror 0"
    is_settled(town, record)


def test_of_several_releases_the_wrong_one_goes_by_the_same_copies(tmp_path: Path) -> None:
    town = Copying(tmp_path, "canary")
    record = carried(town, releases=(NEW, Release("good")))
    assert (record.outcome, record.title) == ("promoted", "good")
    assert [(each.arm, each.conclusion) for each in record.dropped] == [("canary", "fail")]
    is_settled(town, record)


def test_no_copies_are_taken_while_a_person_decides(tmp_path: Path) -> None:
    town = Copying(tmp_path)
    record = carried(town, copying(finish="hold", step=[{"weight_pct": 10, "samples": 2000}]))
    assert record.why == "nobody decided within 60 s"
    assert {share for phase, share in town.seen if phase == "holding"} == {0}


def test_no_copies_are_taken_while_a_person_decides_what_the_judge_could_not(tmp_path: Path) -> None:
    town = Copying(tmp_path)
    asked = copying(
        answers={"mirror_pct": 20, "tolerated_ratio": 1.000001, "max_ratio": 1.000002},
        inconclusive={"extend": 0, "then": "hold", "hold_s": 20},
        step=[{"weight_pct": 10, "samples": 1000}],
    )
    assert carried(town, asked).conclusion == "inconclusive"
    assert {share for phase, share in town.seen if phase == "holding"} == {0}


def test_a_person_who_aborts_ends_the_copies(tmp_path: Path) -> None:
    town = Copying(tmp_path)

    def abort(_: Town) -> None:
        town.note()
        if town.facts["mirror"]:
            DiskJournal(tmp_path / "journal").ask(Request(id="1", wish="abort", by="a person", at_s=town.now_s(), reason=""))

    town.on_sleep = abort
    record = carried(town)
    assert (record.outcome, record.conclusion) == ("rolled_back", None)
    assert town.mirrors == ["mirror 20 to the engine", "mirror 0"]
    is_settled(town, record)


def test_an_engine_that_collects_nothing_takes_up_no_such_plan_but_may_put_its_rollout_back(tmp_path: Path) -> None:
    town = Copying(tmp_path)
    with pytest.raises(Unfit, match=r"do not reach this engine.*rollout\.job\.enabled.*--requests-file") as caught:
        carried(town, collects=False)
    assert caught.value.exit_code == 2
    assert town.facts["log"] == []

    class Crash(BaseException):
        pass

    def crash(call: str) -> None:
        if call.startswith("mirror 20"):
            raise Crash

    town.after = crash
    with pytest.raises(Crash):
        carried(town)
    town.after = lambda _: None
    with pytest.raises(Unfit):
        carried(town, name="another", collects=False)
    world = town.world("another")
    stored = world.journal.load()
    assert stored is not None
    world.journal.ask(Request(id="2", wish="abort", by="a person", at_s=town.now_s(), reason=""))
    with held(world.lease, town, wait_s=0):
        record = put_back(world, stored.record, "another")
    assert record.outcome == "rolled_back"
    is_settled(town, record)


@pytest.mark.parametrize("ends_by", [KeyboardInterrupt, SystemExit, RolloutError])
def test_an_engine_that_ends_takes_its_copies_along_and_the_next_asks_for_them_again(tmp_path: Path, ends_by: type[BaseException]) -> None:
    town = Copying(tmp_path)

    def end(_: Town) -> None:
        if town.facts["mirror"]:
            raise ends_by

    town.on_sleep = end
    with pytest.raises(ends_by):
        carried(town)
    assert town.mirrors == ["mirror 20 to the engine", "mirror 0"]
    stored = DiskJournal(tmp_path / "journal").load()
    assert stored is not None
    assert (stored.record.phase, town.weights.canary) == (Phase.STEPPING, 0)
    town.on_sleep = lambda _: None
    record = carried(town, name="next")
    assert record.outcome == "promoted"
    assert town.mirrors[2:4] == ["mirror 20 to the engine", "mirror 0"]
    is_settled(town, record)


def test_an_engine_that_lost_the_lease_leaves_the_copies_to_the_other(tmp_path: Path) -> None:
    town = Copying(tmp_path)

    def lose(_: Town) -> None:
        if town.facts["mirror"]:
            raise NotHeld("another engine")

    town.on_sleep = lose
    with pytest.raises(NotHeld):
        carried(town)
    assert town.mirrors == ["mirror 20 to the engine"]


def test_copies_for_the_canary_go_on_when_their_engine_ends(tmp_path: Path) -> None:
    town = Copying(tmp_path)

    def end(_: Town) -> None:
        if town.facts["mirror"] == 7:
            raise KeyboardInterrupt

    town.on_sleep = end
    with pytest.raises(KeyboardInterrupt):
        roll_out(town, plan(step=[{"weight_pct": 10, "mirror_pct": 7}]))
    assert town.facts["mirror"] == 7


def test_what_the_gateway_can_copy_is_asked_before_anything_is_done(tmp_path: Path) -> None:
    class Deaf(Copying):
        def check_mirror(self, pct: int) -> str | None:
            raise Unfit(f"no {pct} % here")

    town = Deaf(tmp_path)
    with pytest.raises(Unfit, match="no 20 % here"):
        carried(town)
    assert town.facts["log"] == []


def test_a_plan_says_in_its_record_what_was_copied(tmp_path: Path) -> None:
    record = carried(Copying(tmp_path))
    document = json.loads(record.to_json())
    assert document["plan"]["answers"]["mirror_pct"] == 20
    assert any(entry.what == "mirror" and entry.detail == "20 % to the engine" for entry in record.timeline)
