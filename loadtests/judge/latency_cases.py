"""Cases about latencies."""

from __future__ import annotations

import math

import numpy as np

from loadtests.judge.blocks import Block, Latencies
from loadtests.judge.cases import Account, Look
from loadtests.judge.difference import SharePair
from loadtests.judge.limits import LimitTest
from loadtests.judge.mixture import log_evidence_above, log_evidence_below
from loadtests.judge.objectives import NotSlower, QuantileLimit, QuantileRatio, quantile_name
from loadtests.judge.ratio import RatioTest
from loadtests.judge.scale import edge_with_share
from loadtests.judge.sentences import milliseconds, number, percent
from loadtests.judge.slowdown import SlowdownTest
from loadtests.judge.verdict import Effect, Status


class NotSlowerCase:
    """`NotSlower` under judgement."""

    def __init__(self, objective: NotSlower, latencies: Latencies, planned: int) -> None:
        self._objective, self._latencies, self._planned = objective, latencies, planned
        self._test = SlowdownTest(latencies, objective.tolerated_ratio)
        self.add, self.learn = self._test.add, self._test.learn

    def log_evidence(self, _: float) -> float:
        """Log evidence that it is slower."""
        return float(self._test.log_evidence()[0])

    def holds(self, _: Look) -> bool:
        """Whether it was watched for long enough."""
        return self._fewest() >= self._objective.min_samples

    def account(self, look: Look, status: Status) -> Account:
        """Show the latency where the arms differ most clearly."""
        canary, baseline = self._latencies.canary.at_or_above()[0], self._latencies.baseline.at_or_above()[0]
        edge = min(int(self._test.strongest()[0]), len(canary) - 1)
        correlated = float(self._test.effect()[0])
        slow_c, all_c, slow_b, all_b = (float(count) / correlated for count in (canary[edge], canary[0], baseline[edge], baseline[0]))
        pair = SharePair(slow_c, all_c, slow_b, all_b, self._planned / correlated)
        low, high = (None, None) if pair.value is None else (100 * end for end in pair.interval(-math.log(look.fail_risk)))
        value = None if pair.value is None else 100 * pair.value
        effect = Effect(value, low, high, "percentage points", look.fail_risk)
        if pair.value is None:
            sentence = "no latency of one of the arms is known"
        else:
            shares = percent(100 * canary[edge] / canary[0]), percent(100 * baseline[edge] / baseline[0])
            at = milliseconds(self._latencies.scale.edge(edge))
            sentence = f"{shares[0]} of the canary's requests took longer than {at}, {shares[1]} of the baseline's"
            if status == "fail":
                sentence = f"the canary is slower: {sentence}"
            elif status == "pass":
                sentence = f"nothing shows that the canary is slower; the clearest difference: {sentence}"
            else:
                sentence = f"not yet watched for {number(self._objective.min_samples)} requests an arm; so far {sentence}"
        return Account(effect, sentence, int(canary[0]), int(baseline[0]), correlated)

    def _fewest(self) -> int:
        return int(min(self._latencies.canary.total[0], self._latencies.baseline.total[0]))


