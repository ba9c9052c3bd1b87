"""Our options on Locust's command line and web page, and the plan of a test that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.arms import Arm, parse_arms
from loadtests.arrivals import Arrivals, Closed, parse_arrivals, peak_rps, schedule
from loadtests.sources.sizes import DEFAULT_SIZES, parse_sizes
from loadtests.users.dispatch import Share

MIN_USERS, MAX_USERS = 16, 1000
"""Bounds of what `users_for` chooses: an idle user costs little, starting a thousand takes a quarter of a second."""


@dataclass(frozen=True)
class Plan:
    """What is to be sent when and where.

    Attributes
    ----------
    duration_s, samples
        End of the load; None is no such end.
    seed
        Of the schedule and of the interleave of arms.
    """

    arrivals: Arrivals
    arms: tuple[Arm, ...]
    seed: int
    duration_s: float | None
    samples: int | None

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent by a schedule."""
        return not isinstance(self.arrivals, Closed)

    def shares(self, processes: int) -> list[Share]:
        """Share the test out among generator processes: every n-th request to each.

        Raises
        ------
        SettingsError
            There is no such schedule.
        """
        if not self.open_loop:
            counts = [None if self.samples is None else len(range(first, self.samples, processes)) for first in range(processes)]
            return [Share(first, processes, None, count, self.duration_s) for first, count in enumerate(counts)]
        starts_s = schedule(self.arrivals, self.seed, duration_s=self.duration_s, samples=self.samples)
        return [Share(first, processes, starts_s[first::processes]) for first in range(processes)]


def plan_of(options: Any) -> Plan:
    """Read the plan from Locust's parsed options.

    Raises
    ------
    SettingsError
        One of ours is wrong.
    """
    parse_sizes(options.candidates)
    return Plan(
        arrivals=parse_arrivals(options.arrivals),
        arms=parse_arms(options.arm),
        seed=options.seed,
        duration_s=options.duration_s or None,
        samples=options.samples or None,
    )


def users_for(arrivals: Arrivals) -> int:
    """Return how many users a test needs where nobody says: those of a closed loop, or what is due in a stall of two seconds."""
    if isinstance(arrivals, Closed):
        return arrivals.users
    return int(min(max(2 * (peak_rps(arrivals) or MAX_USERS), MIN_USERS), MAX_USERS))


def add_options(parser: Any) -> None:
    """Add our options to Locust's command line."""
    group = parser.add_argument_group("Pilotage: what is sent when")
    add = group.add_argument
    add(
        "--arrivals",
        default="closed:1",
        env_var="PILOTAGE_LOADTEST_ARRIVALS",
        help="closed:USERS, poisson:RATE, constant:RATE, replay:FILE, or JSON such as "
        '{"kind": "ramp", "from_rps": 10, "to_rps": 200, "ramp_s": 60}; also bursts, steps (default %(default)s)',
    )
    add(
        "--duration-s",
        type=float,
        default=0.0,
        env_var="PILOTAGE_LOADTEST_DURATION_S",
        help="seconds of the schedule (default: Locust's --run-time)",
    )
    add("--samples", type=int, default=0, env_var="PILOTAGE_LOADTEST_SAMPLES", help="end after so many requests (default: no such end)")
    add("--seed", type=int, default=0, env_var="PILOTAGE_LOADTEST_SEED", help="seed of the schedule and the arms (default %(default)s)")
    add(
        "--arm",
        action="append",
        default=[],
        env_var="PILOTAGE_LOADTEST_ARM",
        help="NAME=header:VALUE or NAME=http://host:port, repeated: share the requests out among these at random",
    )
    add(
        "--requests-file",
        default="",
        env_var="PILOTAGE_LOADTEST_REQUESTS_FILE",
        help="send these recorded requests, one JSON body a line, instead of made-up ones",
    )
    add(
        "--candidates",
        default=DEFAULT_SIZES,
        env_var="PILOTAGE_LOADTEST_CANDIDATES",
        help="candidates of made-up requests, SIZE or SIZE:WEIGHT,SIZE:WEIGHT,... (default %(default)s)",
    )
    add(
        "--payload-seed",
        type=int,
        default=0,
        env_var="PILOTAGE_LOADTEST_PAYLOAD_SEED",
        help="seed of made-up requests: same seed, same bytes (default %(default)s)",
    )
    add(
        "--report-dir",
        default="",
        env_var="PILOTAGE_LOADTEST_REPORT_DIR",
        help="write report.json, report.html and samples.npz here at the end of a test (default: no files)",
    )
    add(
        "--stream",
        default="",
        env_var="PILOTAGE_LOADTEST_STREAM",
        help="write samples here about once a second while the load runs (default: no files)",
    )


def stream_folder(options: Any) -> Path | None:
    """Return the folder for chunks."""
    return Path(options.stream) if options.stream else None
