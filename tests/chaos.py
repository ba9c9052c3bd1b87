"""A town in which everything goes wrong that may, and which complains as soon as the engine does what it must not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from k8s.errors import Conflict, Ignored, Refused, RolloutError, Unavailable
from k8s.rollout.arms import ARMS, CANARIES, Arm, ArmState, Release, Weights
from k8s.rollout.phases import Phase
from k8s.rollout.plan import Plan
from k8s.rollout.record import Record
from k8s.rollout.start import ask, begin, held
from k8s.rollout.world import World
from loadtests.judge import Arm as Requests
from tests.rollouts import OLD, SAMPLES_A_LOOK, START_S, Town
from tests.scenarios import LEASE_S, Event, Fault, Memory, MemoryLease, QuickJudge, Scenario

MAX_ENGINES, MAX_CALLS = 60, 20_000

TROUBLE_ENDS_S = 300.0
"""After the start. From then on nothing goes wrong any more, and whoever paused goes on."""

READS = ("state", "read", "look", "request", "load", "save")
"""Where an engine may be frozen, or after it has saved. In the middle of an action it may be frozen too, and no journal and no lease could keep
it from ending that when it wakes up."""

MAX_LOOKS = 4
"""In which an arm may keep weight that it must not have: it is found, journalled, and taken away at the next look."""

GROWTH_MIB = 300
"""A second. The plans allow 2,000: a release that grows is there for longer than that before stable may run it."""


class Killed(BaseException):
    """The engine's process ends here; not an Exception, since nothing may catch it."""


