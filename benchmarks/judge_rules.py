"""The rules that are compared on the same traces: ours, the threshold of Flagger and Argo Rollouts, Kayenta's Mann-Whitney test.

Each takes the latencies and failures of both arms, looks again and again, and says for each canary after how many requests an arm it raised
an alarm, 0 for never. Letters: ``R`` canaries, ``N`` requests of an arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from loadtests.judge.blocks import BLOCK, Block, Latencies, arm_block
from loadtests.judge.difference import SharePair
from loadtests.judge.increase import IncreaseTest
from loadtests.judge.objectives import CANARY_OBJECTIVES, ErrorIncrease, NotSlower, Objective, Policy, QuantileRatio
from loadtests.judge.ratio import RatioTest
from loadtests.judge.scale import STEP, Scale
from loadtests.judge.slowdown import SlowdownTest

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Alarms = NDArray[np.int64]

LOOK = 50
SCALE = Scale(low=5e-2, high=5e2, step=STEP, logarithmic=True)
"""As the judge's, but shorter: many canaries at once take memory. The median is 1."""

LANES = 500
"""Canaries judged at once."""


@dataclass(frozen=True)
class Arms:
    """Requests of both arms, ``(R, N)`` each, dealt in turn."""

    canary_ms: Floats
    baseline_ms: Floats
    canary_failed: Bools
    baseline_failed: Bools

    def part(self, rows: slice) -> Arms:
        """Some of the canaries."""
        return Arms(self.canary_ms[rows], self.baseline_ms[rows], self.canary_failed[rows], self.baseline_failed[rows])


@dataclass(frozen=True)
class Outcome:
    """What the judge said.

    Attributes
    ----------
    failed
        Requests an arm after which a canary failed, 0 for never, ``(R,) int64``.
    passed
        Requests an arm after which it first passed without having failed, 0 for never.
    """

    failed: Alarms
    passed: Alarms


def judge(arms: Arms, passes_at: tuple[int, ...] = (), policy: Policy | None = None) -> Outcome:
    """Our judge with its default objectives, looking every `LOOK` requests.

    Parameters
    ----------
    passes_at
        Requests an arm at which it is also asked whether it passes, which takes longer to work out.
    policy
        The default one where it is None.
    """
    policy = policy or Policy()
    parts = [_judge(arms.part(slice(first, first + LANES)), passes_at, policy) for first in range(0, len(arms.canary_ms), LANES)]
    return Outcome(np.concatenate([part.failed for part in parts]), np.concatenate([part.passed for part in parts]))


def _judge(arms: Arms, passes_at: tuple[int, ...], policy: Policy) -> Outcome:
    lanes, count = arms.canary_ms.shape
    latencies = Latencies(lanes, SCALE)
    total = sum(objective.share_of_risk for objective in CANARY_OBJECTIVES)
    needed = {objective: -np.log(policy.false_alarm * objective.share_of_risk / total) for objective in CANARY_OBJECTIVES}
    tests = {objective: _test(objective, latencies, policy) for objective in CANARY_OBJECTIVES}
    failed, passed = np.zeros(lanes, dtype=np.int64), np.zeros(lanes, dtype=np.int64)
    for first in range(0, count, BLOCK):
        columns = slice(first, first + BLOCK)
        block = Block(
            arm_block(arms.canary_ms[:, columns], arms.canary_failed[:, columns], scale=SCALE),
            arm_block(arms.baseline_ms[:, columns], arms.baseline_failed[:, columns], scale=SCALE),
        )
        for test in tests.values():
            test.add(block)
        latencies.add(block)
        for test in tests.values():
            if not isinstance(test, IncreaseTest):
                test.learn()
        seen = first + BLOCK
        if seen % LOOK or seen < policy.min_samples:
            continue
        for objective, test in tests.items():
            if isinstance(test, RatioTest):
                assert isinstance(objective, QuantileRatio)
                alarm = test.shows_slower(objective.tolerated_ratio, needed[objective])
            else:
                alarm = test.log_evidence() >= needed[objective]
            failed[(failed == 0) & alarm] = seen
        if seen in passes_at:
            passed[(failed == 0) & (passed == 0) & _passes(tests, policy, seen)] = seen
    return Outcome(failed, passed)


