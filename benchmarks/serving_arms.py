"""What `benchmarks.serving` compares: four servers of one graph on one core, each as its users run it, and how to look into them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load_client import Load, prepare
from benchmarks.plain_ranker import BUNDLE_VARIABLE
from benchmarks.services import HOST, ROOT, ServiceCommand, ServiceFailed, family_of, running
from serving.contract.bundle import RankingBundle

OURS, BARE, FASTAPI, BENTO = "pilotage", "bare_starlette", "fastapi", "bento_api"
ARMS = (OURS, BARE, FASTAPI, BENTO)

WATCH_FOLDER = "WATCH_FOLDER"
TELL_LIMIT_S = 10.0
MAX_CANDIDATES = 1000


@dataclass(frozen=True)
class Arm:
    """One running server."""

    name: str
    port: int
    path: str
    worker: psutil.Process
    watch: Path

    def load(self, bodies: list[bytes], media: str = "application/json", connections: int = 1) -> Load:
        """Connections that send these bodies in turn."""
        return Load(self.port, prepare(self.path, bodies, media), connections)

    def inside(self) -> dict[str, Any]:
        """Tracked objects, and the collections since the last call: `benchmarks/watch/sitecustomize.py`.

        Raises
        ------
        ServiceFailed
            The worker does not tell.
        """
        told = self.watch / f"{self.worker.pid}.json"
        told.unlink(missing_ok=True)
        self.worker.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + TELL_LIMIT_S
        while not told.exists():
            if time.monotonic() > deadline:
                raise ServiceFailed(f"the worker of {self.name} did not tell of its objects within {TELL_LIMIT_S:g} s")
            time.sleep(0.01)
        seen: dict[str, Any] = json.loads(told.read_text())
        return seen

    def rss_mb(self) -> float:
        """Resident memory of the worker."""
        return float(self.worker.memory_info().rss / 1e6)


def cores() -> tuple[frozenset[int], frozenset[int]]:
    """The server's core and the client's; the same one where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return frozenset(usable[:1]), frozenset(usable[1:2] or usable[:1])


@contextmanager
def serving(bundle: RankingBundle, folder: Path, *, objective_ms: float) -> Iterator[Mapping[str, Arm]]:
    """Start all arms on the server's core, wait until they are ready."""
    on, _ = cores()
    watch = folder / "watch"
    watch.mkdir()
    python_path = os.pathsep.join([str(ROOT / "benchmarks" / "watch"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    common = {WATCH_FOLDER: str(watch), "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    ours = {
        **common,
        "PILOTAGE_BUNDLE": str(bundle.path),
        "PILOTAGE_THREADS": "1",
        "PILOTAGE_MAX_CANDIDATES": str(MAX_CANDIDATES),
        "PILOTAGE_OBJECTIVE_MS": str(objective_ms),
    }
    theirs = {**common, BUNDLE_VARIABLE: str(bundle.path)}
    commands = [
        ServiceCommand(OURS, "serving.services.ranking:RankingService", ours, cores=on),
        ServiceCommand(BARE, "benchmarks.bare_service:app", theirs, "uvicorn", on),
        ServiceCommand(FASTAPI, "benchmarks.fastapi_service:app", theirs, "uvicorn", on),
        ServiceCommand(BENTO, "benchmarks.bento_api_service:PlainService", theirs, cores=on),
    ]
    with running(commands, folder) as ports:
        yield {name: Arm(name, port, "/v1/rank" if name == OURS else "/rank", _worker_of(port), watch) for name, port in ports.items()}


def _worker_of(port: int) -> psutil.Process:
    """The process that answers: BentoML's supervisor has it as a child, with its resource tracker."""
    family = family_of(port)
    return max(family, key=lambda process: process.memory_info().rss)


def url_of(arm: Arm) -> str:
    """For error messages."""
    return f"http://{HOST}:{arm.port}{arm.path}"
