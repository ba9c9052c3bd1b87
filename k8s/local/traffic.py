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
from k8s.rollout.answers import AnswerLimits
from k8s.rollout.comparing import Comparer
from k8s.rollout.plan import Plan, Step
from k8s.rollout.ports import Answers, Arm, Look
from loadtests.batches import batch_of
from loadtests.judge import Batch
from loadtests.samples import Samples, joined
from loadtests.stream import StreamReader

NAME = "load"

RATE_PER_S = 200.0
"""For both arms together, where the plan says nothing: two services, a proxy and the generator on two cores had some 40 % of them left."""


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
    """

    def __init__(self, host: str, plan: Plan, requests_file: Path | None = None) -> None:
        self._host, self._plan, self._requests_file = host, plan, requests_file

    def __call__(self, step: Step, arms: Sequence[Arm], folder: Path) -> Sequence[str]:
        """Return the command: constant arrivals at random times, for as long as the step can take."""
        spec = importlib.util.find_spec("loadtests")
        if spec is None or spec.origin is None or importlib.util.find_spec("locust") is None:
            raise Refused("synthetic requests are sent by Locust: pip install 'pilotage[loadtest]'")
        synthetic = self._plan.synthetic
        rate = (synthetic.rate_per_s if synthetic else None) or RATE_PER_S
        longest_s = step.timeout_s * (1 + self._plan.inconclusive.extend)
        options = {
            "--host": self._host,
            "--arrivals": f"poisson:{rate:g}",
            "--duration-s": f"{longest_s:g}",
            "--stream": folder,
            "--requests-file": self._requests_file or "",
            # A new schedule for each step: one that happens to be kind to an arm is not kind again.
            "--seed": int.from_bytes(os.urandom(3), "big"),
            "--exit-code-on-error": 0,
        }
        forced = [f"--arm={arm}=header:{arm}" for arm in arms]
        locustfile = Path(spec.origin).parent / "users" / "locustfile.py"
        command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary"]
        return [*command, *forced, *(f"{name}={value}" for name, value in options.items())]


class LocalTraffic:
    """Loads the arms of a step from this machine; a `Traffic`.

    Parameters
    ----------
    processes
        Its folder holds the samples too; ends with us.
    limits
        What is asked of answers; None: they are not compared.
    bodies
        Recorded requests on which they are compared.
    """

    def __init__(
        self, host: str, processes: Processes, generator: Generator, limits: AnswerLimits | None = None, bodies: Sequence[bytes] = ()
    ) -> None:
        self._host, self._processes, self._generator = host, processes, generator
        self._limits, self._bodies = limits, bodies
        self._arms: tuple[Arm, ...] = ()
        self._reader: StreamReader | None = None
        self._comparer: Comparer | None = None

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        """Begin to load these arms; what an engine before this one has left running is ended first."""
        self.end()
        folder = self._processes.folder / "samples"
        for stale in folder.glob("*"):
            stale.unlink()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTAGE_", "LOCUST_"))}
        self._processes.start(NAME, self._generator(step, arms, folder), clean)
        self._arms, self._reader = tuple(arms), StreamReader(folder)
        if self._limits is not None and self._bodies:
            self._comparer = Comparer(self._host, self._bodies, arms, self._limits.top_k, self._limits.rate_per_s)

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
        chunks = self._reader.new()
        answers = self._comparer.take() if self._comparer else {}
        if died and not chunks and not answers:
            code = self._processes.exit_code(NAME)
            raise Unavailable(f"the load generator ended with exit code {code}: {self._processes.tail(NAME)}")
        return looks_of(self._arms, joined(chunks) if chunks else None, answers)

    def end(self) -> None:
        """Stop; nothing happens where nothing runs."""
        if self._comparer is not None:
            self._comparer.close()
        self._processes.end(NAME)
        self._reader = self._comparer = None


def looks_of(arms: Sequence[Arm], samples: Samples | None, answers: Mapping[Arm, Answers]) -> dict[Arm, Look]:
    """Put what was seen beside each other, for each canary that there is something of; `arms` as of `Traffic.begin`."""
    *canaries, beside = arms
    if samples is None:
        return {arm: Look(Batch(), answers[arm]) for arm in canaries if arm in answers}
    return {arm: Look(batch_of(samples, arm, beside), answers.get(arm)) for arm in canaries}