Test = SlowdownTest | RatioTest | IncreaseTest


def _test(objective: Objective, latencies: Latencies, policy: Policy) -> Test:
    match objective:
        case NotSlower():
            return SlowdownTest(latencies, objective.tolerated_ratio)
        case QuantileRatio():
            return RatioTest(latencies, objective.quantile, policy.planned_samples)
        case ErrorIncrease():
            return IncreaseTest(latencies.lanes, objective.tolerated_points / 100)
        case _:
            raise TypeError(f"the study knows no {type(objective).__name__}")


def _passes(tests: Mapping[Objective, Test], policy: Policy, seen: int) -> Bools:
    """Whether all objectives are shown to be met, ``(R,) bool``."""
    log_needed = -np.log(policy.false_pass)
    met = []
    for objective, test in tests.items():
        if isinstance(objective, QuantileRatio) and isinstance(test, RatioTest):
            met.append(test.log_evidence_faster(objective.max_ratio) >= log_needed)
        elif isinstance(objective, ErrorIncrease) and isinstance(test, IncreaseTest):
            # Few different counts come up: each is worked out once.
            effect = test.effect()
            states = list(zip(*test.happened.T.tolist(), effect.size.tolist(), effect.squared_error.tolist(), strict=True))
            holds = {state: _rise_is_small(state, seen, objective, policy) >= log_needed for state in set(states)}
            met.append(np.array([holds[state] for state in states]))
        elif isinstance(objective, NotSlower):
            met.append(np.array([seen >= objective.min_samples]))
    return np.asarray(np.logical_and.reduce(np.broadcast_arrays(*met)))


def _rise_is_small(state: tuple[int, int, float, float], seen: int, objective: ErrorIncrease, policy: Policy) -> float:
    canary, baseline, d, error = state
    pair = SharePair(canary, seen, baseline, seen, policy.planned_samples, d, error)
    return pair.log_evidence_less(objective.max_points / 100)


STRIKES, WINDOW, ABOVE = 5, 200, 1.2


def threshold(arms: Arms, true_p99: float) -> Alarms:
    """The rule of Flagger and Argo Rollouts: a scalar beyond a fixed threshold, so many times.

    p99 of the last 200 requests, looked at every 50; the threshold stands 20 % above the baseline's true p99, which in life nobody knows;
    the fifth failed check raises the alarm (Flagger's ``threshold: 5``).
    """
    strikes, alarm = np.zeros(len(arms.canary_ms), dtype=np.int64), np.zeros(len(arms.canary_ms), dtype=np.int64)
    for seen in range(LOOK, arms.canary_ms.shape[1] + 1, LOOK):
        strikes += np.quantile(arms.canary_ms[:, max(0, seen - WINDOW) : seen], 0.99, axis=1) > ABOVE * true_p99
        alarm[(alarm == 0) & (strikes >= STRIKES)] = seen
    return alarm


CONFIDENCE, EVERY = 0.98, 200


def mann_whitney(arms: Arms) -> Alarms:
    """Kayenta's rule: a Mann-Whitney test at 98 %, asked every 200 requests, alarmed when the canary's latencies rank higher."""
    alarm = np.zeros(len(arms.canary_ms), dtype=np.int64)
    for seen in range(EVERY, arms.canary_ms.shape[1] + 1, EVERY):
        ranks = rankdata(np.concatenate([arms.baseline_ms[:, :seen], arms.canary_ms[:, :seen]], axis=1), axis=1)[:, seen:].sum(axis=1)
        z = (ranks - seen * (2 * seen + 1) / 2) / np.sqrt(seen * seen * (2 * seen + 1) / 12)
        alarm[(alarm == 0) & (z > norm.ppf(CONFIDENCE))] = seen
    return alarm