class QuantileRatioCase:
    """`QuantileRatio` under judgement."""

    def __init__(self, objective: QuantileRatio, latencies: Latencies, planned: int) -> None:
        self._objective, self._latencies = objective, latencies
        self._test = RatioTest(latencies, objective.quantile, planned)
        self.add, self.learn = self._test.add, self._test.learn

    def log_evidence(self, needed: float) -> float:
        """Log evidence that the ratio is above the tolerated one."""
        tolerated = self._objective.tolerated_ratio
        if not self._test.shows_slower(tolerated, needed)[0]:
            return 0.0
        return float(self._test.log_evidence_slower(tolerated)[0])

    def holds(self, look: Look) -> bool:
        """Whether the ratio is shown to be below what is too much."""
        return bool(self._test.log_evidence_faster(self._objective.max_ratio)[0] >= -math.log(look.pass_risk))

    def account(self, look: Look, status: Status) -> Account:
        """State the ratio of the quantiles seen."""
        tails = self._latencies.canary.at_or_above(), self._latencies.baseline.at_or_above()
        name, samples = quantile_name(self._objective.quantile), [int(tail[0, 0]) for tail in tails]
        ends = self._test.interval(-math.log(look.fail_risk if status == "fail" else look.pass_risk))
        low, high = ends[0] or None, None if math.isinf(ends[1]) else ends[1]
        value = None
        if min(samples) * (1 - self._objective.quantile) >= 1:
            share = 1 - self._objective.quantile
            cells = [int(edge_with_share(tail, share)[0]) for tail in tails]
            value = self._latencies.scale.edge(cells[0]) / self._latencies.scale.edge(cells[1])
        effect = Effect(value, low, high, "times", look.fail_risk if status == "fail" else look.pass_risk)
        between = f"between {number(low or 0)} and {'any number of' if high is None else number(high)} times the baseline's"
        sentence = {
            "fail": f"the canary's {name} is {between}, {number(self._objective.tolerated_ratio)} times is tolerated",
            "pass": f"the canary's {name} is {between}, below {number(self._objective.max_ratio)} times",
            "inconclusive": f"too few requests: the canary's {name} may be {between}",
        }[status]
        return Account(effect, sentence, samples[0], samples[1], float(self._test.effect()[0].max()))


class QuantileLimitCase:
    """`QuantileLimit` under judgement."""

    def __init__(self, objective: QuantileLimit, latencies: Latencies, planned: int) -> None:
        self._objective, self._latencies, self._planned = objective, latencies, planned
        self._test = LimitTest(1, 1 - objective.quantile, planned)

    def add(self, block: Block) -> None:
        """Count requests that took longer than the limit."""
        over = (block.canary.latency_ms > self._objective.limit_ms).sum(axis=1)
        self._test.add(over, block.canary.answered)

    def learn(self) -> None:
        """Nothing: the limit is fixed."""

    def log_evidence(self, _: float) -> float:
        """Log evidence that the quantile is above the limit."""
        return float(self._test.log_evidence()[0][0])

    def holds(self, look: Look) -> bool:
        """Whether the quantile is shown to be below the limit."""
        return bool(self._test.log_evidence()[1][0] >= -math.log(look.pass_risk))

    def account(self, look: Look, status: Status) -> Account:
        """State the quantile seen and the share of requests beyond the limit."""
        tail, scale = self._latencies.canary.at_or_above(), self._latencies.scale
        samples, correlated = int(tail[0, 0]), float(self._test.effect()[0])
        share, risk = 1 - self._objective.quantile, look.fail_risk if status == "fail" else look.pass_risk
        counted = (tail[0] / correlated, samples / correlated, share, self._planned / correlated)
        # The quantile lies above every edge with shown more than its share above, and below every edge with shown less.
        above = np.flatnonzero(log_evidence_above(*counted) >= -math.log(risk)) if samples else np.zeros(0, dtype=int)
        below = np.flatnonzero(log_evidence_below(*counted) >= -math.log(risk)) if samples else np.zeros(0, dtype=int)
        low = scale.edge(int(above[-1])) if len(above) else None
        high = scale.edge(int(below[0])) if len(below) and below[0] < scale.cells else None
        value = scale.edge(int(edge_with_share(tail, share)[0])) if samples * share >= 1 else None
        name, limit = quantile_name(self._objective.quantile), milliseconds(self._objective.limit_ms)
        over = percent(100 * int(self._test.events[0]) / samples) if samples else "none"
        sentence = {
            "fail": f"{name} is above {limit}: {over} of the requests took longer",
            "pass": f"{name} is below {limit}: {over} of the requests took longer",
            "inconclusive": f"too few requests to place {name} above or below {limit}: {over} took longer",
        }[status]
        return Account(Effect(value, low, high, "ms", risk), sentence, samples, 0, correlated)
