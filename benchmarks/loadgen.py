"""Does our load generator tell the truth? ``python -m benchmarks.loadgen [--quick] [--json]``.

Three questions, each against a stand-in service whose latencies and faults are known (`faulty_service`):

* **lag**: how late are requests sent at 1,000 and 2,000 a second, by one process on one core?
* **stall**: what is reported of a service that stops for one second, by an open loop and by a closed one?
* **agreement**: are p50 and p99 those that MLPerf's LoadGen finds (server scenario, Poisson at the same rate, as many requests), on the
  same running service, in turns?
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.command import Tell, report
from benchmarks.faulty_service import REQUEST, Faults, faulty_service
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of
from loadtests.generator import LOCUSTFILE
from loadtests.quantiles import QUANTILES, quantile
from loadtests.samples import Samples, joined
from loadtests.stream import StreamReader
from serving.contract.errors import PilotageError

PACKAGES = ("numpy", "locust", "gevent", "geventhttpclient")
RIVAL, RIVAL_MODULE = "mlcommons-loadgen", "mlperf_loadgen"

LIMIT_S = 120.0
"""Of one run; the longest takes 20 s."""

LAG_RPS, FAST_RPS, MAX_LAG_MS = 1000, 2000, 2.0
STALL_RPS, STALL_S = 200, 1.0
MIN_STALL_MS = 900.0
"""What the p99 must be at least: of 1,200 requests at 200 a second, 200 are due within the second, and the 12th longest waits 0.94 s."""

CLOSED_USERS = 2
AGREE_RPS, MAX_DIFFERENCE_PCT = 200, 5.0
AGREE_FAULTS = Faults(latency_ms=10, spread=0.25)
"""About what a ranking takes; the tail is mild enough that 3,000 requests know their p99 to one and a half per cent."""


@dataclass(frozen=True)
class Effort:
    """How much is sent."""

    lag: int
    stall: int
    agree: int
    rounds: int


FULL, QUICK = Effort(10_000, 1200, 3000, 3), Effort(2000, 1200, 1000, 1)


class GeneratorFailed(PilotageError):
    """A generator could not be run."""


def generated(url: str, arrivals: str, count: int, *, one_core: bool = False) -> Samples:
    """Send `count` requests by Locust in one process; what was measured.

    Raises
    ------
    GeneratorFailed
        It ended badly.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "requests.jsonl").write_text(REQUEST + "\n", encoding="utf-8")
        options = ["--host", url, "--requests-file", str(folder / "requests.jsonl"), "--stream", str(folder / "stream")]
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", *options]
        command += ["--arrivals", arrivals, "--samples", str(count)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
            cores = sorted(os.sched_getaffinity(0))
            if one_core and len(cores) > 1:
                os.sched_setaffinity(child.pid, cores[:1])
            try:
                output, _ = child.communicate(timeout=LIMIT_S)
            finally:
                child.kill()
        if child.returncode != 0:
            raise GeneratorFailed(f"Locust ended with exit code {child.returncode}:\n{output[-2000:]}")
        reader = StreamReader(folder / "stream")
        return joined(reader.new())


def rival(url: str, count: int, seed: int) -> dict[str, float]:
    """Send as many queries by LoadGen; its percentiles.

    Raises
    ------
    GeneratorFailed
        It ended badly.
    """
    command = [sys.executable, "-m", "benchmarks.loadgen_rival", url, str(AGREE_RPS), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise GeneratorFailed(f"LoadGen ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def percentiles(samples: Samples) -> dict[str, float]:
    """p50 and p99 by nearest rank, in milliseconds."""
    ordered = np.sort(samples.latency_ms)
    return {f"{name}_ms": quantile(ordered, QUANTILES[name]) or float("nan") for name in ("p50", "p99")}


def lag(effort: Effort) -> tuple[list[Figure], list[Aim]]:
    """How late requests are sent."""
    figures = []
    for rate in (LAG_RPS, FAST_RPS):
        with faulty_service(Faults(latency_ms=2)) as url:
            lag_ms = np.sort(generated(url, f"poisson:{rate}", effort.lag, one_core=True).lag_ms)
        told = {"p50": np.quantile(lag_ms, 0.5), "p99": np.quantile(lag_ms, 0.99), "max": lag_ms[-1]}
        figures += [Figure(f"lag|{rate}/s|{name}", float(value), "ms", 1) for name, value in told.items()]
    return figures, [Aim(figures[1].name, figures[1].value, "ms", MAX_LAG_MS, at_most=True)]


def stall(effort: Effort) -> tuple[list[Figure], list[Aim]]:
    """What is told of a service that stops for a second."""
    faults = Faults(latency_ms=5, stall_after=effort.stall // 3, stall_s=STALL_S)
    figures = []
    for name, arrivals in (("open", f"constant:{STALL_RPS}"), ("closed", f"closed:{CLOSED_USERS}")):
        with faulty_service(faults) as url:
            samples = generated(url, arrivals, effort.stall)
        figures += [Figure(f"stall|{name}|p99", percentiles(samples)["p99_ms"], "ms", 1)]
        figures += [Figure(f"stall|{name}|above 100 ms", float((samples.latency_ms > 100).sum()), "requests", 1)]
    return figures, [Aim(figures[0].name, figures[0].value, "ms", MIN_STALL_MS)]


def agreement(effort: Effort, tell: Tell) -> tuple[list[Figure], list[Aim]]:
    """How far our percentiles are from LoadGen's, by round in turns on one service."""
    ours, theirs = [], []
    with faulty_service(AGREE_FAULTS) as url:
        for number in range(effort.rounds):
            tell(f"agreement, round {number + 1}", 0.4 + 0.6 * number / effort.rounds)
            for turn in ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours"):
                if turn == "ours":
                    ours.append(percentiles(generated(url, f"poisson:{AGREE_RPS}", effort.agree)))
                else:
                    theirs.append(rival(url, effort.agree, number))
    figures, aims = [], []
    for name in ("p50", "p99"):
        key = f"{name}_ms"
        mine, yours = median(each[key] for each in ours), median(each[key] for each in theirs)
        difference_pct = median(100 * (one[key] / other[key] - 1) for one, other in zip(ours, theirs, strict=True))
        figures.append(Figure(f"agreement|pilotage|{name}", mine, "ms", effort.rounds))
        figures.append(Figure(f"agreement|loadgen|{name}", yours, "ms", effort.rounds))
        figures.append(Figure(f"agreement|difference|{name}", difference_pct, "%", effort.rounds))
        aims.append(Aim(f"agreement|size of the difference|{name}", abs(difference_pct), "%", MAX_DIFFERENCE_PCT, at_most=True))
    return figures, aims


def run(*, quick: bool, tell: Tell) -> Record:
    """Ask all three questions."""
    effort = QUICK if quick else FULL
    tell("lag", 0.0)
    figures, aims = lag(effort)
    tell("stall", 0.25)
    more, wanted = stall(effort)
    figures, aims, notes = figures + more, aims + wanted, {}
    versions = versions_of(PACKAGES)
    if find_spec(RIVAL_MODULE) is None:
        notes["agreement"] = f"left out: {RIVAL} is not installed"
    else:
        more, wanted = agreement(effort, tell)
        figures, aims, versions = figures + more, aims + wanted, versions | _rival_version()
    return Record(machine_of(1), versions, tuple(figures), tuple(aims), notes)


def _rival_version() -> dict[str, str]:
    try:
        return {RIVAL: version(RIVAL)}
    except PackageNotFoundError:  # a build of one's own
        return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aims are met, 3 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadgen", description="Lag, honesty and agreement of the load generator.")
    parser.add_argument("--quick", action="store_true", help="fewer requests: ends within 60 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    return report(lambda tell: run(quick=options.quick, tell=tell), "the load generator", as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
