"""Our own processes, found again after we were killed, and never anybody else's.

Each is started with a token of its own in its environment, which its children inherit. The token is on disk before the process is started,
so whatever moment we are killed in, whoever comes after us finds all that we started, and can tell it from a stranger with the same number.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

from k8s.errors import Refused
from serving.contract.files import write_bytes

TOKEN_VARIABLE = "PILOTAGE_LOCAL_TOKEN"  # noqa: S105 - tells our processes from others, opens nothing

END_LIMIT_S = 15.0
"""A service that was told to end may drain for 2 s and finish answers for 10 s (docs/serving.md); then it is killed."""

KILL_LIMIT_S = 5.0

PORTS, PORT_TRIES = (20_000, 30_000), 200
"""Below those that Linux (32768) and others (49152) make connections from, above those that services are known by."""

PR_SET_PDEATHSIG = 1
"""Of ``prctl``, in <linux/prctl.h>."""

_LIBC = ctypes.CDLL(None)

_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""Children of this program by number: somebody has to take note of their end, or they stay as zombies."""


@dataclass(frozen=True)
class Entry:
    """What is on disk of a process.

    Attributes
    ----------
    token
        In the environment of the process and all below it.
    pid, began_s
        Number, and start time by the system's clock; None until it is started.
    """

    token: str
    pid: int | None = None
    began_s: float | None = None


class Processes:
    """Named processes whose state is in a folder.

    Parameters
    ----------
    folder
        For one ``NAME.json`` and one ``NAME.log`` a process. One user at a time.
    end_with_us
        Whether they are told to end when this program dies, whatever it dies of; on Linux. Else they go on, and are found again.
    """

    def __init__(self, folder: Path, *, end_with_us: bool = False) -> None:
        self.folder = folder
        self._end_with_us = end_with_us and sys.platform == "linux"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> psutil.Process:
        """Start a process in a session of its own; what still runs under this name is ended first.

        Parameters
        ----------
        environment
            All of it.

        Raises
        ------
        Refused
            The command cannot be run.
        """
        self.end(name)
        token = uuid.uuid4().hex
        self._write(name, Entry(token))
        try:
            with self.log(name).open("ab") as sink:
                child = subprocess.Popen(
                    list(command),
                    env={**environment, TOKEN_VARIABLE: token},
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=partial(_die_with, os.getpid()) if self._end_with_us else None,  # noqa: PLW1509 - no lock of ours is taken in it
                )
        except OSError as error:
            raise Refused(f"{name} cannot be started: {error}; the command is {' '.join(command)}") from error
        _CHILDREN[child.pid] = child
        process = psutil.Process(child.pid)
        self._write(name, Entry(token, child.pid, process.create_time()))
        return process

    def names(self) -> list[str]:
        """Names that have been started and not ended."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def find(self, name: str) -> psutil.Process | None:
        """Return the process of this name, None where it has ended or never was."""
        entry = self._read(name)
        if entry is None:
            return None
        if entry.pid is None:  # we were killed between starting it and writing down its number
            family = _with_token(entry.token)
            return min(family, key=lambda process: process.create_time(), default=None)
        _reap(entry.pid)
        try:
            process = psutil.Process(entry.pid)
            alive = process.create_time() == entry.began_s and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None

    def exit_code(self, name: str) -> int | None:
        """Return how a process of ours ended; None where it runs, or was started by a program before this one."""
        entry = self._read(name)
        child = None if entry is None or entry.pid is None else _CHILDREN.get(entry.pid)
        return None if child is None else child.poll()

    def memory_bytes(self, name: str) -> int | None:
        """Return the resident memory of the largest process of this name's family; None where there is none."""
        main = self.find(name)
        if main is None:
            return None
        sizes = []
        for process in _family(main):
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes.append(int(process.memory_info().rss))
        return max(sizes, default=None)

    def end(self, name: str) -> None:
        """End a process and all below it: asked first, killed after `END_LIMIT_S`. Nothing happens where it is not there."""
        entry = self._read(name)
        if entry is None:
            return
        main = self.find(name)
        family = {process.pid: process for process in [*(_family(main) if main else []), *_with_token(entry.token)]}
        if main is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                main.terminate()
        # A worker whose supervisor is gone is told by nobody else.
        orphans = [] if main is not None else list(family.values())
        for process in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(list(family.values()), timeout=END_LIMIT_S)
        # What was started meanwhile has the token too.
        left = list({process.pid: process for process in [*left, *_with_token(entry.token)]}.values())
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=KILL_LIMIT_S)
        if entry.pid is not None and _reap(entry.pid):
            _CHILDREN.pop(entry.pid)
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def end_all(self) -> None:
        """End all of them."""
        for name in self.names():
            self.end(name)

    def log(self, name: str) -> Path:
        """Where the output of a process goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}.log"

    def tail(self, name: str, lines: int = 5) -> str:
        """Return the last lines of its output, on one line."""
        try:
            text = self.log(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return " | ".join(line.strip() for line in text.splitlines()[-lines:])

    def _read(self, name: str) -> Entry | None:
        path = self.folder / f"{name}.json"
        try:
            return Entry(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise Refused(f"{path} is not a file of ours ({error}): end by hand what it names, and remove it") from error

    def _write(self, name: str, entry: Entry) -> None:
        write_bytes(self.folder / f"{name}.json", json.dumps(asdict(entry)).encode())


def free_port() -> int:
    """A port of loopback that nobody listens on, and that the system gives to no connection of its own.

    A service takes seconds until it listens. Of the ports that connections are made from, one was taken in the meantime, once in some fifty
    starts under load.

    Raises
    ------
    Refused
        None was found.
    """
    for _ in range(PORT_TRIES):
        port = random.randrange(*PORTS)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise Refused(f"no port from {PORTS[0]} to {PORTS[1]} was free in {PORT_TRIES} tries: end what listens there")


def _die_with(parent: int) -> None:
    """Ask Linux for SIGTERM at the death of the thread that started this process; runs in the child."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before it could be asked for
        os._exit(1)


def _reap(pid: int) -> bool:
    """Take note of the end of a child of ours; whether it has ended."""
    child = _CHILDREN.get(pid)
    return child is not None and child.poll() is not None


def _family(main: psutil.Process) -> list[psutil.Process]:
    try:
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _with_token(token: str) -> list[psutil.Process]:
    """Find the processes of this user that carry a token, except this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(TOKEN_VARIABLE) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended, or is somebody else's
    return found
