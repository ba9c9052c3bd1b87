"""The process that sends the load: Locust without its web page, started, watched and ended from here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from loadtests.arrivals import Closed
from loadtests.errors import GeneratorError, LoadTestError, ServiceError
from loadtests.load_profile import MAX_DURATION_S, LoadProfile, write_profile
from loadtests.report import REPORT_NAME
from serving.contract.errors import SettingsError

LOCUSTFILE = Path(__file__).parent / "users" / "locustfile.py"

LOG_NAME = "locust.log"

PROFILE_NAME = "profile.json"
"""The load profile with everything that the command line put in its place."""

GRACE_S = 120.0
"""Time beyond the test's own for starting, for answers still under way (11 s) and for the report of a long
run on a slow machine. The first drawing on a machine builds matplotlib's font cache, which alone may take 20 s."""

TERMINATE_S = 60.0
"""A terminated Locust waits for answers under way (11 s) and writes what it has; after this, or when asked again, it is killed."""

POLL_S = 0.1

LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class Order:
    """What the generator is to do.

    Attributes
    ----------
    profile
        What is sent, when and for how long; handed on as a file.
    arms, stream
        As on the command line.
    processes
        Generator processes beside their master; 0 is one process that does everything.
    """

    host: str
    profile: LoadProfile
    out: Path
    arms: tuple[str, ...] = ()
    stream: Path | None = None
    processes: int = 0

    def command(self) -> list[str]:
        """Return the child's command line."""
        arrivals = self.profile.arrivals
        options: dict[str, object | None] = {
            "--host": self.host,
            "--users": arrivals.users if isinstance(arrivals, Closed) else self.profile.users,
            "--processes": self.processes or None,
            "--load-profile": self.out / PROFILE_NAME,
            "--stream": self.stream,
            "--report-dir": self.out,
            # Failed requests are for the objectives to judge; they are no failure of the generator.
            "--exit-code-on-error": 0,
        }
        arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
        arguments += [f"--arm={arm}" for arm in self.arms]
        return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", *arguments]


def run_generator(order: Order, on_tick: Callable[[float], bool]) -> None:
    """Run the load to its end.

    Parameters
    ----------
    order
        What to send where.
    on_tick
        Called several times a second with the seconds since the start; the load is ended early once it returns True.

    Raises
    ------
    ServiceError
        When the service went away before the load began, or nothing was measured.
    SettingsError
        When the generator refused an option or a file.
    GeneratorError
        When it died or ran past its time.
    """
    order.out.mkdir(parents=True, exist_ok=True)
    log = order.out / LOG_NAME
    seconds = order.profile.seconds()
    limit_s = (MAX_DURATION_S if seconds is None else seconds) + GRACE_S
    write_profile(order.profile, order.out / PROFILE_NAME)
    with log.open("wb") as sink, _child(order.command(), sink) as child:
        began_s = time.monotonic()
        while child.poll() is None:
            elapsed_s = time.monotonic() - began_s
            if elapsed_s > limit_s:
                raise GeneratorError(f"Locust did not end within {limit_s:.0f} s and was stopped; the end of {log}:\n{_tail(log)}")
            if on_tick(elapsed_s):
                break
            time.sleep(POLL_S)
        if child.poll() is None:
            # In order, as when it is interrupted: what was measured is written.
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=TERMINATE_S)
    if child.returncode != 0:
        raise _reason(child.returncode, log)
    if not (order.out / REPORT_NAME).exists():
        raise GeneratorError(f"Locust ended well and wrote no {REPORT_NAME}; the end of {log}:\n{_tail(log)}")


def _reason(code: int, log: Path) -> LoadTestError | SettingsError:
    """Turn the child's exit code, which ``users/control.py`` chooses, into an error."""
    tail = f"the end of {log}:\n{_tail(log)}"
    if code == 2:
        return SettingsError(f"Locust refused its options or a file; {tail}")
    if code == 3:
        return ServiceError(f"nothing could be measured; {tail}")
    ended = f"was killed by signal {-code}" if code < 0 else f"died with exit code {code}"
    return GeneratorError(f"Locust {ended}; check that pilotage[loadtest] is installed and that memory was left; {tail}")


@contextmanager
def _child(command: list[str], sink: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child in a process group of its own and leave none of the group behind, however this ends."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    # Without this a terminated `pilotage loadtest` would leave the load running.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield child
    finally:
        signal.signal(signal.SIGTERM, previous)
        _end_group(child)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End the load in order, so that what was measured is written; then whatever is left."""
    try:
        if child.poll() is None:
            # The child alone: where it is a master, it ends its workers.
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=TERMINATE_S)
    finally:
        # The child leads its group, so the group's number is the child's.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _tail(log: Path) -> str:
    """Return the last lines of the log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:]) or "  (it is empty)"
