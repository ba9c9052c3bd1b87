"""The requests of one endpoint on their way through all objectives that ask about it."""

from __future__ import annotations

import math

from loadtests.judge.arms import Arm, Batch, Cutter
from loadtests.judge.blocks import Latencies
from loadtests.judge.cases import Case, Look
from loadtests.judge.errors import JudgeError
from loadtests.judge.latency_cases import NotSlowerCase, QuantileRatioCase
from loadtests.judge.limit_cases import ErrorLimitCase, GoodputLimitCase, QuantileLimitCase
from loadtests.judge.objectives import (
    ErrorLimit,
    GoodputLimit,
    NotSlower,
    Objective,
    Policy,
    QuantileLimit,
    QuantileRatio,
    RefusalIncrease,
    SameScores,
    ShareIncrease,
)
from loadtests.judge.share_cases import SameScoresCase, ShareIncreaseCase
from loadtests.judge.verdict import Finding, Status

LOOK_BLOCKS = 5
"""Blocks between looks for alarms: every 50 requests an arm, at first."""

LOOK_GROWTH = 1.01
"""Later, when there are this many times the blocks of the look before: evidence does not change faster."""

MOST_LOG_EVIDENCE = 690.0
"""ln of 1e300, near the largest number that a double, and so JSON, can hold."""


class Stream:
    """Objectives about the same requests.

    Parameters
    ----------
    looks
        Each objective with the evidence that its failing and passing take.
    """

    def __init__(self, looks: list[tuple[Objective, Look]], policy: Policy) -> None:
        self._two_arms = any(objective.two_arms for objective, _ in looks)
        self._min_samples = policy.min_samples
        self._latencies = Latencies(lanes=1)
        self._cutter = Cutter(two_arms=self._two_arms)
        self._cases = [(objective, look, _case(objective, self._latencies, policy)) for objective, look in looks]
        self._failed = dict.fromkeys((objective.title for objective, _ in looks), 0.0)
        self._blocks, self._next_look = 0, LOOK_BLOCKS
        self._counts = [0, 0]

    def add(self, batch: Batch) -> None:
        """Take in a batch and look for alarms on the way.

        Raises
        ------
        JudgeError
            The batch does not say which requests were refused, and that is asked.
        """
        for objective, _, _ in self._cases:
            if isinstance(objective, RefusalIncrease) and any(len(arm) and arm.refused is None for arm in (batch.canary, batch.baseline)):
                raise JudgeError(
                    f"{objective.title}: the samples have no column refused; load tests count refused requests (4xx) as failed, so that "
                    "refusal_increase is for live traffic"
                )
        for block in self._cutter.cut(batch):
            for _, _, case in self._cases:
                case.add(block)
            self._latencies.add(block)
            for _, _, case in self._cases:
                case.learn()
            self._blocks += 1
            self._counts[0] += block.canary.failed.shape[1]
            self._counts[1] += block.baseline.failed.shape[1]
            if self._blocks >= self._next_look:
                self._next_look = max(self._blocks + LOOK_BLOCKS, math.ceil(self._blocks * LOOK_GROWTH))
                self._look()

    def findings(self) -> list[Finding]:
        """Say what has become of each objective."""
        self._look()
        found = []
        for objective, look, case in self._cases:
            needed = -math.log(look.fail_risk)
            log_evidence = max(case.log_evidence(needed), self._failed[objective.title])
            status: Status = "fail" if self._failed[objective.title] else "inconclusive"
            if status != "fail" and self._enough() and case.holds(look):
                status = "pass"
            account = case.account(look, status)
            found.append(
                Finding(
                    objective=objective.title,
                    status=status,
                    sentence=account.sentence,
                    effect=account.effect,
                    canary_samples=account.canary_samples,
                    baseline_samples=account.baseline_samples,
                    correlated=account.correlated,
                    evidence=math.exp(min(log_evidence, MOST_LOG_EVIDENCE)),
                    evidence_needed=1 / look.fail_risk,
                )
            )
        return found

    def _enough(self) -> bool:
        return min(self._counts if self._two_arms else self._counts[:1]) >= self._min_samples

    def _look(self) -> None:
        """Note which objectives have failed; once is for good."""
        if not self._enough():
            return
        for objective, look, case in self._cases:
            needed = -math.log(look.fail_risk)
            evidence = case.log_evidence(needed)
            if evidence >= needed:
                self._failed[objective.title] = max(self._failed[objective.title], evidence)


def part_of(batch: Batch, endpoint: str | None) -> Batch:
    """Requests of one endpoint; all of them where it is None.

    Raises
    ------
    JudgeError
        The batch does not say which request went where.
    """
    return batch if endpoint is None else Batch(_part_of(batch.canary, endpoint), _part_of(batch.baseline, endpoint))


def _part_of(arm: Arm, endpoint: str) -> Arm:
    if not len(arm):
        return arm
    if arm.endpoint is None:
        raise JudgeError(f"an objective asks about the endpoint {endpoint}, and the samples have no column endpoint")
    return arm.rows(arm.endpoint == endpoint)


def _case(objective: Objective, latencies: Latencies, policy: Policy) -> Case:
    planned = policy.planned_samples
    case: Case
    match objective:
        case NotSlower():
            case = NotSlowerCase(objective, latencies, planned)
        case QuantileRatio():
            case = QuantileRatioCase(objective, latencies, planned)
        case QuantileLimit():
            case = QuantileLimitCase(objective, latencies, planned)
        case ShareIncrease():
            case = ShareIncreaseCase(objective, planned)
        case ErrorLimit():
            case = ErrorLimitCase(objective, planned)
        case GoodputLimit():
            case = GoodputLimitCase(objective, planned)
        case SameScores():
            case = SameScoresCase(objective)
        case _:
            raise JudgeError(f"there is no way to judge a {type(objective).__name__}")
    return case
