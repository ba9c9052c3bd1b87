"""A laptop with tiny services and made-up samples, for tests of what surrounds them; run as a program it rolls a release out, to be killed.

``python -m tests.laptop FOLDER PORT NAME SLOWER`` serves ``old`` where nothing is served yet, and rolls out NAME.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k8s.local.fleet import Launch
from k8s.local.laptop import Laptop
from k8s.rollout.arms import Arm, Release
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Step
from k8s.rollout.record import Record

# A service in a file of its own, since processes are what is tested: answers with its name, "unready" never well, and ends at SIGTERM.
SERVICE = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True
    def do_GET(self):
        self.send_response(503 if sys.argv[2] == "unready" else 200)
        self.send_header("content-length", str(len(sys.argv[2])))
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())
    def log_message(self, *args):
        pass

if sys.argv[2] == "broken":
    sys.exit("no such model")
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# Chunks of samples as a load test streams them, faster than one could measure them.
GENERATOR = """
import sys, time
from pathlib import Path
import numpy as np
from loadtests.samples import Samples
from loadtests.stream import StreamWriter

folder, slower, arms = Path(sys.argv[1]), float(sys.argv[2]), tuple(sys.argv[3:])
writer, draw, n = StreamWriter(folder), np.random.default_rng(1), 400
for second in range(600):
    arm = draw.integers(0, len(arms), n).astype(np.int8)
    starts = second + np.sort(draw.random(n))
    latency = draw.lognormal(1, 0.4, n) * np.where(arm == arms.index("canary"), slower, 1.0)
    zeros = np.zeros(n, np.int64)
    writer.add(Samples(intended_s=starts, started_s=starts, latency_ms=latency, ok=np.ones(n, bool), status=zeros.astype(np.int16) + 200,
        endpoint=zeros.astype(np.int8), arm=arm, error=zeros.astype(np.int16) - 1, answer_bytes=zeros, size=zeros + 1,
        endpoints=("rank",), arms=arms, open_loop=True))
    time.sleep(0.1)
"""

PLAN = Plan.model_validate(
    {
        "name": "test",
        "warm_up": {"requests": 100},
        "synthetic": {},
        "objectives": {
            "quantile_ratio": {"quantile": 0.5, "tolerated_ratio": 1.1, "max_ratio": 2.0},
            "policy": {"min_samples": 200, "planned_samples": 1000},
        },
        "times": {"ready_s": 30, "promote_s": 30, "proven_s": 0.2, "poll_s": 0.1, "api_s": 10},
        "step": [{"weight_pct": 0, "samples": 3000}, {"weight_pct": 20, "samples": 3000}],
    }
)


def launch(release: Release, port: int) -> Launch:
    return Launch([sys.executable, "-I", "-S", "-c", SERVICE, str(port), release.name])


class Made:
    """A generator of made-up samples; the canary's are slower by a factor."""

    def __init__(self, slower: float) -> None:
        self._slower = slower

    def __call__(self, step: Step, arms: Sequence[Arm], folder: Path) -> Sequence[str]:
        return [sys.executable, "-c", GENERATOR, str(folder), str(self._slower), *arms]


def release(name: str) -> Release:
    return Release(name, bundle={"path": name})


def laptop(folder: Path, port: int, **more: Any) -> Laptop:
    return Laptop(folder, port, launcher=launch, **more)


def roll_out(at: Laptop, name: str, slower: float) -> Record:
    if not at.fleet.state("stable").wanted:
        at.serve(release("old"))
    return at.roll_out(PLAN, release(name), generator=Made(slower))


if __name__ == "__main__":
    roll_out(laptop(Path(sys.argv[1]), int(sys.argv[2])), sys.argv[3], float(sys.argv[4]))
