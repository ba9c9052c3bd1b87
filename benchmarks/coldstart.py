"""From starting the process to ready: ``python -m benchmarks.coldstart [--quick] [--json]``.

A bundle with the largest network of `benchmarks.seeded` (`ids8_large`) is served by ``bentoml serve`` as a pod would start it, again and
again, with warm file caches; ``/readyz`` is asked every few milliseconds.

* ``ready_s``: the command started to ``/readyz`` answering 200, models loaded and warm;
* ``supervisor_s``: of that, until BentoML's supervisor has started the worker; ``worker_s``: the rest;
* what a worker does in its part, each step timed alone: ``python_s``, ``import_bentoml_s``, ``import_service_s`` (the rest
  of `serving`, ONNX Runtime, pyarrow), ``open_bundle_s`` (checksums), ``session_s`` (the graph), ``warm_up_s``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import psutil

from benchmarks.command import report
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of
from benchmarks.services import ROOT, ServiceCommand, ServiceFailed, is_ready, service_environment, stop
from k8s.local.processes import free_port

ROUNDS, QUICK_ROUNDS = 9, 3
AIM_S = 3.0
LIMIT_S = 60.0
POLL_S = 0.005
PACKAGES = ("bentoml", "onnxruntime", "pyarrow", "uvicorn")

STEPS = """
import json, sys, time
marks = [("python_s", time.time() - float(sys.argv[2]))]
def step(name, work):
    began = time.perf_counter()
    result = work()
    marks.append((name, time.perf_counter() - began))
    return result
step("import_bentoml_s", lambda: [__import__(name) for name in ("_bentoml_impl.server.app", "_bentoml_sdk.service", "uvicorn")])
step("import_service_s", lambda: [__import__(f"serving.services.{name}") for name in ("ranking", "worker", "hot_lane", "lane_protocol")])
from pathlib import Path
from serving.contract.bundle import open_ranking_bundle
from serving.ranking.ranker import Ranker
from serving.services.catalog import WARM_UP_SIZES
bundle = step("open_bundle_s", lambda: open_ranking_bundle(Path(sys.argv[1])))
ranker = step("session_s", lambda: Ranker(bundle, threads=1, max_candidates=1000))
step("warm_up_s", lambda: ranker.warm_up(WARM_UP_SIZES))
print(json.dumps(dict(marks)))
"""

Tell = Callable[[str, float], None]


def start(bundle: Path, folder: Path) -> dict[str, float]:
    """Serve `bundle` once; seconds of each part.

    Raises
    ------
    ServiceFailed
        It exits, or is not ready in time.
    """
    command = ServiceCommand("coldstart", "serving.services.ranking:RankingService", {"PILOTAGE_BUNDLE": str(bundle)})
    port = free_port()
    log = folder / "coldstart.log"
    with log.open("wb") as sink:
        began = time.time()
        process = subprocess.Popen(
            command.arguments(port),
            cwd=ROOT,
            env=service_environment(command, folder),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not is_ready(port):
                if process.poll() is not None or time.time() - began > LIMIT_S:
                    raise ServiceFailed(f"the service was not ready after {LIMIT_S:g} s or exited; its log:\n{log.read_text()[-2000:]}")
                time.sleep(POLL_S)
            ready_s = time.time() - began
            workers = psutil.Process(process.pid).children(recursive=True)
            worker = max(workers, key=lambda child: child.memory_info().rss)
            supervisor_s = worker.create_time() - began
        finally:
            stop(process)
    return {"ready_s": ready_s, "supervisor_s": supervisor_s, "worker_s": ready_s - supervisor_s}


def steps(bundle: Path) -> dict[str, float]:
    """Seconds of each thing that a worker does, in a fresh process."""
    arguments = [sys.executable, "-c", STEPS, str(bundle), repr(time.time())]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ServiceFailed(f"a worker's steps could not be timed:\n{done.stderr[-2000:]}")
    taken: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return taken


def run(*, quick: bool, tell: Tell) -> Record:
    """Start the service again and again, in turn with the steps alone."""
    from benchmarks.seeded import FP32, make, scenarios

    rounds = QUICK_ROUNDS if quick else ROUNDS
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as name:
        folder = Path(name)
        bundle = make(scenarios()[-1], folder, seed=0).bundles[FP32].path
        steps(bundle)  # brings the files into the cache
        for done in range(rounds):
            tell("starting", done / rounds)
            for part, seconds in (start(bundle, folder) | steps(bundle)).items():
                samples.setdefault(part, []).append(seconds)
    figures = [Figure(part, median(values), "s", rounds) for part, values in samples.items()]
    figures.append(Figure("ready_max_s", max(samples["ready_s"]), "s", rounds))
    aims = (Aim("ready_s", median(samples["ready_s"]), "s", AIM_S, at_most=True),)
    return Record(machine_of(1), versions_of(PACKAGES), tuple(figures), aims)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aim is met, 3 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coldstart", description="From starting the process to ready.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: ends within 60 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    return report(lambda tell: run(quick=options.quick, tell=tell), "cold start", as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
