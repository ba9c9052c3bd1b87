"""Made-up samples of a load test."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from loadtests.report import Run, Sent
from loadtests.samples import Samples

RUN = Run(
    host="http://127.0.0.1:3000",
    model_name="ads",
    model_version="1",
    users=2,
    started_at=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC),
    sent=(Sent(endpoint="rank", model="ads 1", weight=1, bodies=256, recorded=False),),
    versions={"locust": "2"},
)

KINDS = ("HTTP 503 overloaded", "no answer: ConnectionResetError")


def made_up(
    count: int = 4000,
    *,
    seed: int = 0,
    rate_rps: float = 200.0,
    times: float = 1.0,
    errors: float = 0.0,
    lag_ms: float = 0.2,
    stall_s: float = 0.0,
    open_loop: bool = True,
    endpoints: tuple[str, ...] = ("rank",),
    arms: tuple[str, ...] = ("service",),
) -> Samples:
    """Requests of log-normal latency (p50 `times` × 3.3 ms, p99 × 8.4 ms), due at random; in the middle the service may stall."""
    draw = np.random.default_rng(seed)
    intended_s = np.cumsum(draw.exponential(1 / rate_rps, count))
    started_s = intended_s + draw.exponential(lag_ms / 1000, count)
    latency_ms = times * np.exp(1.2 + 0.4 * draw.standard_normal(count)) + (started_s - intended_s) * 1000
    middle_s = intended_s[-1] / 2
    stalled = (intended_s >= middle_s) & (intended_s < middle_s + stall_s)
    latency_ms[stalled] += 1000 * (middle_s + stall_s - intended_s[stalled])
    ok = draw.random(count) >= errors
    samples = Samples(
        intended_s=intended_s if open_loop else started_s,
        started_s=started_s,
        latency_ms=latency_ms,
        ok=ok,
        status=np.where(ok, 200, 503).astype(np.int16),
        endpoint=draw.integers(0, len(endpoints), count).astype(np.int8),
        arm=draw.integers(0, len(arms), count).astype(np.int8),
        error=np.where(ok, -1, draw.integers(0, len(KINDS), count)).astype(np.int16),
        answer_bytes=np.full(count, 300),
        size=draw.choice([20, 100, 500], count),
        endpoints=endpoints,
        arms=arms,
        error_kinds=KINDS,
        open_loop=open_loop,
    )
    return samples.rows(np.argsort(samples.ended_s, kind="stable"))