class Chaos(Town):
    """A town of one scenario, in memory."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(Path("nowhere"))
        self.scenario, self.memory = scenario, Memory(self)
        self.kinds = dict(zip((release.name for release in scenario.releases), scenario.kinds, strict=True))
        self.before, self.after, self.on_sleep = self._before, self._after, self._happen
        self.calls, self.dead, self.engines, self.promoted_by_a_person = 0, False, 0, set[str]()
        self._seen: dict[Arm, int] = {}
        self._read, self._foreign, self._drifted, self._works = Weights(), False, False, False
        self._route, self._told, self._exposed, self._phases = False, set[int](), dict[Arm, int](), dict[Phase, float]()
        self._faults = {fault.call + number: fault for fault in reversed(scenario.faults) for number in range(_length(fault))}

    def keep(self) -> None:
        """Nothing outlives this process."""

    @property
    def record(self) -> Record | None:
        """What the journal says."""
        return self.memory.record

    def world(self, name: str = "engine", **changes: Any) -> World:
        """The ports of an engine of this name."""
        return replace(World(self, self, {"synthetic": self}, self.memory, MemoryLease(self.memory, name), self), **changes)

    # Trouble.

    def _before(self, call: str) -> None:
        if self.dead:
            raise Killed
        self.calls += 1
        assert self.calls < MAX_CALLS, "it never ends"
        fault = self._fault()
        if fault is None:
            return
        if fault.kind == "killed before":
            self._die()
        errors: Mapping[str, Callable[[str], RolloutError]] = {
            "unavailable": Unavailable, "refused": Refused, "ignored": Ignored, "conflict": Conflict,
        }  # fmt: skip
        if fault.kind == "another engine" and call in READS:
            self._let_another_work(fault.calls)
        elif fault.kind == "ignored" and not call.startswith(("write", "mirror")):
            pass
        elif fault.kind in errors:
            raise errors[fault.kind](f"{fault.kind}: {call}")

    def _after(self, call: str) -> None:
        fault = self._fault()
        if fault is not None and fault.kind == "killed after":
            self._die()
        if fault is not None and fault.kind == "frozen after" and call == "save":
            self._let_another_work(fault.calls)
        if fault is not None and fault.kind == "answer lost":
            raise Unavailable(f"the answer was lost: {call}")

    def _fault(self) -> Fault | None:
        return self._faults.get(self.calls) if self.now_s() < START_S + TROUBLE_ENDS_S else None

    def _die(self) -> None:
        self.dead = True
        raise Killed

    def _let_another_work(self, looks: int) -> None:
        """The engine that calls is frozen; another takes over, and is killed, or is through."""
        record = self.record
        if record is None or record.is_over:
            return
        self.sleep(LEASE_S + 1)
        writes, read, frozen = self.memory.writes, self._read, self.facts.pop("frozen", False)
        self.start(looks)
        self._read = read
        if frozen or self.memory.writes > writes:
            self.facts["frozen"] = True  # until it is told that it is none any more, it must not do anything

    def start(self, looks: int | None = None) -> bool:
        """Start an engine; whether the rollout is over."""
        self.dead, self.engines = False, self.engines + 1
        name = f"engine {self.engines}"
        world = self.world(name)
        try:
            with held(world.lease, self):
                engine = begin(world, "ranker", self.scenario.plan, self.scenario.releases, name, key="once")
                self._works = True
                if looks is None:
                    engine.run()
                else:
                    engine.record.is_over or engine._ledger.save(what="took over", engine=name)  # as the first thing in run()
                    for _ in range(looks):
                        if not engine.record.is_over:
                            engine.tick()
                            self.sleep(1)
                    self._die()
        except (Killed, RolloutError):
            pass
        self.dead = self._works = False
        self.facts.pop("frozen", None)
        return (record := self.record) is not None and record.is_over

    def _happen(self, town: Town) -> None:
        """Whatever others do."""
        ended = self.now_s() >= START_S + TROUBLE_ENDS_S
        for name, arm in self.arms.items():
            kind = self.kinds.get(arm["release"]) if name in CANARIES else None
            if kind == "grows" and arm["ready"]:
                arm["memory"] += GROWTH_MIB
            is_new = name == "stable" and arm["release"] != OLD.name and arm["next"] in (None, arm["release"])
            if is_new and "breaks" in self.facts and not ended:
                arm.update(ready=0, ready_s=self.now_s() + 1)
            if kind == "crashes under weight" and arm["ready"] and self.weights.of(name):  # type: ignore[arg-type]
                arm.update(ready=0, ready_s=self.now_s() + 3, restarts=arm["restarts"] + 1)
        if ended and (record := self.record) is not None and record.paused:
            self._ask(Event(record.phase, 0, "resume"))
        if (record := self.record) is not None:
            self._phases.setdefault(record.phase, self.now_s())
        for number, event in enumerate(self.scenario.events):
            due_s = self._phases.get(event.phase, np.inf) + event.after_s
            if not ended and number not in self._told and self.now_s() >= due_s:
                self._told.add(number)
                self._do(event)
        self._count_exposed()

    def _count_exposed(self) -> None:
        """Whoever must not have weight loses it within a few looks, where nothing keeps the engine from it."""
        record = self.record
        trouble = not self._works or self.dead or self.calls in self._faults or self.arms["stable"]["ready"] == 0 or self._drifted
        self._drifted = False
        for arm in CANARIES:
            is_away = not self.arms.get(arm, {"ready": 0})["ready"] or (record and arm in {each.arm for each in record.dropped})
            is_wrong = record and not record.is_over and self.weights.of(arm) and is_away and not trouble
            self._exposed[arm] = self._exposed.get(arm, 0) + 1 if is_wrong else 0
            assert self._exposed[arm] <= MAX_LOOKS, f"{arm}, which is away or dropped, keeps {self.weights}"

    def _do(self, event: Event) -> None:
        if event.kind == "breaks":
            self.facts["breaks"] = True
        elif event.kind == "weights":
            shares = [min(share, 100) for share in event.weights[: 2 + len(self.kinds)]]
            rest = 100 - sum(shares[1:])
            if rest >= 0 and self._route:  # what is not there cannot be changed
                self.facts["weights"] = vars(Weights.shared(dict(zip(ARMS, [rest, *shares[1:]], strict=False))))
                self._foreign = self._drifted = True
        elif event.kind in ("pause", "resume", "promote", "abort"):
            self._ask(event)
        for name in event.arms:
            arm = self.arms.get(name)
            if arm is None:
                continue
            if event.kind == "away":
                arm.update(ready=0, ready_s=self.now_s() + event.lasts_s)
            elif event.kind == "given" and name != "stable":
                arm.update(release="stranger", next="stranger")
            elif event.kind == "restarted":
                arm["restarts"] += 1
            elif event.kind == "deleted" and name != "stable":
                del self.arms[name]

    def _ask(self, event: Event) -> None:
        record = self.record
        if record is None or record.is_over:
            return
        if event.kind == "promote":
            self.promoted_by_a_person |= {event.release} if event.release else {each.name for each in self.scenario.releases}
        ask(self.memory, record, event.kind, by="a person", at_s=self.now_s(), reason="", release=event.release)  # type: ignore[arg-type]

    # What the engine must not do.

    def do(self, call: str, *, effect: Callable[[], Any] = lambda: None) -> None:
        """An action, which an engine that was replaced must not begin."""
        assert "frozen" not in self.facts, f"an engine that was replaced does: {call}"
        super().do(call, effect=effect)

    def read(self) -> Weights:
        """As `Router.read`."""
        self.before("read")
        self._read, self._foreign = self.weights, False
        return self.weights

    def write(self, weights: Weights) -> None:
        """As `Router.write`."""
        self.do(f"write {weights}", effect=lambda: self._give(weights))

    def _give(self, weights: Weights) -> None:
        record, before = self._must_record(), self.weights
        known = {arm: max(before.of(arm), self._read.of(arm), record.weights.of(arm) if record.intent is None else 0) for arm in ARMS}
        gone = {each.arm for each in record.dropped} | ({*CANARIES} - {*record.canaries})
        back = record.phase in (Phase.ROLLING_BACK, Phase.REVERTING, Phase.RETURNING, Phase.CLEANING, Phase.PREPARING)
        for arm in CANARIES:
            if weights.of(arm) > before.of(arm):
                assert self._seen.get(arm), f"weight was given to {arm}, which was not ready when it was looked at"
            if weights.of(arm) > known[arm]:
                assert arm not in gone, f"{arm}, which is tried no longer, gets more weight"
                assert not back, f"{arm} gets weight while {record.phase}"
        if weights.stable > before.stable and not self._seen.get("stable"):
            served = [arm for arm in CANARIES if before.of(arm) and self._seen.get(arm)]
            assert not served, f"stable, which is not there, gets the weight of {served}"
        self.facts["weights"], self._route = vars(weights), True

    def rest(self) -> None:
        """As `Router.rest`: the route goes, and with it what others made of it."""
        record = self._must_record()
        left_to_them = self._foreign or record.drifts > record.plan.max_drifts
        assert self.weights == Weights() or left_to_them, "the route was put away while it had weights"
        self.do("rest", effect=self._no_route)

    def withdraw(self) -> None:
        """As `Router.withdraw`."""
        self.do("withdraw", effect=self._no_route)

    def _no_route(self) -> None:
        self.facts.update(weights=vars(Weights()), mirror=0)
        self._route = False

    def ensure(self, arm: Arm, release: Release, replicas: int | None) -> None:
        """As `Fleet.ensure`."""
        record = self._must_record()
        if arm == "stable":
            assert replicas is None, "the engine scales stable"
            if release != OLD:
                assert record.phase is Phase.PROMOTING
                assert record.chosen is not None
                assert record.release_of(record.chosen) == release, f"stable gets {release.name}"
                failed = {judged.release for judged in record.verdicts if judged.verdict["status"] == "fail"}
                assert release.name not in failed, f"stable gets {release.name}, which the judge failed"
                assert self.scenario.is_good(release.name) or release.name in self.promoted_by_a_person or self.kinds[release.name] in (
                    "grows", "crashes under weight"
                ), f"stable gets {release.name}, which is {self.kinds[release.name]}"  # fmt: skip
        super().ensure(arm, release, replicas)
        if arm != "stable" and self.arms[arm]["ready"] < self.arms[arm]["wanted"]:
            self.arms[arm]["ready_s"] = self.now_s() + self.scenario.start_s

    def remove(self, arm: Arm) -> None:
        """As `Fleet.remove`."""
        assert arm != "stable"
        assert not self.weights.of(arm) or self._foreign, f"{arm} was removed while it had weight"
        self.do(f"remove {arm}", effect=lambda: self.arms.pop(arm, None))

    def _must_record(self) -> Record:
        record = self.record
        assert record is not None, "the engine acts without a record"
        return record

    # What there is to see.

    def state(self, arm: Arm) -> ArmState:
        """As `Fleet.state`."""
        found = super().state(arm)
        if arm in CANARIES and self.kinds.get(str(found.release)) == "dies at start":
            found = ArmState(None, 0, found.wanted, 3, None, "CrashLoopBackOff")
        self._seen[arm] = found.ready
        return found

    def end(self) -> None:
        """As `Traffic.end`."""
        self.before("end")

    def _requests(self, arm: Arm) -> Requests:
        found: Mapping[str, Any] = self.arms.get(arm) or {"ready": 0, "release": None}
        kind = self.kinds.get(str(found["release"])) if arm in CANARIES else None
        n = 0 if not found["ready"] or kind == "dies at start" else SAMPLES_A_LOOK
        rng = np.random.default_rng([int(self.now_s()), ARMS.index(arm)])
        slow = kind == "slow" or (kind == "slow under weight" and self.weights.of(arm) > 0)
        latency_ms = rng.lognormal(1.0, 0.1, n) * (4.0 if slow else 1.5 if kind == "unclear" else 1.0)
        ok = rng.random(n) >= (0.6 if kind == "failing" else 0.0)
        return Requests(started_s=self.now_s() + np.sort(rng.random(n)), latency_ms=latency_ms, ok=ok)


def _length(fault: Fault) -> int:
    return 1 if fault.kind in ("killed before", "killed after", "another engine", "frozen after") else fault.calls


def play(scenario: Scenario) -> tuple[Chaos, Record]:
    """Carry a scenario to its end, by as many engines as that takes."""
    town = Chaos(scenario)
    with patch.object(Plan, "judge", QuickJudge):
        while not town.start():
            assert town.engines < MAX_ENGINES, f"{MAX_ENGINES} engines did not end it: {town.record and town.record.phase}"
            town.sleep(5)
    record = town.record
    assert record is not None
    return town, record
