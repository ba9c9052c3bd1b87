"""Record latencies of our own service for `benchmarks.judge`: ``python -m benchmarks.judge_record [--seconds S]``.

The ranker of `benchmarks.seeded` with eight ids, 100 candidates a request, JSON, one worker, two connections that ask again as soon as they
are answered. The machine is taken as it is: what others do on it meanwhile is what makes a recorded trace worth having. It is written as
``traces/served.npz`` (``latency_ms`` float32 in the order of the requests' starts, no pickle).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.load_client import Load, Outcome, prepare
from benchmarks.ranking_arms import make_bodies
from benchmarks.services import ServiceCommand, ServiceFailed, running

TRACE = Path(__file__).parent / "traces" / "served.npz"
CANDIDATES, BODIES = 100, 64
CONNECTIONS = 2
WARM_S = 3.0
OBJECTIVE_MS = 10_000.0
"""So late that hardly anything is shed."""

MIN_ANSWERED = 0.98
"""What is shed while the machine is away leaves a gap; a trace with more of them would be one of the gaps."""


def record(seconds: float) -> Outcome:
    """Load the service.

    Raises
    ------
    ServiceFailed
        More than some were not answered with 200.
    """
    from benchmarks.seeded import FP32, make, scenarios

    with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as name:
        folder = Path(name)
        scenario = scenarios()[0]
        bundle = make(scenario, folder, seed=0).bundles[FP32]
        environment = {
            "PILOTAGE_BUNDLE": str(bundle.path),
            "PILOTAGE_THREADS": "1",
            "PILOTAGE_OBJECTIVE_MS": f"{OBJECTIVE_MS:g}",
            "OMP_NUM_THREADS": "1",
        }
        bodies = [body for body, _ in make_bodies(scenario.spec, CANDIDATES, count=BODIES, seed=0)]
        with running([ServiceCommand("recorded", "serving.services.ranking:RankingService", environment)], folder) as ports:
            for lasting in (WARM_S, seconds):
                with Load(ports["recorded"], prepare("/v1/rank", bodies), connections=CONNECTIONS) as load:
                    outcome = load.closed(lasting)
    answered = len(outcome.latencies_s.get(200, ()))
    if answered < MIN_ANSWERED * outcome.answered:
        refused = outcome.answered - answered
        raise ServiceFailed(f"{refused:,} of {outcome.answered:,} requests were not answered with 200")
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Record and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_record", description="Record latencies of our own service.")
    parser.add_argument("--seconds", type=float, default=75.0, help="length of the record  [default: 75]")
    options = parser.parse_args(arguments)
    outcome = record(options.seconds)
    latency_s = np.array(outcome.latencies_s[200])
    order = np.argsort(np.array(outcome.ended_s[200]) - latency_s)
    latency_ms = (1e3 * latency_s[order]).astype(np.float32)
    TRACE.parent.mkdir(exist_ok=True)
    np.savez_compressed(TRACE, latency_ms=latency_ms)
    quantiles = ", ".join(f"p{100 * share:g} {np.quantile(latency_ms, share):.3g} ms" for share in (0.5, 0.9, 0.99, 0.999))
    print(f"{len(latency_ms):,} requests, {quantiles}: {TRACE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
