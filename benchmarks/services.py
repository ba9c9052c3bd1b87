"""Services as real processes on loopback: started, waited for, and gone at the end whatever happens."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from k8s.local.processes import free_port
from serving.contract.errors import PilotageError

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[1]
READY_PATH = "/readyz"
READY_TIMEOUT_S = 50.0
"""Three services that start at once were up within 20 s on two cores that had other work."""

POLL_S = 0.1
STOP_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0
LOG_TAIL_CHARACTERS = 2000

JSON_HEADERS = {"Content-Type": "application/json"}


class ServiceFailed(PilotageError):
    """A service did not come up, or answered with an error."""


@dataclass(frozen=True)
class ServiceCommand:
    """A service to start.

    Attributes
    ----------
    target
        What ``bentoml serve`` or ``uvicorn`` is given.
    environment
        Variables beside those of this process.
    cores
        Cores that it may use; None leaves it all that this process may use.
    """

    name: str
    target: str
    environment: Mapping[str, str]
    server: Literal["bentoml", "uvicorn"] = "bentoml"
    cores: frozenset[int] | None = None

    def arguments(self, port: int) -> list[str]:
        """The command line that serves on `port`."""
        if self.server == "bentoml":
            serve = ["bentoml", "serve", self.target]
        else:
            serve = ["uvicorn", self.target, "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        return [sys.executable, "-m", *serve, "--host", HOST, "--port", str(port)]


class Client:
    """One keep-alive connection of `http.client`, which costs the least of the clients at hand; it sets TCP_NODELAY."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_TIMEOUT_S)
        self._path = path

    def post(self, body: bytes) -> bytes:
        """Send one JSON body and read the whole answer.

        Raises
        ------
        ServiceFailed
            The status is not 200.
        """
        self._connection.request("POST", self._path, body, JSON_HEADERS)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise ServiceFailed(f"POST {self._path} was answered with HTTP {answer.status}: {content[:500].decode(errors='replace')}")
        return content

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def running(commands: Sequence[ServiceCommand], folder: Path) -> Iterator[dict[str, int]]:
    """Start all services at once, wait until each is ready, and give their ports by name.

    Parameters
    ----------
    folder
        For their logs and BentoML's home.

    Raises
    ------
    ServiceFailed
        One of them exits, or is not ready after `READY_TIMEOUT_S`; the end of its log is in the message.
    """
    with ExitStack() as stack:
        ports = {}
        processes = {}
        for command in commands:
            ports[command.name] = free_port()
            log = stack.enter_context((folder / f"{command.name}.log").open("wb"))
            with _on_cores(command.cores):
                process = subprocess.Popen(
                    command.arguments(ports[command.name]),
                    cwd=ROOT,
                    env=service_environment(command, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            stack.callback(stop, process)
            processes[command.name] = process
        deadline = time.monotonic() + READY_TIMEOUT_S
        for name, process in processes.items():
            try:
                _wait_until_ready(name, process, ports[name], deadline)
            except ServiceFailed as error:
                tail = (folder / f"{name}.log").read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
                raise ServiceFailed(f"{error}; the end of its log:\n{tail}") from error
        yield ports


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a service and its workers: asked first, killed after `STOP_TIMEOUT_S`.

    BentoML's supervisor gives every worker a session of its own, so a signal to the group does not reach them all.
    """
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for member in alive:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def is_ready(port: int) -> bool:
    """Whether ``/readyz`` answers 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=1.0)
    try:
        connection.request("GET", READY_PATH)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False  # not listening yet
    finally:
        connection.close()


def family_of(port: int) -> list[psutil.Process]:
    """The child of ours that serves `port`, and all below it.

    Raises
    ------
    ServiceFailed
        There is none.
    """
    for child in psutil.Process().children():
        if str(port) in child.cmdline():
            return [child, *child.children(recursive=True)]
    raise ServiceFailed(f"no process of ours serves port {port}")


@contextmanager
def _on_cores(cores: frozenset[int] | None) -> Iterator[None]:
    """Have what is started meanwhile run on these cores: a child has its parent's."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores or before)
        yield
    finally:
        os.sched_setaffinity(0, before)


def service_environment(command: ServiceCommand, folder: Path) -> dict[str, str]:
    """The environment without settings of this project and of BentoML, which would change one of the rivals, and what `command` adds."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTAGE_", "BENTOML_", "PROMETHEUS_"))}
    home = folder / "bentoml"
    home.mkdir(exist_ok=True)
    return {**clean, "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(home), **command.environment}


def _wait_until_ready(name: str, process: subprocess.Popen[bytes], port: int, deadline: float) -> None:
    while True:
        if process.poll() is not None:
            raise ServiceFailed(f"service {name!r} exited with {process.returncode}")
        if is_ready(port):
            return
        if time.monotonic() > deadline:
            raise ServiceFailed(f"service {name!r} was not ready within {READY_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
