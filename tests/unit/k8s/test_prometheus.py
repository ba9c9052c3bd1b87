"""Live traffic as counts in buckets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from k8s.cluster.prometheus import Prometheus
from k8s.errors import Refused, Unavailable
from k8s.rollout.plan import Live, Step
from tests.clusters import NAMES, Clock

STEP = Step(weight_pct=10)


class Canned(Prometheus):
    """Answers what the test says."""

    counts: dict[tuple[str, str, str], float]
    asked: str

    def _ask(self, query: str) -> list[dict[str, Any]]:
        self.asked = query
        return [
            {"metric": {"arm": arm, "status": status, "le": le}, "value": [0, str(count)]}
            for (arm, status, le), count in self.counts.items()
        ]


def _source(clock: Clock, **live: Any) -> Canned:
    source = Canned("http://prometheus.example", Live.model_validate({"every_s": 15, **live}), NAMES, clock)
    source.begin(STEP, ("canary", "baseline"))
    return source


def _counts(ok_fast: int, ok_slow: int, failed: int) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], float] = {}
    for arm in ("canary", "baseline"):
        found |= {(arm, "200", "0.01"): ok_fast, (arm, "200", "0.05"): ok_fast + ok_slow, (arm, "200", "+Inf"): ok_fast + ok_slow}
        found |= {(arm, "500", "0.01"): failed, (arm, "500", "0.05"): failed, (arm, "500", "+Inf"): failed}
    return found


def test_what_was_counted_between_two_looks_becomes_requests_in_the_middle_of_their_buckets() -> None:
    clock = Clock()
    source = _source(clock)
    source.counts = _counts(100, 10, 1)
    assert source.look() == {}  # counted before the step
    clock.sleep(5)
    assert source.look() == {}  # too early
    clock.sleep(15)
    source.counts = _counts(150, 13, 3)
    look = source.look()["canary"]
    canary = look.batch.canary
    assert sorted(canary.latency_ms[canary.ok].tolist()) == pytest.approx([5.0] * 50 + [30.0] * 3)
    assert (~canary.ok).sum() == 2
    assert np.all((canary.started_s >= clock.now_s() - 20) & (canary.started_s < clock.now_s()))
    assert 'arm=~"canary|baseline"' in source.asked
    assert 'namespace="models"' in source.asked


def test_counts_that_shrink_are_not_taken_for_requests() -> None:
    clock = Clock()
    source = _source(clock)
    source.counts = _counts(100, 10, 1)
    source.look()
    clock.sleep(20)
    source.counts = _counts(20, 0, 0)
    assert source.look() == {}
    clock.sleep(20)
    source.counts = _counts(60, 0, 0)
    look = source.look()["canary"]
    assert len(look.batch.canary) == 40


def test_a_limit_between_two_edges_is_refused_with_the_edges() -> None:
    source = _source(Clock(), objectives={"quantile_limit": [{"quantile": 0.99, "limit_ms": 30.0}]})
    source.counts = _counts(1, 1, 1)
    with pytest.raises(Refused, match="limit_ms 30 is no edge of the histogram: nothing is known of it; edges are 10, 50"):
        source.look()


def test_a_prometheus_that_is_not_there_is_unavailable() -> None:
    source = Prometheus("http://127.0.0.1:9", Live(), NAMES, Clock())
    source.begin(STEP, ("canary", "stable"))
    with pytest.raises(Unavailable, match="does not answer"):
        source.look()


def test_the_limits_of_the_live_plan_are_edges_of_the_services_histogram() -> None:
    from k8s.rollout.plan import load_plan
    from serving.monitoring.metrics import BUCKETS_S

    live = load_plan("live").live
    assert live is not None
    assert all(table["limit_ms"] / 1000 in BUCKETS_S for table in live.objectives["quantile_limit"])
