"""Cases about comparing shares of requests that fail or are refused, and scores."""

from __future__ import annotations

import math

from loadtests.judge.cases import Account, Look
from loadtests.judge.difference import SharePair
from loadtests.judge.increase import IncreaseTest
from loadtests.judge.objectives import SameScores, ShareIncrease
from loadtests.judge.scores import ScoresTest
from loadtests.judge.sentences import number, percent
from loadtests.judge.verdict import Effect, Status

WORDS = {"failed": ("fails", "failed"), "refused": ("refuses", "were refused")}
"""What the canary does, and what happened to its requests."""


class ShareIncreaseCase:
    """`ErrorIncrease` or `RefusalIncrease` under judgement."""

    def __init__(self, objective: ShareIncrease, planned: int) -> None:
        self._objective, self._planned = objective, planned
        self._test = IncreaseTest(1, objective.tolerated_points / 100, objective.happened)
        self.add = self._test.add

    def learn(self) -> None:
        """Nothing: the test counts by itself."""

    def log_evidence(self, _: float) -> float:
        """Log evidence that the share rose by more than is tolerated."""
        return float(self._test.log_evidence()[0])

    def holds(self, look: Look) -> bool:
        """Whether the rise is shown to be below what is too much."""
        return self._pair().log_evidence_less(self._objective.max_points / 100) >= -math.log(look.pass_risk)

    def account(self, look: Look, status: Status) -> Account:
        """State the shares of both arms."""
        happened, requests = self._test.happened[0], self._test.requests[0]
        pair, risk = self._pair(), look.risk(status)
        correlated = float(self._test.effect().size[0])
        if pair.value is None:
            nothing = Effect(None, None, None, "percentage points", risk)
            return Account(nothing, "an arm has no requests", int(requests[0]), int(requests[1]), correlated)
        low, high = (100 * end for end in pair.interval(-math.log(risk)))
        if status == "fail":
            # The bets have shown it, whatever the wider interval says.
            low = max(low, self._objective.tolerated_points)
        ratios = percent(100 * happened[0] / requests[0]), percent(100 * happened[1] / requests[1])
        does, was = WORDS[self._objective.happened]
        shares = f"{ratios[0]} of the canary's requests {was}, {ratios[1]} of the baseline's"
        sentence = {
            "fail": f"the canary {does} more often: {shares}",
            "pass": f"{shares}; the rise is below {number(self._objective.max_points)} points",
            "inconclusive": f"too few requests to rule out a rise by {number(self._objective.max_points)} points: {shares}",
        }[status]
        effect = Effect(100 * pair.value, low, max(high, low), "percentage points", risk)
        return Account(effect, sentence, int(requests[0]), int(requests[1]), correlated)

    def _pair(self) -> SharePair:
        effect, happened, requests = self._test.effect(), self._test.happened[0], self._test.requests[0]
        counts = float(happened[0]), float(requests[0]), float(happened[1]), float(requests[1])
        return SharePair(*counts, self._planned, float(effect.size[0]), float(effect.squared_error[0]))


class SameScoresCase:
    """`SameScores` under judgement."""

    def __init__(self, objective: SameScores) -> None:
        self._objective = objective
        self._test = ScoresTest(1, objective.low, objective.high, objective.tolerated_distance)
        self.add = self._test.add

    def learn(self) -> None:
        """Nothing: the test counts by itself."""

    def log_evidence(self, _: float) -> float:
        """Log evidence that the distance is above the tolerated one."""
        return float(self._test.log_evidence()[0])

    def holds(self, look: Look) -> bool:
        """Whether the distance is shown to be below what is too much."""
        return bool(self._test.interval(look.pass_risk)[2][0] <= self._objective.max_distance)

    def account(self, look: Look, status: Status) -> Account:
        """State the distance."""
        risk = look.risk(status)
        samples = [int(count) for count in self._test.samples()[0]]
        distance, low, high = (float(each[0]) for each in self._test.interval(risk))
        if status == "fail":
            low = max(low, self._objective.tolerated_distance)
        effect = Effect(distance if min(samples) else None, low, max(high, low), "share", risk)
        apart = f"the distributions of the scores are {percent(100 * distance)} apart"
        sentence = {
            "fail": f"the models answer differently: {apart}, {percent(100 * self._objective.tolerated_distance)} is tolerated",
            "pass": f"the models answer alike: {apart}, shown to be below {percent(100 * self._objective.max_distance)}",
            "inconclusive": f"too few scores: {apart}, which may be up to {percent(100 * high)}",
        }[status]
        return Account(effect, sentence, samples[0], samples[1], float(self._test.effect()[0]))
