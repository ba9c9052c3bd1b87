"""Ranking over HTTP beside its rival and its limit: ``python -m benchmarks.ranking [--quick] [--json]``.

Measured in one run, for 1, 100 and 500 candidates:

* ``pilotage_http_p50_ms``: `serving.services.ranking` with the graph in fp32, end to end; ``pilotage_int8_http_p50_ms`` the
  same with dynamic int8 (its accuracy is not judged here: the weights are random);
* ``naive_http_p50_ms``: `benchmarks.naive_service`, end to end, with the same weights and the same requests;
* ``session_run_p50_ms``, ``session_run_int8_p50_ms``: the bundle's graph alone in this process, on the same requests already
  turned into arrays: the limit of what serving can reach with this graph;
* ``naive_model_p50_ms``: the rival's forward pass alone in this process, features already hashed.

``speedup_over_naive`` is naive ÷ ours, ``overhead_over_session_run`` ours ÷ the graph alone, both fp32.

How: each service is a real ``bentoml serve`` on loopback with one worker, free to use every core; the client is one keep-alive
`http.client` connection to each, one request at a time. A round visits every pair of arm and size once, in a fresh random order;
a visit rests, sends one request that is not counted, so that caches are warm and the arm before has come to rest, then `BURST`
that are. A value is the median over rounds of the visits' medians, a ratio the median of the rounds' ratios. Requests are made up
from the specification with a fixed seed, without ``top_k``: every arm answers all candidates, which is checked for every body.

Every model, ours and the rival's, runs on one thread unless ``--threads`` says otherwise. That is the rival's better side: on two
cores that were not idle its forward pass over 500 candidates of ``ids8`` took 0.9 ms with one thread and 1.7 ms with two, and up
to 110 ms when OpenMP's barrier had to wait for a core, which would have flattered us.

The headline is the scenario ``ids8``: eight ids a candidate, no lists, so that neither arm gains from histories that it would
not have to repeat. ``movielens`` has lists of up to 100 ids, ``ids8_large`` a network whose arithmetic outweighs the rest.
``--quick`` measures the headline alone.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import FrameType
from typing import TYPE_CHECKING

from benchmarks.command import report
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of
from benchmarks.services import Client, ServiceCommand, ServiceFailed, running

if TYPE_CHECKING:
    from benchmarks.seeded import Scenario

SIZES = (1, 100, 500)
BODIES = 8
"""Bodies a size, sent in turn, so that no service is asked the same thing twice running."""

BURST = 4
REST_S = 0.004
"""With ``--threads`` above 1, OpenMP's threads spin for some milliseconds after a forward pass in PyTorch; the next arm must not pay."""

SEED = 0
HEADLINE = "ids8"
DECISIVE_SIZE = 500
AIM_SPEEDUP = 5.0
MOONSHOT_SPEEDUP = 10.0

QUICK_S = 10.0
FULL_S = 45.0
"""Time for the rounds of one scenario."""

MIN_ROUNDS = 5

PILOTAGE, PILOTAGE_INT8, NAIVE = "pilotage_http", "pilotage_int8_http", "naive_http"
SESSION = "session_run"
PACKAGES = ("bentoml", "msgspec", "numpy", "onnxruntime", "scikit-learn", "starlette", "torch", "uvicorn")

Arm = Callable[[int], object]
"""Serves the body of this number once."""

Samples = dict[tuple[str, int], list[float]]
"""(arm, number of candidates) → one median a round, in milliseconds."""

Tell = Callable[[str, float], None]


def measure(arms: Mapping[tuple[str, int], Arm], *, seconds: float, seed: int, on_round: Callable[[float], None]) -> Samples:
    """Visit all arms in rounds until the time is over.

    Parameters
    ----------
    seconds
        For all rounds; a slow machine gets fewer, at least `MIN_ROUNDS`.
    on_round
        Told the share of the time that is over.
    """
    draw = random.Random(seed)
    samples: Samples = {key: [] for key in arms}
    order = list(arms)
    started = time.perf_counter()
    rounds = 0
    gc.collect()
    gc.disable()
    try:
        while rounds < MIN_ROUNDS or time.perf_counter() - started < seconds:
            draw.shuffle(order)
            for key in order:
                samples[key].append(_visit(arms[key], rounds * (BURST + 1)))
            rounds += 1
            on_round(min(1.0, (time.perf_counter() - started) / seconds))
    finally:
        gc.enable()
    return samples


def summarise(scenario: str, samples: Samples) -> list[Figure]:
    """Medians of every arm and size, and the ratios."""
    figures = []
    for size in sorted({size for _, size in samples}):
        by_arm = {arm: values for (arm, of), values in samples.items() if of == size}
        rounds = len(by_arm[PILOTAGE])
        figures += [Figure(f"{scenario}_{size}_{arm}_p50_ms", median(values), "ms", rounds) for arm, values in by_arm.items()]
        for name, above, below in (
            ("speedup_over_naive", NAIVE, PILOTAGE),
            ("speedup_over_naive_int8", NAIVE, PILOTAGE_INT8),
            ("overhead_over_session_run", PILOTAGE, SESSION),
        ):
            ratios = [a / b for a, b in zip(by_arm[above], by_arm[below], strict=True)]
            figures.append(Figure(f"{scenario}_{size}_{name}", median(ratios), "x", rounds))
    return figures


