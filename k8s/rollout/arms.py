"""What runs beside each other in a rollout: the arms, what they run, how they are, and how much of the live traffic each has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Arm = Literal["stable", "baseline", "canary", "canary-2", "canary-3", "canary-4", "canary-5"]
"""What runs beside each other: the old version, maybe a fresh copy of it, and the releases that are tried."""

ARMS: tuple[Arm, ...] = get_args(Arm)

CANARIES = ARMS[2:]
"""Arms of the releases, in the order in which they are given. An HTTPRoute has room for 16 rules: two an arm, and the weights'."""

ARM_HEADER = "x-pilotage-arm"
"""Header whose value, the name of an arm, sends a request to this arm whatever the weights are."""


@dataclass(frozen=True)
class Weights:
    """Per cent of live traffic to each arm.

    Attributes
    ----------
    more
        Of `canary-2`, `canary-3` and so on, where several releases are tried at the same time.

    Raises
    ------
    ValueError
        One is negative, or the sum is not 100.
    """

    stable: int = 100
    baseline: int = 0
    canary: int = 0
    more: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that all traffic goes somewhere; further canaries without any need not be named."""
        more = tuple(self.more)
        while more and not more[-1]:
            more = more[:-1]
        object.__setattr__(self, "more", more)
        parts = (self.stable, self.baseline, self.canary, *more)
        if min(parts) < 0 or sum(parts) != 100 or len(parts) > len(ARMS):
            raise ValueError(f"weights are {self}: they must sum up to 100")

    @staticmethod
    def shared(shares: Mapping[Arm, int]) -> Weights:
        """Make them of each arm's share; who is not named has none."""
        stable, baseline, canary, *more = (shares.get(arm, 0) for arm in ARMS)
        return Weights(stable, baseline, canary, tuple(more))

    def of(self, arm: Arm) -> int:
        """Per cent of one arm."""
        return dict(zip(ARMS, (self.stable, self.baseline, self.canary, *self.more), strict=False)).get(arm, 0)

    @property
    def tried(self) -> int:
        """Per cent of all canaries together."""
        return self.canary + sum(self.more)

    def __str__(self) -> str:
        """Return what a log line shows."""
        further = "".join(f", {arm} {share}" for arm, share in zip(CANARIES[1:], self.more, strict=False))
        return f"stable {self.stable}, baseline {self.baseline}, canary {self.canary}{further}"


@dataclass(frozen=True)
class Release:
    """What is rolled out: one version of the service.

    Attributes
    ----------
    name
        Short name for people, such as ``2026-11-25`` or a git tag.
    image
        Image by digest (``registry/name@sha256:…``) on a cluster; None keeps the image of stable.
    bundle
        Bundle's reference in the form that the fleet takes: the chart's ``bundle`` table on a cluster, ``{"path": …}`` locally. Empty
        keeps that of stable.
    values
        What a local fleet's launcher takes besides, such as ``{"env": {…}}``; on a cluster what a fleet that writes values needs
        (`k8s.cluster.values_fleet`). Any other fleet of a cluster refuses a release that has some.
    """

    name: str
    image: str | None = None
    bundle: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmState:
    """How an arm is.

    Attributes
    ----------
    release
        Name of the release that all its ready processes run; None where it is not there, or is still changing from one to another.
    ready
        Processes that take requests now: ready endpoints of the arm's Service, not what a controller hopes for.
    wanted
        Processes there should be; 0 where the arm is not there.
    restarts
        Times that its processes have been restarted since they were made.
    memory_bytes
        Resident memory of its largest process; None where it is not known.
    reason
        Why it is not ready, in words; None where it is.
    """

    release: str | None = None
    ready: int = 0
    wanted: int = 0
    restarts: int = 0
    memory_bytes: int | None = None
    reason: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether all of it is there."""
        return self.wanted > 0 and self.ready >= self.wanted
