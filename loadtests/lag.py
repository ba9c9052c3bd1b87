"""Did the generator keep to its schedule? One that fell behind measured itself, and its run is not valid.

Latency counts from the intended start, so what the generator was late stands in every figure. Where that is more than the limits allow,
nothing is to be concluded about the service, neither good nor bad.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from loadtests.judge import Policy
from loadtests.judge.fitness import MAX_LATE_PCT
from loadtests.quantiles import QUANTILES, quantile
from loadtests.samples import Samples

MAX_LAG_MS = Policy().max_lag_ms
"""The judge's, so that a report and a verdict on the same samples agree on whether they are fit."""


class GeneratorLag(BaseModel):
    """What the generator did to the figures.

    Attributes
    ----------
    valid
        Whether it kept to its schedule. A closed loop has none to keep to.
    reasons
        Which limit was broken and what to do, one sentence each; empty where it is valid.
    p50_ms, p99_ms, max_ms
        How late requests were sent; null in a closed loop, and where there were too few to say.
    late, late_pct
        Requests sent more than `max_lag_ms` late, or not at all; at most `max_late_pct` are allowed.
    starved
        Requests that found all users busy when their time came.
    unsent
        Requests whose time came and that were never sent.
    lost_workers
        Generator processes that did not tell what came of their share.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    valid: bool
    reasons: tuple[str, ...]
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    late: Annotated[int, Field(ge=0)]
    late_pct: Annotated[float, Field(ge=0, le=100)]
    max_lag_ms: float
    max_late_pct: float
    starved: int
    unsent: int
    lost_workers: int


def assess(samples: Samples, max_lag_ms: float = MAX_LAG_MS) -> GeneratorLag:
    """Say whether the generator kept to its schedule."""
    lag_ms = np.sort(samples.lag_ms) if samples.open_loop else np.zeros(0)
    late = int((lag_ms > max_lag_ms).sum()) + samples.unsent
    due = len(samples) + samples.unsent
    late_pct = 100 * late / due if due else 0.0
    reasons = []
    if late_pct > MAX_LATE_PCT:
        found = f"{late_pct:.3g} % of the requests were sent more than {max_lag_ms:g} ms late or not at all, {MAX_LATE_PCT:g} % are allowed"
        if samples.starved > late / 2:
            advice = f"{samples.starved} found all users busy: give more users, or find out why the service holds them so long"
        else:
            advice = "the generator had too little processor time: give it more processes, another machine, or less load"
        reasons.append(f"{found}; {advice}")
    if samples.lost_workers:
        number = samples.lost_workers
        reasons.append(
            f"{number} generator process{'es' if number > 1 else ''} ended before telling what came of the requests; see the log"
        )
    return GeneratorLag(
        valid=not reasons,
        reasons=tuple(reasons),
        p50_ms=quantile(lag_ms, QUANTILES["p50"]),
        p99_ms=quantile(lag_ms, QUANTILES["p99"]),
        max_ms=float(lag_ms[-1]) if len(lag_ms) else None,
        late=late,
        late_pct=late_pct,
        max_lag_ms=max_lag_ms,
        max_late_pct=MAX_LATE_PCT,
        starved=samples.starved,
        unsent=samples.unsent,
        lost_workers=samples.lost_workers,
    )
