"""From the samples of a load test to what the judge takes: one place, so that everybody judges the same requests by the same clock."""

from __future__ import annotations

import numpy as np

from loadtests.judge import Arm, Batch
from loadtests.judge.arms import no_requests
from loadtests.samples import Samples


def arm_of(samples: Samples) -> Arm:
    """Rows as the judge takes them: from the intended start, with the generator's lag where there was a schedule."""
    return Arm(
        started_s=samples.intended_s,
        latency_ms=samples.latency_ms,
        ok=samples.ok,
        lag_ms=samples.lag_ms if samples.open_loop else None,
        endpoint=np.array(samples.endpoints, dtype=np.str_)[samples.endpoint] if len(samples) else None,
    )


def batch_of(samples: Samples, canary: str, baseline: str) -> Batch:
    """Rows of two arms by name; one that is not there has no requests."""
    found, beside = (arm_of(samples.of_arm(name)) if name in samples.arms else no_requests() for name in (canary, baseline))
    return Batch(found, beside, unsent=samples.unsent, unanswered=samples.unanswered, lost_workers=samples.lost_workers)
