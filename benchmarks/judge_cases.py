"""What `benchmarks.judge` tries: healthy canaries and harmed ones, and the aims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from benchmarks.judge_bounds import error_bound, stretched_bound
from benchmarks.judge_rules import Arms
from benchmarks.judge_traffic import BEYOND, NULLS, Harm, Traffic, later, outages, slower, stalling, stretched, stretched_excess

LOGNORMAL, PARETO, BIMODAL, CORRELATED = NULLS[:4]
BURSTS, STALLS = NULLS[4:6]
RECORDED = NULLS[-1]
ERRORS = 0.001
"""Failures of healthy arms."""

RISK = 0.01
SHARED_RISK = RISK / 30
"""What is left of it for one of thirty steps and releases, among which a rollout divides it."""


@dataclass(frozen=True)
class Trial:
    """One kind of canary, tried often.

    Attributes
    ----------
    count
        Requests an arm.
    failing
        Shares of failed requests of baseline and canary.
    outage
        Requests in a row that fail together.
    risk
        False alarms allowed, ``Policy.false_alarm``.
    canaries
        How many are tried; the rivals, which take longer, on at most `rivals`.
    aim_pct
        Alarms wanted, in percent: at most where `harm` and a rise of failures are missing, at least elsewhere. None: no aim.
    bound
        Alarms that the best test could raise, in percent; None where that tells nothing.
    """

    name: str
    traffic: Traffic
    count: int
    harm: Harm | None = None
    failing: tuple[float, float] = (ERRORS, ERRORS)
    outage: int = 1
    risk: float = RISK
    canaries: int = 600
    rivals: int = 300
    aim_pct: float | None = None
    bound: Callable[[], float] | None = field(default=None, compare=False)
    in_quick: bool = False
    passes: bool = False

    @property
    def healthy(self) -> bool:
        """Whether an alarm is a false one."""
        return self.harm is None and self.failing[0] == self.failing[1]

    def arms(self, canaries: int, seed: int = 0) -> Arms:
        """Draw the traces; every name and seed has its own."""
        of_name = crc32(self.name.encode())
        generator = np.random.default_rng([seed, of_name] if seed else of_name)
        shape = (canaries, self.count)
        canary, baseline = self.traffic.draw(generator, shape)
        if self.harm is not None:
            canary = self.harm(generator, canary, self.traffic)
        failed = [outages(generator, shape, share, self.outage) for share in (self.failing[1], self.failing[0])]
        return Arms(canary, baseline, failed[0], failed[1])


def _null(traffic: Traffic, count: int, aim_pct: float | None, canaries: int = 2000, **more: Any) -> Trial:
    return Trial(f"healthy: {traffic.name}, {count}", traffic, count, canaries=canaries, rivals=1000, aim_pct=aim_pct, **more)


def _outages(length: int, every: int) -> Trial:
    """Of each arm for itself: what fails in one of them says nothing about the other."""
    share = length / every
    name = f"healthy: outages of {length} requests, 3000"
    return Trial(name, LOGNORMAL, 3000, failing=(share, share), outage=length, canaries=2000, rivals=0, aim_pct=100 * RISK)


def _shared_risk(traffic: Traffic, count: int, canaries: int, harm: Harm | None = None) -> Trial:
    what = "healthy" if harm is None else "p99 doubled"
    aim_pct = 100 * SHARED_RISK if harm is None else 99.0
    return Trial(
        f"{what}: {traffic.name}, risk 0.01/30, {count}",
        traffic,
        count,
        harm,
        canaries=canaries,
        rivals=0,
        risk=SHARED_RISK,
        aim_pct=aim_pct,
    )


def _errors(before: float, after: float, aim_pct: float | None, **more: Any) -> Trial:
    return Trial(
        f"errors {100 * before:g} to {100 * after:g} %, 3000",
        LOGNORMAL,
        3000,
        failing=(before, after),
        canaries=1000,
        aim_pct=aim_pct,
        bound=lambda: error_bound(3000, before, after),
        **more,
    )


TRIALS: tuple[Trial, ...] = (
    _null(LOGNORMAL, 3000, 1.0, in_quick=True),
    *(_null(traffic, 3000, 1.0) for traffic in NULLS[1:3]),
    _null(CORRELATED, 3000, 1.0, in_quick=True),
    *(_null(traffic, 3000, 1.0) for traffic in NULLS[4:]),
    _null(LOGNORMAL, 300, None),
    _null(LOGNORMAL, 10_000, None, canaries=300, passes=True),
    *(_null(traffic, 3000, None, canaries=1000) for traffic in BEYOND),
    *(_outages(length, every) for length, every in ((2, 1000), (20, 1000), (100, 3000))),
    *(_shared_risk(traffic, 3000, 6000) for traffic in (BURSTS, STALLS)),
    *(_shared_risk(traffic, 20_000, 60, slower(2.0)) for traffic in (LOGNORMAL, BURSTS, STALLS)),
    Trial("p99 worse by 20 %: everything slower, 3000", LOGNORMAL, 3000, slower(1.2), aim_pct=95.0, in_quick=True),
    *(
        Trial(f"p99 worse by 20 %: everything slower, {traffic.name}, 3000", traffic, 3000, slower(1.2))
        for traffic in (PARETO, BIMODAL, CORRELATED, RECORDED)
    ),
    Trial("p99 worse by 20 %: beyond p98 only, 3000", LOGNORMAL, 3000, stretched(1.2)),
    Trial("p99 doubled: everything slower, 1000", LOGNORMAL, 1000, slower(2.0), aim_pct=99.0, in_quick=True),
    Trial("p99 doubled: beyond p98 only, 1000", LOGNORMAL, 1000, stretched(2.0)),
    Trial("p99 doubled: beyond p98 only, 3000", LOGNORMAL, 3000, stretched(2.0)),
    Trial("tail beyond p98 times 1.5, 10000", LOGNORMAL, 10_000, stretched(1.5), rivals=150, aim_pct=90.0),
    Trial("tail beyond p98 times 1.5, 3000", LOGNORMAL, 3000, stretched(1.5), in_quick=True),
    Trial(
        "time beyond p98 times 1.5, 10000",
        LOGNORMAL,
        10_000,
        stretched_excess(1.5),
        rivals=150,
        bound=lambda: stretched_bound(10_000, 1.5, excess=True),
    ),
    *(
        Trial(f"{times:g} times as slow from request 1000 on, 4000", LOGNORMAL, 4000, later(1000, slower(times)), canaries=300, rivals=150)
        for times in (1.5, 3.0)
    ),
    Trial("stalls, one in 500 requests, 10000", LOGNORMAL, 10_000, stalling(500), rivals=150),
    Trial("stalls, one in 1000 requests, 10000", LOGNORMAL, 10_000, stalling(1000), rivals=150),
    _errors(0.0, 0.005, 95.0, in_quick=True),
    _errors(0.001, 0.006, None),
    _errors(0.001, 0.01, None),
    _errors(0.005, 0.01, None),
)
"""Names end with the requests an arm."""
