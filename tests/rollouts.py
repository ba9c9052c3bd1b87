"""A world for the engine of rollouts that fits into a file: arms, weights, time. What the engine does to it outlives the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from k8s.rollout.arms import ARMS, CANARIES, Arm, ArmState, Release, Weights
from k8s.rollout.disk import DiskJournal, DiskLease
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Copied, Step
from k8s.rollout.ports import Look
from k8s.rollout.start import begin, held
from k8s.rollout.world import World
from loadtests.judge import Arm as Requests
from loadtests.judge import Batch

OLD, NEW = Release("old"), Release("new")
START_S = 1_000_000.0
SAMPLES_A_LOOK = 400

PLAN: dict[str, Any] = {
    "name": "test",
    "warm_up": {"requests": 300, "mirror_pct": 5},
    "synthetic": {},
    "objectives": {
        "quantile_ratio": {"quantile": 0.5, "tolerated_ratio": 1.1, "max_ratio": 2.0},
        "error_increase": {"max_points": 10.0},
        "policy": {"min_samples": 200, "planned_samples": 1000},
    },
    "inconclusive": {"extend": 1, "then": "roll_back", "hold_s": 60},
    "times": {"ready_s": 30, "promote_s": 40, "proven_s": 3, "api_s": 20, "poll_s": 1},
    "step": [{"weight_pct": 0, "samples": 2000}, {"weight_pct": 10, "samples": 2000}, {"weight_pct": 50, "samples": 2000}],
}


LATENCY_ALONE = {key: value for key, value in PLAN["objectives"].items() if key != "error_increase"}
"""For tests with hundreds of rollouts: intervals of rare errors are half of what one costs."""


def plan(**changes: Any) -> Plan:
    """A plan that a good release goes through in about 20 looks."""
    return Plan.model_validate(PLAN | changes)


class Town:
    """The truth about arms, weights and time; kept in a file, so that it outlives a killed process.

    Attributes
    ----------
    bad
        Names of releases that are slow, fail or die.
    on_sleep
        Called when time passes: where tests change the world behind the engine's back.
    before, after
        Called with the name of a call before it takes effect, and after; where tests raise errors, or kill.
    """

    def __init__(self, folder: Path, *, slow: float = 1.0, slow_from_pct: int = 0, error_pct: float = 0.0, dies: bool = False) -> None:
        self.folder, self.slow, self.slow_from_pct, self.error_pct, self.dies_at_start = folder, slow, slow_from_pct, error_pct, dies
        self.bad = {NEW.name}
        self.on_sleep: Callable[[Town], None] = lambda town: None
        self.before: Callable[[str], None] = lambda call: None
        self.after: Callable[[str], None] = lambda call: None
        self._file = folder / "town.json"
        if self._file.exists():
            self.facts = json.loads(self._file.read_text())
        else:
            stable = {"release": OLD.name, "wanted": 3, "ready": 3, "ready_s": 0.0, "restarts": 0, "memory": 100, "next": None}
            self.facts = {"now": START_S, "weights": asdict(Weights()), "mirror": 0, "floor": None, "arms": {"stable": stable}, "log": []}
            self.keep()

    def keep(self) -> None:
        self._file.write_text(json.dumps(self.facts))

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        return self.facts["arms"]

    @property
    def weights(self) -> Weights:
        return Weights(**self.facts["weights"])

    def do(self, call: str, *, effect: Callable[[], Any] = lambda: None) -> None:
        """A call takes effect, unless the test lets it fail before."""
        self.before(call)
        effect()
        self.facts["log"].append(call)
        self.keep()
        self.after(call)

    # Clock

    def now_s(self) -> float:
        return self.facts["now"]

    def sleep(self, seconds: float) -> None:
        self.facts["now"] += max(seconds, 0.01)
        for arm in self.arms.values():
            if arm["ready"] < arm["wanted"] and self.now_s() >= arm["ready_s"]:
                arm["ready"], arm["release"] = arm["wanted"], arm["next"] or arm["release"]
            elif arm["next"] and arm["next"] != arm["release"] and self.now_s() >= arm["ready_s"]:
                arm["release"] = arm["next"]
        self.on_sleep(self)
        self.keep()

    # Router

    def read(self) -> Weights:
        self.before("read")
        return self.weights

    def write(self, weights: Weights) -> None:
        self.do(f"write {weights}", effect=lambda: self.facts.update(weights=asdict(weights)))
        for arm in CANARIES:
            assert not weights.of(arm) or self.arms.get(arm, {}).get("ready"), f"weight was given to {arm}, which is not there"

    def mirror(self, pct: int, to: Copied = "canary") -> None:
        self.do(f"mirror {pct}" + (f" to the {to}" if pct and to != "canary" else ""), effect=lambda: self.facts.update(mirror=pct))

    def check_mirror(self, pct: int) -> str | None:
        self.before("check_mirror")
        return None

    def keeps_users(self) -> bool:
        self.before("keeps_users")
        return bool(self.facts.get("sticky"))

    def rest(self) -> None:
        assert self.weights == Weights(), "the route was put away while it had weights"
        self.do("rest")

    def withdraw(self) -> None:
        self.do("withdraw", effect=lambda: self.facts.update(weights=asdict(Weights()), mirror=0))

    # Fleet

    def ensure(self, arm: Arm, release: Release, replicas: int | None) -> None:
        def change() -> None:
            found = self.arms.get(arm)
            if found is None:
                fresh = {"release": release.name, "wanted": replicas, "ready": 0, "ready_s": self.now_s() + 2, "next": release.name}
                self.arms[arm] = fresh | {"restarts": 0, "memory": 100}
            elif arm == "stable":
                assert replicas is None, "the engine scales stable"
                if found["next"] != release.name and (found["next"] or found["release"]) != release.name:
                    found.update(next=release.name, ready_s=self.now_s() + 4)
            elif (replicas, release.name) != (found["wanted"], found["next"]):
                found.update(wanted=replicas, next=release.name, ready_s=self.now_s() + 2)

        self.do(f"ensure {arm} {release.name}", effect=change)

    def state(self, arm: Arm) -> ArmState:
        self.before("state")
        found = self.arms.get(arm)
        if found is None:
            return ArmState(reason="there is no such Deployment")
        if arm in CANARIES and self.dies_at_start and found["release"] in self.bad:
            return ArmState(None, 0, found["wanted"], 3, None, "CrashLoopBackOff")
        changing = found["next"] is not None and found["next"] != found["release"]
        name = None if changing else found["release"]
        return ArmState(name, found["ready"], found["wanted"], found["restarts"], found["memory"] * 2**20)

    def stable_release(self) -> Release:
        self.before("stable_release")
        return OLD

    def floor(self, replicas: int | None) -> None:
        self.do(f"floor {replicas}", effect=lambda: self.facts.update(floor=replicas))

    def remove(self, arm: Arm) -> None:
        assert arm != "stable"
        assert self.weights.of(arm) == 0, f"{arm} was removed while it had weight"
        self.do(f"remove {arm}", effect=lambda: self.arms.pop(arm, None))

    # Traffic

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        self.before("begin")
        self.running = arms

    def look(self) -> dict[Arm, Look]:
        self.before("look")
        *canaries, beside = (self._requests(arm) for arm in self.running)
        return {arm: Look(Batch(canary=canary, baseline=beside)) for arm, canary in zip(self.running, canaries, strict=False)}

    def end(self) -> None:
        pass

    def _requests(self, arm: Arm) -> Requests:
        found = self.arms.get(arm, {"ready": 0, "release": None})
        n = SAMPLES_A_LOOK if found["ready"] else 0
        rng = np.random.default_rng([int(self.now_s()), ARMS.index(arm)])
        bad = arm in CANARIES and found["release"] in self.bad and self.weights.of(arm) >= self.slow_from_pct
        started_s = self.now_s() + np.sort(rng.random(n))
        latency_ms = rng.lognormal(1.0, 0.4, n) * (self.slow if bad else 1.0)
        return Requests(started_s=started_s, latency_ms=latency_ms, ok=rng.random(n) >= (self.error_pct / 100 if bad else 0.0))

    def world(self, name: str = "engine", **changes: Any) -> World:
        """The ports of an engine of this name."""
        journal, lease = DiskJournal(self.folder / "journal"), DiskLease(self.folder / "journal", name)
        return replace(World(self, self, {"synthetic": self}, journal, lease, self), **changes)


def roll_out(
    town: Town,
    asked: Plan | None = None,
    name: str = "engine",
    *,
    releases: Sequence[Release] = (NEW,),
    key: str | None = None,
    **changes: Any,
) -> Any:
    """Begin, or go on, and run until it is over; the record."""
    world = town.world(name, **changes)
    with held(world.lease, town, wait_s=0):
        return begin(world, "ranker", asked or plan(), releases, name, key=key).run()


def is_settled(town: Town, record: Any) -> None:
    """Everything is as it must be when a rollout is over."""
    assert record.is_over
    assert town.weights == Weights()
    assert town.facts["mirror"] == 0
    assert town.facts["floor"] is None
    assert set(town.arms) == {"stable"}
    assert town.arms["stable"]["next"] in (None, town.arms["stable"]["release"]) or not town.arms["stable"]["ready"]
    assert town.arms["stable"]["release"] == (record.title if record.outcome == "promoted" else OLD.name)
