"""The serving path beside its rivals and its limit: ``python -m benchmarks.serving [--quick] [--steady-s S] [--json]``.

Four servers of one graph (`ids8`: eight string ids, DCN-v2, fp32, one thread), each with one worker on one core, the client on another:

* ``pilotage``: `serving.services.ranking` under ``bentoml serve``;
* ``bare_starlette``: the limit, the same decoder, ranker and encoder behind Starlette and uvicorn alone (`benchmarks.bare_service`);
* ``fastapi``: FastAPI and ONNX Runtime (`benchmarks.fastapi_service`);
* ``bento_api``: BentoML's plain ``@bentoml.api`` and ONNX Runtime (`benchmarks.bento_api_service`).

Phases, in rounds that visit all arms in a fresh random order:

1. *alone*: one connection, one request at a time; p50, p99, p99.9 and the longest of 1, 100 and 500 candidates in JSON, and ours with Arrow
   at 500 beside ``session.run`` on the same arrays in the client's process. ``http_overhead`` is (ours − ``session.run``) ÷ (bare −
   ``session.run``), ``latency_ratio`` plainly ours ÷ bare.
2. *saturation*: as much as 8 connections get answered, 100 candidates.
3. *open loop*: Poisson arrivals at 60 % of each arm's own saturation, latency from the intended start.
4. *overload*: Poisson arrivals at three times our saturation, over 1,024 connections, with 100 and with 500 candidates. To refuse a
   request is to read it all the same: the smaller the work of an answer, the larger the share of the core that refusals take. The aim is
   for 500.
5. *steady*: ours at 60 % for five minutes (``--steady-s``), on connections that live as long; before, as long as a tenth of it for warm-up.
   Memory and tracked objects are read from within before and after; a stall is a time without any answer while a request is under way.

The client spins on its core. What the machine takes away from both is told by ``steady_client_gap_ms``, the longest time that the client
itself did not run, and ``steady_stolen_ms``, what the hypervisor took from the server's core (``steal`` in ``/proc/stat``).
``--quick`` does all of it with short phases; figures of the tail then say little.
"""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from benchmarks.command import report
from benchmarks.record import Record, machine_of, versions_of

PACKAGES = ("bentoml", "fastapi", "msgspec", "numpy", "onnxruntime", "pyarrow", "starlette", "uvicorn", "uvloop")
STEADY_S, QUICK_STEADY_S = 300.0, 8.0


def run(*, quick: bool, steady_s: float, tell: Callable[[str, float], None]) -> Record:
    """Measure all phases."""
    import os

    from benchmarks.seeded import FP32, make, scenarios
    from benchmarks.serving_arms import cores, serving
    from benchmarks.serving_phases import OBJECTIVE_MS, Phases

    with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as name:
        folder = Path(name)
        scenario = scenarios()[0]
        bundle = make(scenario, folder, seed=0).bundles[FP32]
        before = os.sched_getaffinity(0)
        with serving(bundle, folder, objective_ms=OBJECTIVE_MS) as arms:
            os.sched_setaffinity(0, cores()[1])
            gc.collect()
            gc.freeze()
            gc.disable()  # the client's own collections must not look like the server's stalls
            try:
                phases = Phases(arms, bundle, quick=quick, steady_s=steady_s, tell=tell)
                figures, aims = phases.measure()
            finally:
                gc.enable()
                gc.unfreeze()
                os.sched_setaffinity(0, before)
    return Record(machine_of(1), versions_of(PACKAGES), tuple(figures), tuple(aims))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aims are met, 3 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="The serving path beside its rivals and its limit.")
    parser.add_argument("--quick", action="store_true", help="all phases, short: ends within 60 s")
    parser.add_argument("--steady-s", type=float, default=None, help=f"length of the steady phase  [default: {STEADY_S:g}]")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    steady_s = options.steady_s if options.steady_s is not None else (QUICK_STEADY_S if options.quick else STEADY_S)
    if not 1 <= steady_s <= 86_400:
        parser.error(f"--steady-s is {steady_s:g}, it must be 1 to 86400")
    signal.signal(signal.SIGTERM, _exit_on_signal)
    return report(
        lambda tell: run(quick=options.quick, steady_s=steady_s, tell=tell),
        "serving: this service, its rivals, its limit",
        as_json=options.json,
    )


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds, so that the services are stopped


if __name__ == "__main__":
    sys.exit(main())
