"""Services as real processes on loopback, for the tests of this folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
START_LIMIT_S, STOP_LIMIT_S = 60, 20
PILOTAGE = [sys.executable, "-m", "pilotage.cli", "serve"]
BENTOML = [sys.executable, "-m", "bentoml", "serve", "serving.services.ranking:RankingService", "--host", "127.0.0.1"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def environment_of(home: Path, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PILOTAGE_")}
    kubernetes = {"PILOTAGE_PORT": "tcp://10.0.0.1:3000", "PILOTAGE_SERVICE_HOST": "10.0.0.1"}
    return {
        **clean,
        **kubernetes,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PILOTAGE_THREADS": "1",
        "PILOTAGE_DRAIN_S": "0",
        "PILOTAGE_STATE_DIR": str(home / "state"),
        **more,
    }


@contextmanager
def service_of(command: list[str], folder: Path, path: str, **environment: str) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """Run a service until the block ends; it is waited for until `path` answers 200."""
    port, log = free_port(), folder / "service.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env=environment_of(folder / "home", **environment),
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    process = psutil.Process(child.pid)
    family = [process]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            _wait(client, path, child, log)
            family += process.children(recursive=True)  # workers have process groups of their own: killing the group leaves them
            yield client, process
    finally:
        with suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)  # once more: a worker that was killed has a successor
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, STOP_LIMIT_S)
        child.wait(STOP_LIMIT_S)


def _wait(client: httpx.Client, path: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and child.poll() is None:
        with suppress(httpx.TransportError):
            if client.get(path).status_code == 200:
                return
        time.sleep(0.05)
    pytest.fail(f"{path} did not answer 200, exit code {child.poll()}:\n{log.read_text(errors='replace')[-3000:]}")
