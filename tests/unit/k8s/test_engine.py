"""The engine, in a world that fits into a file and has a clock of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8s.errors import NotHeld, Refused, RolloutError, Settled, Unavailable
from k8s.rollout.analysis import MAX_ATTEMPTS
from k8s.rollout.arms import Arm, Weights
from k8s.rollout.disk import DiskJournal
from k8s.rollout.phases import Phase
from k8s.rollout.plan_tables import Step
from k8s.rollout.ports import Look
from k8s.rollout.record import Request
from k8s.rollout.start import begin
from tests.rollouts import NEW, PLAN, Town, is_settled, plan, roll_out


def _writes(town: Town) -> list[str]:
    return [call for call in town.facts["log"] if call.startswith("write")]


def _ask(town: Town, wish: Any, number: int = 1) -> None:
    DiskJournal(town.folder / "journal").ask(Request(id=f"{wish}-{number}", wish=wish, by="a person", at_s=town.now_s()))


def test_a_good_release_goes_through_every_step_and_is_promoted(tmp_path: Path) -> None:
    town = Town(tmp_path)
    record = roll_out(town)
    assert (record.outcome, record.conclusion) == ("promoted", "pass")
    is_settled(town, record)
    assert _writes(town) == [f"write {weights}" for weights in (Weights(80, 10, 10), Weights(50, 0, 50), Weights())]
    assert [judged.verdict["status"] for judged in record.verdicts] == ["pass"] * 3


def test_stable_gets_the_release_while_the_canary_serves_and_weight_returns_only_then(tmp_path: Path) -> None:
    town = Town(tmp_path)
    roll_out(town)
    log = town.facts["log"]
    promoted, returned = log.index("ensure stable new"), len(log) - 1 - log[::-1].index(f"write {Weights()}")
    assert log.index(f"write {Weights(50, 0, 50)}") < promoted < returned < log.index("rest") < log.index("remove canary")


@pytest.mark.parametrize(("slow", "error_pct", "said"), [(2.0, 0.0, "p50 ratio"), (1.0, 30.0, "errors")])
def test_a_worse_release_is_rolled_back_before_it_has_live_traffic(tmp_path: Path, slow: float, error_pct: float, said: str) -> None:
    town = Town(tmp_path, slow=slow, error_pct=error_pct)
    record = roll_out(town)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    failed = [finding for judged in record.verdicts for finding in judged.verdict["findings"] if finding["status"] == "fail"]
    assert said in {finding["objective"] for finding in failed}
    is_settled(town, record)
    assert _writes(town) == []
    assert "ensure stable new" not in town.facts["log"]


def test_a_canary_that_crashes_when_it_starts_never_gets_a_request(tmp_path: Path) -> None:
    town = Town(tmp_path, dies=True)
    record = roll_out(town)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    assert "restarted 3 times, 0 are allowed: CrashLoopBackOff" in record.why
    is_settled(town, record)
    assert _writes(town) == []


def test_a_canary_that_never_gets_ready_is_given_up_in_time(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.on_sleep = lambda town: town.arms.get("canary", {}).update(ready=0, ready_s=1e12)
    record = roll_out(town)
    assert record.why.startswith("not ready after 30 s: canary")
    is_settled(town, record)


def test_memory_that_grows_beyond_the_other_arms_is_noticed(tmp_path: Path) -> None:
    town = Town(tmp_path)

    def grow(town: Town) -> None:
        for name, by in (("canary", 15), ("baseline", 2)):
            if name in town.arms and town.arms[name]["ready"]:
                town.arms[name]["memory"] += by

    town.on_sleep = grow
    record = roll_out(town, plan(step=[{"weight_pct": 10, "bake_s": 300}]))
    assert "the canary's memory grew by" in record.why
    is_settled(town, record)


def test_memory_that_grows_in_both_arms_alike_is_not_the_releases_fault(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.on_sleep = lambda town: [arm.update(memory=arm["memory"] + 10) for arm in town.arms.values()] and None
    assert roll_out(town).outcome == "promoted"


def test_a_canary_that_loses_its_last_endpoint_loses_its_weight_and_may_come_back_once(tmp_path: Path) -> None:
    town = Town(tmp_path)

    def lose(town: Town) -> None:
        if town.weights.canary == 10 and "lost" not in town.facts:
            town.facts["lost"] = True
            town.arms["canary"].update(ready=0, ready_s=town.now_s() + 5)

    town.on_sleep = lose
    record = roll_out(town, plan(step=[{"weight_pct": 10, "bake_s": 10}, {"weight_pct": 50}]))
    assert (record.outcome, record.losses) == ("promoted", 1)
    assert _writes(town)[:3] == [f"write {weights}" for weights in (Weights(80, 10, 10), Weights(), Weights(80, 10, 10))]


def test_a_deleted_canary_is_made_again_and_a_second_time_is_a_failure(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.on_sleep = lambda town: town.arms.pop("canary", None) and None if town.weights.canary else None
    record = roll_out(town)
    assert (record.outcome, record.losses) == ("rolled_back", 1)
    is_settled(town, record)


def test_a_lost_baseline_gives_its_share_to_stable_and_is_made_again(tmp_path: Path) -> None:
    town = Town(tmp_path)

    def lose(town: Town) -> None:
        if town.weights.baseline and "lost" not in town.facts:
            town.facts["lost"] = True
            town.arms.pop("baseline")

    town.on_sleep = lose
    record = roll_out(town, plan(step=[{"weight_pct": 10, "bake_s": 20, "samples": 20000}]))
    assert f"write {Weights(90, 0, 10)}" in _writes(town)
    assert record.outcome == "promoted"
    is_settled(town, record)


def test_weights_that_somebody_else_changes_are_set_again_and_in_the_end_left_to_him(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.on_sleep = lambda town: (
        town.facts.update(weights={"stable": 95, "baseline": 0, "canary": 5}) if town.weights.canary == 10 else None
    )
    record = roll_out(town, plan(step=[{"weight_pct": 10, "bake_s": 60}]))
    assert (record.outcome, record.drifts) == ("rolled_back", 4)
    assert record.why == "somebody else set the weights 4 times"
    is_settled(town, record)


def test_a_release_that_stable_cannot_run_is_taken_back_there_too(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.on_sleep = lambda town: town.arms["stable"].update(ready_s=1e12) if town.arms["stable"]["next"] == "new" else None
    record = roll_out(town)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    assert record.why.startswith("stable does not run new: 3 of 3 are ready")
    assert "ensure stable old" in town.facts["log"]
    is_settled(town, record)


def test_too_little_data_extends_the_step_and_then_rolls_back_undecided(tmp_path: Path) -> None:
    town = Town(tmp_path)
    record = roll_out(town, plan(objectives={"quantile_ratio": {"quantile": 0.999}}))
    assert (record.outcome, record.conclusion, record.extensions) == ("rolled_back", "inconclusive", 1)
    is_settled(town, record)


def test_what_is_undecided_may_wait_for_a_person_who_promotes_or_lets_time_pass(tmp_path: Path) -> None:
    undecided = plan(objectives={"quantile_ratio": {"quantile": 0.999}}, inconclusive={"extend": 0, "then": "hold", "hold_s": 50})
    (tmp_path / "late").mkdir()
    assert roll_out(Town(tmp_path / "late"), undecided).why == "nobody decided within 50 s"
    (tmp_path / "promoted").mkdir()
    town = Town(tmp_path / "promoted")

    def decide(town: Town) -> None:
        stored = DiskJournal(town.folder / "journal").load()
        if stored is not None and stored.record.phase is Phase.HOLDING:
            _ask(town, "promote")

    town.on_sleep = decide
    record = roll_out(town, undecided)
    assert (record.outcome, record.conclusion) == ("promoted", None)
    assert any(entry.by == "a person" and "promote, asked by a person" in entry.detail for entry in record.timeline)
    is_settled(town, record)


def test_a_person_pauses_resumes_and_aborts(tmp_path: Path) -> None:
    town = Town(tmp_path)
    told: list[str] = []

    def talk(town: Town) -> None:
        if town.weights.canary and not told:
            told.append("pause")
            _ask(town, "pause")
        elif len(told) == 1 and town.now_s() < 1_000_050:
            town.facts["now"] += 5
        elif len(told) == 1:
            assert town.weights == Weights(80, 10, 10)  # a step that was over after some seconds waits as long as it is told to
            told.append("resume")
            _ask(town, "resume")
        elif len(told) == 2 and town.weights.canary == 50:
            told.append("abort")
            _ask(town, "abort")

    town.on_sleep = talk
    record = roll_out(town)
    assert told == ["pause", "resume", "abort"]
    assert (record.outcome, record.conclusion) == ("rolled_back", None)
    assert "abort, asked by a person" in record.why
    is_settled(town, record)


def test_a_shadow_is_judged_and_taken_away_again(tmp_path: Path) -> None:
    town = Town(tmp_path)
    record = roll_out(town, plan(finish="discard", step=[{"weight_pct": 0, "mirror_pct": 20}]))
    assert (record.outcome, record.conclusion) == ("discarded", "pass")
    assert "mirror 20" in town.facts["log"]
    assert _writes(town) == []
    is_settled(town, record)


def test_blue_green_moves_all_traffic_at_once_and_back_only_to_a_proven_stable(tmp_path: Path) -> None:
    town = Town(tmp_path)
    record = roll_out(town, plan(baseline=False, step=[{"weight_pct": 0}, {"weight_pct": 100}]))
    assert record.outcome == "promoted"
    assert _writes(town) == [f"write {weights}" for weights in (Weights(0, 0, 100), Weights())]
    is_settled(town, record)


def test_a_dead_api_is_waited_for_and_then_left_as_it_is_for_the_next_engine(tmp_path: Path) -> None:
    town = Town(tmp_path)
    dead_s = [1_000_015.0, 1_000_025.0]

    def dead(call: str) -> None:
        if dead_s[0] < town.now_s() < dead_s[1]:
            raise Unavailable(f"{call}: no answer")

    town.before = dead
    record = roll_out(town)
    assert record.outcome == "promoted"
    dead_s[:] = [town.now_s() + 10, town.now_s() + 1000]
    (tmp_path / "again").mkdir()
    town = Town(tmp_path / "again")
    dead_s[:] = [1_000_012.0, 1_000_100.0]
    town.before = dead
    with pytest.raises(Unavailable, match="no answer"):
        roll_out(town)
    town.facts["now"] = 1_000_200.0
    assert roll_out(town, name="next").outcome == "promoted"
    is_settled(town, DiskJournal(town.folder / "journal").history()[-1])


def test_what_the_other_side_refuses_rolls_back(tmp_path: Path) -> None:
    town = Town(tmp_path)

    def refuse(call: str) -> None:
        if call == f"write {Weights(80, 10, 10)}":
            raise Refused("403: the role has no verb patch")

    town.before = refuse
    record = roll_out(town)
    assert (record.outcome, record.why) == ("rolled_back", "refused: 403: the role has no verb patch")
    is_settled(town, record)


def test_traffic_that_cannot_be_looked_at_passes_nothing(tmp_path: Path) -> None:
    town = Town(tmp_path)

    def blind(call: str) -> None:
        if call == "look" and town.weights.canary:
            raise Unavailable("the load generator died")

    town.before = blind
    record = roll_out(town, plan(step=[{"weight_pct": 10, "timeout_s": 50}]))
    assert (record.outcome, record.conclusion) == ("rolled_back", "inconclusive")
    assert [entry.what for entry in record.timeline].count("blind") == 1


@pytest.mark.parametrize(("back_after_s", "outcome"), [(15, "promoted"), (1000, "rolled_back")])
def test_what_was_shown_before_the_load_generator_died_passes_no_step_that_is_still_baked(
    back_after_s: float, outcome: str, tmp_path: Path
) -> None:
    town = Town(tmp_path)
    shown_s: list[float] = []

    def blind(call: str) -> None:
        if call == "look" and town.weights.canary:
            shown_s.append(town.now_s())
            if shown_s[0] + 30 < town.now_s() < shown_s[0] + 30 + back_after_s:
                raise Unavailable("the load generator died")

    town.before = blind
    record = roll_out(town, plan(step=[{"weight_pct": 10, "samples": 2000, "bake_s": 40, "timeout_s": 100}]))
    assert record.outcome == outcome
    if outcome == "promoted":
        assert shown_s[-1] >= shown_s[0] + 45  # the look by which it passed saw something
    else:
        assert "cannot be looked at: the load generator died" in record.why
        assert record.conclusion == "inconclusive"
    is_settled(town, record)


def test_a_step_whose_load_generator_lost_a_process_does_not_pass(tmp_path: Path) -> None:
    class Crippled(Town):
        def look(self) -> Mapping[Arm, Look]:
            lost = self.facts["log"].count("begin step 0 %")
            return {arm: replace(seen, batch=replace(seen.batch, lost_workers=lost)) for arm, seen in super().look().items()}

        def begin(self, step: Step, arms: Sequence[Arm]) -> None:
            super().begin(step, arms)
            self.do(f"begin step {step.title}")

    town = Crippled(tmp_path)
    record = roll_out(town)
    assert (record.outcome, record.conclusion) == ("rolled_back", "inconclusive")
    assert "the load generator lost" in record.why
    is_settled(town, record)


def test_the_engine_of_a_lost_lease_stops_at_its_next_write(tmp_path: Path) -> None:
    town = Town(tmp_path)
    paused = town.world("first")
    paused.lease.acquire()
    first = begin(paused, "ranker", plan(), [NEW], "first")
    first.tick()
    second = town.world("second", lease=paused.lease)  # as if the first had slept until its lease ran out, and does not know
    begin(second, "ranker", plan(), [NEW], "second").run()
    with pytest.raises(NotHeld, match="engine second has taken over"):
        first.run()


def test_two_engines_never_run_at_once(tmp_path: Path) -> None:
    town = Town(tmp_path)
    other = town.world("other")
    other.lease.acquire()
    with pytest.raises(NotHeld, match="engine other is at work"):
        roll_out(town)


def test_a_write_whose_answer_was_lost_is_not_taken_for_another_engine(tmp_path: Path) -> None:
    town = Town(tmp_path)

    class Lossy(DiskJournal):
        writes = 0

        def save(self, record: Any, expected_version: str | None) -> str:
            version = super().save(record, expected_version)
            self.writes += 1
            if self.writes % 3 == 1:
                raise Unavailable("the connection broke after the write")
            return version

    record = roll_out(town, journal=Lossy(tmp_path / "journal"))
    assert record.outcome == "promoted"


def test_another_release_is_refused_while_one_is_under_way(tmp_path: Path) -> None:
    town = Town(tmp_path)
    begin(town.world(), "ranker", plan(), [NEW], "first")
    with pytest.raises(Refused, match="of new is preparing: abort it"):
        begin(town.world(), "ranker", plan(), [type(NEW)("newer")], "second")


def test_what_stable_runs_already_is_not_rolled_out(tmp_path: Path) -> None:
    town = Town(tmp_path)
    with pytest.raises(Settled, match="stable runs old already"):
        begin(town.world(), "ranker", plan(), [type(NEW)("old")], "engine")


def test_pods_that_an_update_has_beside_the_wanted_ones_are_not_waited_for(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.arms["stable"]["ready"] = 4

    def settle(town: Town) -> None:
        town.arms["stable"]["ready"] = 3

    town.on_sleep = settle
    record = roll_out(town)
    assert (record.outcome, record.stable_ready) == ("promoted", 3)


def test_finished_rollouts_stay_in_the_history(tmp_path: Path) -> None:
    town = Town(tmp_path, slow=2.0)
    roll_out(town)
    roll_out(town)
    history = DiskJournal(town.folder / "journal").history()
    assert [record.outcome for record in history] == ["rolled_back", "rolled_back"]
    assert len({record.id for record in history}) == 2


def test_a_stable_that_is_away_keeps_the_canary_serving_until_somebody_mends_it(tmp_path: Path) -> None:
    town = Town(tmp_path, slow=1.0)

    def away(town: Town) -> None:
        if town.weights.canary == 50 and "mended" not in town.facts:
            town.arms["stable"].update(ready=0, ready_s=1e12)

    town.on_sleep = away
    with pytest.raises(RolloutError, match="stable has no ready endpoint: the canary keeps its weight"):
        roll_out(town, plan(step=[*PLAN["step"][:2], {"weight_pct": 50, "bake_s": 200}]))
    assert town.weights == Weights(50, 0, 50)
    town.facts["mended"] = True
    town.arms["stable"].update(ready=3)
    record = roll_out(town)
    assert record.outcome == "rolled_back"
    is_settled(town, record)


def test_a_step_whose_engines_die_again_and_again_is_given_up(tmp_path: Path) -> None:
    class Died(BaseException):
        """Nothing may catch it."""

    town = Town(tmp_path)

    def die(call: str) -> None:
        if call == "look" and town.weights.canary:
            raise Died

    town.before = die
    for number in range(MAX_ATTEMPTS):
        with pytest.raises(Died):
            roll_out(town, name=f"engine {number}")
    record = roll_out(town, name="last")
    assert (record.outcome, record.conclusion) == ("rolled_back", "inconclusive")
    assert record.why == f"step 10 % was begun {MAX_ATTEMPTS} times, and never decided"
    is_settled(town, record)
