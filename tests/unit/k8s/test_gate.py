"""The judge for Argo Rollouts and Flagger: what it says of a canary, and when it loads one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from k8s.errors import Refused, Unavailable
from k8s.gate import MAX_BEGINNINGS, MAX_REMEMBERED, TICK_S, Gate, Subject, missing
from k8s.rollout.arms import Arm
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Step
from k8s.rollout.ports import Look
from loadtests.judge import Arm as Requests
from tests.clusters import Clock, Load
from tests.rollouts import PLAN, plan
from tests.upstreams import upstream

IDLE_S = 100.0
ONE_STEP = {"warm_up": {"requests": 0}, "step": [{"weight_pct": 0, "samples": 2000, "timeout_s": 60}]}


class Watched(Load):
    """A load that notes what is done to it."""

    def __init__(self, clock: Clock, slow: float = 1.0) -> None:
        super().__init__(clock, slow)
        self.begun, self.ended, self.broken = 0, 0, ""

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        super().begin(step, arms)
        self.begun += 1

    def look(self) -> dict[Arm, Look]:
        if self.broken:
            raise Unavailable(self.broken)
        return super().look()

    def end(self) -> None:
        self.ended += 1


class Rig:
    """A gate, and the time that passes between two looks."""

    def __init__(self, asked: Plan | None = None, slow: float = 1.0, absent: Callable[[], str | None] = lambda: None) -> None:
        self.clock, self.told = Clock(), list[str]()
        self.load = Watched(self.clock, slow)
        traffic: Any = {"synthetic": self.load}
        told = self.told.append
        self.gate = Gate(asked or plan(**ONE_STEP), traffic, idle_s=IDLE_S, absent=absent, now_s=self.clock.now_s, tell=told)

    def pass_s(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        self.gate.tick()

    def ask(self, release: str = "abc", step: str = "") -> dict[str, Any]:
        return dict(self.gate.ask(Subject(release, step)))

    def status(self, release: str = "abc", step: str = "") -> str:
        return str(self.ask(release, step)["status"])

    def after(self, looks: int, release: str = "abc", step: str = "") -> dict[str, Any]:
        """The answer after so many looks, one of which begins the load."""
        for _ in range(looks):
            self.ask(release, step)
            self.pass_s(1)
        return self.ask(release, step)


def test_the_first_question_begins_the_load_and_waits_for_nothing() -> None:
    rig = Rig()
    assert (rig.status(), rig.load.begun) == ("inconclusive", 0)
    rig.gate.tick()
    assert rig.load.begun == 1


@pytest.mark.parametrize(("slow", "status"), [(1.0, "pass"), (2.0, "fail")])
def test_evidence_adds_up_to_a_verdict(slow: float, status: str) -> None:
    found = Rig(slow=slow).after(6)
    assert (found["status"], found["release"]) == (status, "abc")
    assert found["samples"] >= 400


def test_a_failure_is_final_and_ends_the_load() -> None:
    rig = Rig(slow=2.0)
    rig.after(8)
    assert rig.load.ended == 1
    rig.load.broken = "nobody should look"
    assert rig.after(3)["status"] == "fail"


def test_a_pass_is_watched_until_the_time_of_the_step_is_over_and_then_stays_without_load() -> None:
    rig = Rig(plan(**ONE_STEP | {"step": [{"weight_pct": 0, "samples": 2000, "timeout_s": 12}]}))
    assert rig.after(6)["status"] == "pass"
    assert rig.load.ended == 0
    found = rig.after(30)
    assert found["status"] == "pass"
    assert "This is final: the step has had its time" in found["sentence"]
    assert (rig.load.begun, rig.load.ended) == (1, 1)


def test_a_canary_that_becomes_slow_after_it_passed_fails() -> None:
    rig = Rig()
    assert rig.after(6)["status"] == "pass"
    rig.load._slow = 3.0
    assert rig.after(30)["status"] == "fail"


def test_what_cannot_be_decided_by_the_requests_of_the_step_ends_inconclusive() -> None:
    unsure = {**PLAN["objectives"], "quantile_ratio": {"quantile": 0.5, "tolerated_ratio": 1.1, "max_ratio": 1.11}}
    rig = Rig(plan(**ONE_STEP | {"objectives": unsure, "inconclusive": {"extend": 0}}), slow=1.105)
    found = rig.after(20)
    assert (found["status"], rig.load.ended) == ("inconclusive", 1)
    assert "This is final: the step has had its requests" in found["sentence"]


def test_nothing_passes_before_the_bake_time_is_over() -> None:
    rig = Rig(plan(**ONE_STEP | {"step": [{"weight_pct": 0, "bake_s": 20, "timeout_s": 60}]}))
    found = rig.after(10)
    assert found["status"] == "inconclusive"
    assert "bake time of 20 s is not over" in found["sentence"]
    assert rig.after(15)["status"] == "pass"


def test_answers_of_a_cold_canary_are_left_out() -> None:
    rig = Rig(plan(**ONE_STEP | {"warm_up": {"requests": 1000}}), slow=5.0)
    found = rig.after(4)
    assert (found["status"], found["samples"]) == ("inconclusive", 0)
    assert "Warming up: 1200 of 1000" in found["sentence"]
    rig.load._slow = 1.0
    assert rig.after(6)["status"] == "pass"


def test_a_canary_that_does_not_get_warm_is_judged_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(plan(**ONE_STEP | {"warm_up": {"requests": 1000, "timeout_s": 3}}))

    def failing(arm: Arm) -> Requests:
        at_s = rig.clock.now_s() + np.arange(400) / 400
        return Requests(at_s, np.ones(400), np.full(400, arm != "canary"))

    monkeypatch.setattr(rig.load, "_requests", failing)
    assert rig.after(20)["status"] == "fail"


def test_nothing_is_loaded_before_both_arms_are_there() -> None:
    missing = ["The canary is not ready."]
    rig = Rig(absent=lambda: missing[0] if missing else None)
    found = rig.after(5)
    assert found["status"] == "inconclusive"
    assert found["sentence"] == "The canary is not ready. The load begins when it is there."
    assert rig.load.begun == 0
    missing.clear()
    assert rig.after(6)["status"] == "pass"


def test_a_load_that_died_passes_nothing_and_begins_again() -> None:
    rig = Rig()
    assert rig.after(6)["status"] == "pass"
    rig.load.broken = "the load generator died"
    found = rig.after(1)
    assert (found["status"], found["sentence"]) == ("inconclusive", "the load generator died. The load begins again.")
    rig.load.broken = ""
    assert rig.after(8)["status"] == "pass"
    assert "abc: the load begins, attempt 2" in rig.told


def test_a_load_that_dies_again_and_again_is_given_up_with_its_reason() -> None:
    rig = Rig()
    rig.load.broken = "the load generator died"
    found = rig.after(20)
    assert found["status"] == "inconclusive"
    assert found["sentence"] == f"the load generator died. This is final: it was begun {MAX_BEGINNINGS} times."
    assert rig.load.begun == MAX_BEGINNINGS


def test_a_load_that_cannot_be_made_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Load, step: Step, arms: Sequence[Arm]) -> None:
        raise Refused("synthetic requests are sent by Locust")

    monkeypatch.setattr(Watched, "begin", refused)
    assert Rig().after(3)["sentence"] == "synthetic requests are sent by Locust"


def test_nobody_asks_and_the_load_ends() -> None:
    rig = Rig()
    rig.after(6)
    rig.pass_s(IDLE_S - 1)
    assert rig.load.ended == 0
    rig.pass_s(2)
    assert rig.load.ended == 1
    rig.pass_s(1)
    assert rig.load.begun == 1


def test_who_asks_again_after_a_while_is_judged_anew_with_half_of_the_risk() -> None:
    rig = Rig(slow=2.0)
    assert rig.after(8)["status"] == "fail"
    rig.pass_s(IDLE_S + 1)
    rig.load._slow = 1.0
    assert rig.status() == "inconclusive"
    assert rig.after(8)["status"] == "pass"
    assert "abc: the load begins, attempt 2" in rig.told


def test_another_release_and_another_step_are_judged_anew() -> None:
    rig = Rig()
    for subject in (("abc", "1"), ("abc", "2"), ("def", "2")):
        assert rig.status(*subject) == "inconclusive"
        found = rig.after(6, *subject)
        assert (found["status"], found["release"], found["step"]) == ("pass", *subject)
    assert (rig.load.begun, rig.load.ended) == (3, 2)


def test_of_two_releases_the_newer_is_judged_and_the_older_does_not_take_the_load_back() -> None:
    rig = Rig()
    rig.after(3, "abc")
    for _ in range(8):
        rig.ask("def")
        rig.pass_s(1)
        assert rig.ask("abc")["sentence"] == "Judged no longer: def came after it."
    assert rig.status("def") == "pass"
    assert (rig.load.begun, rig.load.ended) == (2, 1)


def test_a_release_that_comes_back_later_is_judged_again() -> None:
    rig = Rig()
    rig.after(3, "abc")
    rig.after(3, "def")
    rig.pass_s(IDLE_S + 1)
    assert rig.ask("abc")["sentence"] == "The load begins."


def test_the_warm_up_and_the_time_of_a_step_bound_the_load_however_long_somebody_asks() -> None:
    rig = Rig(plan(**ONE_STEP | {"step": [{"weight_pct": 0, "timeout_s": 30}], "inconclusive": {"extend": 1}}))
    rig.load._requests = lambda arm: Requests(np.empty(0), np.empty(0), np.empty(0, dtype=bool))  # type: ignore[method-assign]
    found = rig.after(100)
    assert found["status"] == "inconclusive"
    assert "This is final: the step has had its time" in found["sentence"]
    assert (rig.load.begun, rig.load.ended) == (1, 1)


def test_what_cannot_be_judged_is_told() -> None:
    rig = Rig(plan(**ONE_STEP | {"objectives": {"error_increase": {"endpoint": "rank"}}}))
    found = rig.after(3)  # requests of this load have no endpoint
    assert found["status"] == "inconclusive"
    assert "cannot be judged" in found["sentence"]
    assert rig.load.ended == 1


def test_subjects_are_not_remembered_without_end() -> None:
    rig = Rig()
    for number in range(3 * MAX_REMEMBERED):
        rig.ask(str(number))
    assert len(rig.gate._attempts) == len(rig.gate._past) == MAX_REMEMBERED


def test_a_gate_that_is_told_to_stop_ends_its_load() -> None:
    rig, stop = Rig(), threading.Event()
    rig.ask()
    thread = threading.Thread(target=rig.gate.run, args=(stop,))
    thread.start()
    try:
        for _ in range(100):
            if rig.load.begun:
                break
            stop.wait(TICK_S / 10)
    finally:
        stop.set()
        thread.join(10)
    assert (rig.load.begun, rig.load.ended) == (1, 1)


def test_an_arm_is_there_when_it_says_that_it_is_ready() -> None:
    with upstream("canary") as canary, upstream("stable") as stable:
        addresses: dict[Arm, str] = {"canary": f"http://127.0.0.1:{canary.port}/", "stable": f"http://127.0.0.1:{stable.port}"}
        assert missing(addresses) is None
        stable.healthy = False
        assert missing(addresses) == f"The stable is not ready: http://127.0.0.1:{stable.port}/readyz answers 503."
    told = missing(addresses)
    assert told is not None
    assert "The canary is not ready" in told
    assert "refused" in told
