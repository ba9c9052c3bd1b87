"""Synthetic requests of a step on this machine: the load tests' open loop through the proxy, to the arms by header.

The generator is a process of its own; it writes what it saw into files about once a second, and they are read as they come. It ends when
its schedule does, when it is told, and when we die.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from k8s.errors import Refused, Unavailable
from k8s.local.processes import Processes
from k8s.rollout.arms import Arm
from k8s.rollout.loading import Comparing, load_options, looks_of
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Step
from k8s.rollout.ports import Look
from loadtests.stream import StreamReader

NAME = "load"


class Generator(Protocol):
    """Makes the command line of a load generator that streams its samples into a folder."""

    def __call__(self, step: Step, arms: Sequence[Arm], folder: Path) -> Sequence[str]:
        """Return the command."""
        ...


class LocustLoad:
    """The load tests' Locust, without its page.

    Parameters
    ----------
    host
        Address of the proxy.
    requests_file
        Recorded requests to send; None makes some up.
    addresses
        Where each arm is reached by itself; empty: by header at `host`.
    profile
        Load profile; empty: what the first model is for.
    processes
        That send, beside a master; 0: one that does everything.
    """

    def __init__(
        self,
        host: str,
        plan: Plan,
        requests_file: Path | None = None,
        *,
        addresses: Mapping[Arm, str] | None = None,
        profile: str = "",
        processes: int = 0,
    ) -> None:
        self._host, self._plan, self._addresses = host, plan, addresses or {}
        given = {"--requests-file": requests_file, "--load-profile": profile, "--processes": processes}
        self._further = [f"{name}={value}" for name, value in given.items() if value]

    def __call__(self, step: Step, arms: Sequence[Arm], folder: Path) -> Sequence[str]:
        """Return the command.

        Raises
        ------
        Refused
            There is no Locust.
        """
        spec = importlib.util.find_spec("loadtests")
        if spec is None or spec.origin is None or importlib.util.find_spec("locust") is None:
            raise Refused("synthetic requests are sent by Locust: pip install 'pilotage[loadtest]'")
        locustfile = Path(spec.origin).parent / "users" / "locustfile.py"
        command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary", f"--stream={folder}"]
        return [*command, *load_options(self._plan, step, arms, self._host, self._addresses), *self._further]


class LocalTraffic:
    """Loads the arms of a step from this machine; a `Traffic`.

    Parameters
    ----------
    processes
        Its folder holds the samples too; ends with us.
    comparing
        Compares answers meanwhile; None: they are not compared.
    """

    def __init__(self, processes: Processes, generator: Generator, comparing: Comparing | None = None) -> None:
        self._processes, self._generator, self._comparing = processes, generator, comparing or Comparing("", None, ())
        self._arms: tuple[Arm, ...] = ()
        self._reader: StreamReader | None = None

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        """Begin to load these arms; what an engine before this one has left running is ended first."""
        self.end()
        folder = self._processes.folder / "samples"
        for stale in folder.glob("*"):
            stale.unlink()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTAGE_", "LOCUST_"))}
        self._processes.start(NAME, self._generator(step, arms, folder), clean)
        self._arms, self._reader = tuple(arms), StreamReader(folder)
        self._comparing.begin(arms)

    def look(self) -> Mapping[Arm, Look]:
        """Return what came since the last look.

        Raises
        ------
        Unavailable
            The generator died; the end of its log is in the message.
        """
        if self._reader is None:
            return {}
        died = self._processes.find(NAME) is None and self._processes.exit_code(NAME) != 0  # before the files are read: they come first
        answers = self._comparing.take()  # before those, since it may have something to say
        chunks = self._reader.new()
        if died and not chunks and not answers:
            code = self._processes.exit_code(NAME)
            raise Unavailable(f"the load generator ended with exit code {code}: {self._processes.tail(NAME)}")
        return looks_of(self._arms, chunks, answers)

    def end(self) -> None:
        """Stop; nothing happens where nothing runs."""
        self._comparing.end()
        self._processes.end(NAME)
        self._reader = None
