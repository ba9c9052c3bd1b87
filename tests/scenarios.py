"""What may happen to a rollout: releases of any kind, plans, faults and events; and the journal, lease and judge of a town in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from k8s.errors import Conflict, NotHeld
from k8s.rollout.arms import Arm, Release
from k8s.rollout.phases import Phase
from k8s.rollout.plan import Plan
from k8s.rollout.ports import Stored
from k8s.rollout.record import Record, Request
from loadtests.judge import Batch, Status, Verdict
from tests.rollouts import Town

LEASE_S = 30.0

ENOUGH = 600
"""Requests of each arm by which the quick judge is sure; two looks."""

Kind = Literal["good", "slow", "failing", "dies at start", "slow under weight", "crashes under weight", "grows", "unclear"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong when the engine calls the world for the n-th time.

    Attributes
    ----------
    kind
        ``killed before``, ``killed after``, ``unavailable``, ``refused``, ``ignored``, ``conflict``, ``answer lost``, or
        ``another engine`` and ``frozen after``: this one sleeps until its lease has run out, and another works meanwhile.
    calls
        For how many calls it lasts; for another engine, how often that looks.
    """

    call: int
    kind: str
    calls: int = 1


@dataclass(frozen=True)
class Event:
    """What somebody, or something, else does to the world.

    Attributes
    ----------
    phase, after_s
        When: so many seconds after the rollout first was in this phase.
    kind
        ``given`` (arms run another release), ``away`` (arms lose their readiness), ``breaks`` (stable does, with any new release), ``deleted``, ``restarted``, ``weights``, ``pause``, ``resume``, ``promote``, ``abort``.
    weights
        That somebody else sets: shares of the arms, in their order.
    """

    phase: Phase
    after_s: int
    kind: str
    arms: tuple[Arm, ...] = ("canary",)
    lasts_s: int = 5
    weights: tuple[int, ...] = (100,)
    release: str | None = None


@dataclass(frozen=True)
class Scenario:
    """A whole rollout, and what happens to it.

    Attributes
    ----------
    start_s
        Seconds that a process takes until it is ready.
    """

    kinds: tuple[Kind, ...]
    plan: Plan
    faults: tuple[Fault, ...] = ()
    events: tuple[Event, ...] = ()
    start_s: int = 2

    @property
    def releases(self) -> tuple[Release, ...]:
        """What is rolled out."""
        return tuple(Release(f"release-{number}") for number in range(1, len(self.kinds) + 1))

    def is_good(self, release: str) -> bool:
        """Whether nothing is wrong with a release that the plan could bring to light."""
        kind = dict(zip((each.name for each in self.releases), self.kinds, strict=True))[release]
        return kind == "good" or (kind.endswith("under weight") and not any(step.weight_pct for step in self.plan.steps))


class QuickJudge:
    """Judges at a glance: a real one takes most of a rollout's time here, and has tests of its own. What is half as slow again stays unclear."""

    def __init__(self, *_: Any) -> None:
        self._n, self._sums, self._failed = [0, 0], [0.0, 0.0], 0

    def add(self, batch: Batch) -> None:
        """As `Judge.add`."""
        for number, arm in enumerate((batch.canary, batch.baseline)):
            self._n[number] += len(arm)
            self._sums[number] += float(arm.latency_ms.sum())
        self._failed += int((~batch.canary.ok).sum())

    def verdict(self) -> Verdict:
        """As `Judge.verdict`."""
        status: Status = "inconclusive"
        if min(self._n) >= ENOUGH:
            ratio = (self._sums[0] / self._n[0]) / (self._sums[1] / self._n[1])
            status = "fail" if ratio > 2 or self._failed > 0.2 * self._n[0] else "pass" if ratio < 1.2 else "inconclusive"
        return Verdict(status, f"{status} at a glance", (), (), *self._n, lag_measured=False, false_alarm=0.1, false_pass=0.1)


@dataclass
class Memory:
    """The journal of a town, and who holds its lease: every record must be readable at every moment."""

    town: Town
    record: Record | None = None
    asked: str | None = None
    writes: int = 0
    holder: str = ""
    until_s: float = 0.0

    def load(self) -> Stored | None:
        """As `Journal.load`."""
        self.town.before("load")
        return self.stored()

    def stored(self) -> Stored | None:
        """What an innocent bystander reads."""
        return None if self.record is None else Stored(self.record, str(self.writes))

    def save(self, record: Record, expected_version: str | None) -> str:
        """As `Journal.save`."""
        self.town.before("save")
        if (str(self.writes) if self.record else None) != expected_version:
            raise Conflict("the record was written by somebody else")
        self.record, self.writes = Record.from_json(record.to_json()), self.writes + 1
        assert self.record == record, "the record is not what was written"
        version = str(self.writes)
        self.town.after("save")
        return version

    def request(self) -> Request | None:
        """As `Journal.request`."""
        self.town.before("request")
        return None if self.asked is None else Request.model_validate_json(self.asked)

    def ask(self, request: Request) -> None:
        """As `Journal.ask`; people are never interrupted."""
        self.asked = request.model_dump_json()

    def history(self) -> list[Record]:
        """As `Journal.history`."""
        return [] if self.record is None else [self.record]


class MemoryLease:
    """A lease that runs out."""

    def __init__(self, memory: Memory, name: str) -> None:
        self._memory, self._name = memory, name

    def acquire(self) -> None:
        """Take it."""
        town = self._memory.town
        town.before("acquire")
        if self._memory.holder not in ("", self._name) and town.now_s() < self._memory.until_s:
            raise NotHeld(f"engine {self._memory.holder} is at work")
        self._memory.holder, self._memory.until_s = self._name, town.now_s() + LEASE_S

    def renew(self) -> None:
        """Keep it."""
        self._memory.town.before("renew")
        if self._memory.holder != self._name:
            raise NotHeld(f"engine {self._memory.holder} holds it")
        self._memory.until_s = self._memory.town.now_s() + LEASE_S

    def release(self) -> None:
        """Give it back."""
        self._memory.town.before("release")
        if self._memory.holder == self._name:
            self._memory.holder = ""
