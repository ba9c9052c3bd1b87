"""Cases about limits: one arm, and a share of its requests that is allowed. A limit of a quantile is one of the share beyond it."""

from __future__ import annotations

import math

import numpy as np

from loadtests.judge.blocks import Block, Latencies
from loadtests.judge.cases import Account, Look
from loadtests.judge.dispersion import tempered
from loadtests.judge.limits import LimitTest
from loadtests.judge.mixture import log_evidence_above, log_evidence_below
from loadtests.judge.objectives import ErrorLimit, GoodputLimit, QuantileLimit, quantile_name
from loadtests.judge.scale import edge_with_share
from loadtests.judge.sentences import milliseconds, percent
from loadtests.judge.verdict import Effect, Status


class LimitCase:
    """What all of them share: evidence on both sides of a limit that is fixed.

    Parameters
    ----------
    share
        Of events that is allowed.
    planned
        Requests for which the boundary is to be tightest.
    """

    def __init__(self, share: float, planned: int) -> None:
        self._planned = planned
        self._test = LimitTest(1, share, planned)

    def learn(self) -> None:
        """Nothing: the limit is fixed."""

    def log_evidence(self, _: float) -> float:
        """Log evidence that more than the share is beyond the limit."""
        return float(self._test.log_evidence()[0][0])

    def holds(self, look: Look) -> bool:
        """Whether less than the share is shown to be beyond the limit."""
        return bool(self._test.log_evidence()[1][0] >= -math.log(look.pass_risk))


class ErrorLimitCase(LimitCase):
    """`ErrorLimit` under judgement."""

    def __init__(self, objective: ErrorLimit, planned: int) -> None:
        super().__init__(objective.max_error_pct / 100, planned)
        self._objective = objective

    def add(self, block: Block) -> None:
        """Count failures."""
        self._test.add(block.canary.failed.sum(axis=1), block.canary.sizes)

    def account(self, look: Look, status: Status) -> Account:
        """State the share of failures."""
        failed, requests = int(self._test.events[0]), int(self._test.requests[0])
        risk, correlated = look.risk(status), float(self._test.effect().size[0])
        value, low, high = self._test.interval(-math.log(risk))
        share, limit = percent(100 * failed / requests) if requests else "none", percent(self._objective.max_error_pct)
        sentence = {
            "fail": f"{share} of the requests failed, more than {limit}",
            "pass": f"{share} of the requests failed, less than {limit}",
            "inconclusive": f"too few requests to place failures above or below {limit}: {share} failed",
        }[status]
        effect = Effect(None if value is None else 100 * value, 100 * low, 100 * high, "percent", risk)
        return Account(effect, sentence, requests, 0, correlated)


class GoodputLimitCase(LimitCase):
    """`GoodputLimit` under judgement."""

    def __init__(self, objective: GoodputLimit, planned: int) -> None:
        super().__init__(1 - objective.min_goodput_pct / 100, planned)
        self._objective = objective

    def add(self, block: Block) -> None:
        """Count requests that failed or took too long."""
        late = block.canary.latency_ms > self._objective.within_ms
        self._test.add((block.canary.failed | late).sum(axis=1), block.canary.sizes)

    def account(self, look: Look, status: Status) -> Account:
        """State the share of requests answered in time."""
        requests = int(self._test.requests[0])
        risk, correlated = look.risk(status), float(self._test.effect().size[0])
        missed, low, high = self._test.interval(-math.log(risk))
        share = "none" if missed is None else percent(100 * (1 - missed))
        within, least = milliseconds(self._objective.within_ms), percent(self._objective.min_goodput_pct)
        sentence = {
            "fail": f"{share} of the requests were answered within {within}, fewer than {least}",
            "pass": f"{share} of the requests were answered within {within}, more than {least}",
            "inconclusive": f"too few requests to place answers within {within} above or below {least}: {share} were",
        }[status]
        effect = Effect(None if missed is None else 100 * (1 - missed), 100 * (1 - high), 100 * (1 - low), "percent", risk)
        return Account(effect, sentence, requests, 0, correlated)


class QuantileLimitCase(LimitCase):
    """`QuantileLimit` under judgement."""

    def __init__(self, objective: QuantileLimit, latencies: Latencies, planned: int) -> None:
        super().__init__(1 - objective.quantile, planned)
        self._objective, self._latencies = objective, latencies

    def add(self, block: Block) -> None:
        """Count requests that took longer than the limit."""
        over = (block.canary.latency_ms > self._objective.limit_ms).sum(axis=1)
        self._test.add(over, block.canary.answered)

    def account(self, look: Look, status: Status) -> Account:
        """State the quantile seen and the share of requests beyond the limit."""
        tail, scale, effect = self._latencies.canary.at_or_above(), self._latencies.scale, self._test.effect()
        samples, correlated, error = int(tail[0, 0]), float(effect.size[0]), float(effect.squared_error[0])
        share, risk = 1 - self._objective.quantile, look.risk(status)
        counted = (tail[0] / correlated, samples / correlated, share, self._planned / correlated)
        # The quantile lies above every edge with shown more than its share above, and below every edge with shown less.
        above = np.flatnonzero(tempered(log_evidence_above(*counted), error) >= -math.log(risk)) if samples else np.zeros(0, dtype=int)
        below = np.flatnonzero(tempered(log_evidence_below(*counted), error) >= -math.log(risk)) if samples else np.zeros(0, dtype=int)
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
