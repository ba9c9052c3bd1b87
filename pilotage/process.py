"""A service as a child process that never outlives its block."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serving.contract.errors import PilotageError

READY_LIMIT_S = 60
STOP_LIMIT_S = 15
LOG_LINES_SHOWN = 15

direct = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Opens an address of this machine; a proxy of the environment is for others."""


class ServiceFailed(PilotageError):
    """A service did not come up, or ended."""

    exit_code = 3


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_service(bundles: Sequence[Path], port: int, log: Path) -> Iterator[str]:
    """Serve `bundles` in a process group of its own; give the address once ``/readyz`` says yes, stop all of it at the end.

    Raises
    ------
    ServiceFailed
        The service ended, or was not ready in time; the message has the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as sink:
        command = [sys.executable, "-m", "pilotage.cli", "serve", *map(str, bundles), "--port", str(port)]
        service = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            _wait_ready(service, url, log)
            yield url
        finally:
            _stop(service)


def _wait_ready(service: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise ServiceFailed(f"the service ended with exit code {service.returncode}:\n{_tail(log)}")
        try:
            with direct(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ServiceFailed(f"the service was not ready within {READY_LIMIT_S} s:\n{_tail(log)}")


def _stop(service: subprocess.Popen[bytes]) -> None:
    """Ask the service to end, then insist, with its workers, which BentoML puts into process groups of their own."""
    import psutil

    try:
        family = [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    service.terminate()
    _, left = psutil.wait_procs(family, timeout=STOP_LIMIT_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    service.wait(STOP_LIMIT_S)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
