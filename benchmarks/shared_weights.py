"""Memory of one worker and of four on the same embedding table: ``python -m benchmarks.shared_weights [--quick] [--json]``.

A model with one table of 1 GB (``--quick``: 100 MB) is exported and bundled as any other, and served by ``bentoml serve`` with one worker,
then with four. Requests with random ids are sent until every worker has the whole table mapped; then the proportional set sizes of all
processes of the service are added up: a page that four workers share counts a quarter in each (``Pss`` in ``/proc/PID/smaps_rollup``).

* ``pss_1_worker_mb``, ``pss_4_workers_mb``: supervisor and workers together;
* ``beside_the_table_mb``: of one worker's service, what is not the table;
* ``ratio``: four workers ÷ one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.command import report
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of
from benchmarks.services import Client, ServiceCommand, ServiceFailed, family_of, running
from serving.contract.bundle import RankingBundle

WORKERS = 4
DIM = 16
FULL_BYTES, QUICK_BYTES = 10**9, 10**8
AIM = 1.3

CANDIDATES = 1000
CONNECTIONS = 16
"""The kernel spreads new connections over the workers."""

TOUCHED = 0.98
"""Share of the table that every worker must have mapped; faults bring in the pages around, so the last ones come slowly."""

TOUCH_LIMIT_S = 240.0
PACKAGES = ("bentoml", "numpy", "onnxruntime", "pyarrow")


def make_bundle(table_bytes: int, folder: Path) -> RankingBundle:
    """RankingBundle a model whose one field has a table of about `table_bytes`."""
    import torch

    from benchmarks.seeded import FP32, Scenario, bundle_of
    from optimize.export.to_onnx import export_ranking
    from optimize.models.registry import DcnV2Settings, build
    from serving.contract.fields import parse_spec

    field = {"name": "id", "kind": "categorical", "part": "candidate", "buckets": table_bytes // (4 * DIM), "dim": DIM}
    scenario = Scenario("large_table", parse_spec({"name": "large-table", "fields": [field]}, "large_table"), DcnV2Settings(hidden=(16,)))
    torch.manual_seed(0)
    graph = export_ranking(build(scenario.settings, scenario.spec).eval())
    return bundle_of(scenario, FP32, graph, folder, seed=0)


def pss_of(bundle: RankingBundle, workers: int, folder: Path) -> float:
    """Bytes of all processes of the service, each page counted once.

    Raises
    ------
    ServiceFailed
        The service does not come up, or a worker never touched the whole table.
    """
    environment = {"PILOTAGE_BUNDLE": str(bundle.path), "PILOTAGE_WORKERS": str(workers), "PILOTAGE_THREADS": "1"}
    command = ServiceCommand(f"{workers}_workers", "serving.services.ranking:RankingService", environment)
    weights = next(path for path in bundle.path.iterdir() if path.suffix == ".weights")
    with running([command], folder) as ports:
        family = family_of(ports[command.name])
        draw = random.Random(0)
        deadline = time.monotonic() + TOUCH_LIMIT_S
        while min(mapped := _mapped(family, weights, workers)) < TOUCHED * weights.stat().st_size:
            if time.monotonic() > deadline:
                raise ServiceFailed(f"after {TOUCH_LIMIT_S:.0f} s workers have {mapped} bytes of the table mapped")
            _ask(ports[command.name], draw)
        return float(sum(process.memory_full_info().pss for process in family))


def run(*, quick: bool) -> Record:
    """Measure one worker, then four."""
    table = QUICK_BYTES if quick else FULL_BYTES
    with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as name:
        folder = Path(name)
        bundle = make_bundle(table, folder)
        one, four = (pss_of(bundle, workers, folder) for workers in (1, WORKERS))
    figures = (
        Figure("table_mb", table / 1e6, "MB", 1),
        Figure("pss_1_worker_mb", one / 1e6, "MB", 1),
        Figure(f"pss_{WORKERS}_workers_mb", four / 1e6, "MB", 1),
        Figure("beside_the_table_mb", (one - table) / 1e6, "MB", 1),
        Figure("ratio", four / one, "x", 1),
    )
    aims = () if quick else (Aim("ratio", four / one, "x", AIM, at_most=True),)
    return Record(machine_of(1), versions_of(PACKAGES), figures, aims)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aim is met, 3 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_weights", description="Memory of four workers beside that of one.")
    parser.add_argument("--quick", action="store_true", help="a table of 100 MB, without the aim, which is about 1 GB")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    return report(lambda _: run(quick=options.quick), "proportional set sizes", as_json=options.json)


def _mapped(family: Sequence[psutil.Process], weights: Path, workers: int) -> list[int]:
    """Bytes of the weights file that each worker has in its page table."""
    sizes = [sum(area.rss for area in process.memory_maps() if area.path == str(weights)) for process in family]
    return [size for size in sizes if size] if sum(map(bool, sizes)) == workers else [0]


def _ask(port: int, draw: random.Random) -> None:
    clients = [Client(port, "/v1/rank") for _ in range(CONNECTIONS)]
    for _ in range(4):
        for client in clients:
            client.post(json.dumps({"candidates": [{"id": f"{draw.getrandbits(64):x}"} for _ in range(CANDIDATES)]}).encode())
    for client in clients:
        client.close()


if __name__ == "__main__":
    sys.exit(main())
