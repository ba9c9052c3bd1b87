"""Cases about comparing latencies."""

from __future__ import annotations

import math

from loadtests.judge.blocks import Latencies
from loadtests.judge.cases import Account, Look
from loadtests.judge.difference import SharePair
from loadtests.judge.objectives import NotSlower, QuantileRatio, quantile_name
from loadtests.judge.ratio import RatioTest
from loadtests.judge.scale import edge_with_share
from loadtests.judge.sentences import milliseconds, number, percent
from loadtests.judge.slowdown import SlowdownTest
from loadtests.judge.verdict import Effect, Status

NOTHING_KNOWN = 0.1
"""A ratio that may be below this, and any number above, is not worth two numbers in a sentence."""


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
        found = self._test.effect()
        correlated, error = float(found.size[0]), float(found.squared_error[0])
        slow_c, all_c, slow_b, all_b = (float(count) for count in (canary[edge], canary[0], baseline[edge], baseline[0]))
        pair = SharePair(slow_c, all_c, slow_b, all_b, self._planned, correlated, error)
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
        ends = self._test.interval(-math.log(look.risk(status)))
        low, high = ends[0] or None, None if math.isinf(ends[1]) else ends[1]
        value = None
        if min(samples) * (1 - self._objective.quantile) >= 1:
            share = 1 - self._objective.quantile
            cells = [int(edge_with_share(tail, share)[0]) for tail in tails]
            value = self._latencies.scale.edge(cells[0]) / self._latencies.scale.edge(cells[1])
        effect = Effect(value, low, high, "times", look.risk(status))
        between = f"between {number(low or 0)} and {'any number of' if high is None else number(high)} times the baseline's"
        sentence = {
            "fail": f"the canary's {name} is {between}, {number(self._objective.tolerated_ratio)} times is tolerated",
            "pass": f"the canary's {name} is {between}, below {number(self._objective.max_ratio)} times",
            "inconclusive": f"too few requests: the canary's {name} may be {between}",
        }[status]
        correlated = float(self._test.effect().size[0])
        if status == "inconclusive":
            if high is None and (low or 0) < NOTHING_KNOWN:
                sentence = f"too few requests to say anything of the canary's {name}"
            if correlated >= 2:
                sentence += f" ({correlated:.0f} that are slow together count as one)"
        return Account(effect, sentence, samples[0], samples[1], correlated)