def aims_of(figures: Sequence[Figure]) -> list[Aim]:
    """What is wanted of the figures: the headline's speed-up, in fp32."""
    name = f"{HEADLINE}_{DECISIVE_SIZE}_speedup_over_naive"
    value = next(figure.value for figure in figures if figure.name == name)
    return [Aim(name, value, "x", AIM_SPEEDUP), Aim(f"{name}_moonshot", value, "x", MOONSHOT_SPEEDUP)]


def check_answer(content: bytes, ids: frozenset[str | int]) -> None:
    """Refuse an answer that does not rank all candidates, best first, with finite probabilities.

    Raises
    ------
    ServiceFailed
        Saying what is wrong.
    """
    ranking = json.loads(content)["ranking"]
    found = [entry["id"] for entry in ranking]
    if len(found) != len(ids) or set(found) != ids:
        raise ServiceFailed(f"an answer has {len(found)} candidates, {len(ids)} were sent; rivals must do the same work to be compared")
    probabilities = [entry["probability"] for entry in ranking]
    if not all(math.isfinite(p) and 0 <= p <= 1 for p in probabilities):
        raise ServiceFailed("an answer has a probability outside 0 to 1")
    if probabilities != sorted(probabilities, reverse=True):
        raise ServiceFailed("an answer is not in falling order")


def run(*, quick: bool, threads: int, tell: Tell) -> Record:
    """Measure the scenarios, one after the other; the headline alone if `quick`."""
    from benchmarks.seeded import scenarios

    figures: list[Figure] = []
    chosen = scenarios()[:1] if quick else scenarios()
    for i, scenario in enumerate(chosen):

        def step(what: str, share: float, done: int = i, name: str = scenario.name) -> None:
            tell(f"{name}: {what}", (done + share) / len(chosen))

        with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as folder:
            samples = _scenario(scenario, Path(folder), seconds=QUICK_S if quick else FULL_S, threads=threads, tell=step)
        figures += summarise(scenario.name, samples)
    return Record(machine_of(threads), versions_of(PACKAGES), tuple(figures), tuple(aims_of(figures)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aims are met, 3 when nothing could be measured."""
    from serving.runtime.cpus import usable_cores

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ranking", description="Ranking over HTTP beside a naive service and the bare graph."
    )
    parser.add_argument("--quick", action="store_true", help="the headline alone, with fewer rounds: ends within 60 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    parser.add_argument("--threads", type=int, default=1, help="threads of one run of a model, in every arm; 0 takes all usable cores")
    options = parser.parse_args(arguments)
    if options.threads < 0:
        parser.error(f"--threads is {options.threads}, it must be 0 or more")
    signal.signal(signal.SIGTERM, _exit_on_signal)
    return report(
        lambda tell: run(quick=options.quick, threads=options.threads or usable_cores(), tell=tell),
        "ranking: p50 end to end, and what it is made of",
        as_json=options.json,
    )


def _scenario(scenario: Scenario, folder: Path, *, seconds: float, threads: int, tell: Tell) -> Samples:
    from benchmarks.ranking_arms import http_arm, local_arms, make_bodies
    from benchmarks.seeded import FP32, INT8, make

    tell("exporting the model", 0.0)
    seeded = make(scenario, folder, seed=SEED)
    pilotage = {"PILOTAGE_THREADS": str(threads), "PILOTAGE_MAX_CANDIDATES": str(max(SIZES))}
    target = "serving.services.ranking:RankingService"
    commands = [
        ServiceCommand(PILOTAGE, target, {**pilotage, "PILOTAGE_BUNDLE": str(seeded.bundles[FP32].path)}),
        ServiceCommand(PILOTAGE_INT8, target, {**pilotage, "PILOTAGE_BUNDLE": str(seeded.bundles[INT8].path)}),
        ServiceCommand(NAIVE, "benchmarks.naive_service:NaiveService", {"NAIVE_MODEL": str(seeded.naive), "NAIVE_THREADS": str(threads)}),
    ]
    tell("starting the services", 0.2)
    with running(commands, folder) as ports, contextlib.ExitStack() as stack:
        clients = {arm: Client(port, "/rank" if arm == NAIVE else "/v1/rank") for arm, port in ports.items()}
        for client in clients.values():
            stack.callback(client.close)
        tell("checking the answers", 0.4)
        bodies = {size: make_bodies(scenario.spec, size, count=BODIES, seed=SEED) for size in SIZES}
        arms = local_arms(seeded, {size: [body for body, _ in of_size] for size, of_size in bodies.items()}, threads=threads)
        for size, of_size in bodies.items():
            for arm, client in clients.items():
                for body, ids in of_size:
                    check_answer(client.post(body), ids)
                arms[arm, size] = http_arm(client, [body for body, _ in of_size])
        return measure(arms, seconds=seconds, seed=SEED, on_round=lambda share: tell("measuring", 0.4 + 0.6 * share))


def _visit(arm: Arm, first: int) -> float:
    """Milliseconds that `arm` takes, the median of a burst."""
    time.sleep(REST_S)
    arm(first)
    taken = []
    for i in range(1, BURST + 1):
        started = time.perf_counter()
        arm(first + i)
        taken.append((time.perf_counter() - started) * 1e3)
    return median(taken)


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds, so that the services are stopped


if __name__ == "__main__":
    sys.exit(main())
