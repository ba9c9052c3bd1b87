"""Our options on Locust's command line and web page, and the plan of a test that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.arms import Arm, parse_arms
from loadtests.arrivals import Arrivals, Closed, parse_arrivals, peak_rps, schedule
from loadtests.load_profile import MAX_DURATION_S, LoadProfile, load_profile, replaced
from loadtests.log_lines import LogWriter
from loadtests.sources.traffic import parse_traffic
from loadtests.stream import StreamWriter
from loadtests.users.collector import Stream
from loadtests.users.dispatch import Share

MIN_USERS, MAX_USERS = 16, 1000
"""Bounds of what `users_for` chooses: an idle user costs little, starting a thousand takes a quarter of a second."""


TO_LOG = "-"
"""For `--stream`: what a pod writes is in its log."""

PLAIN = LoadProfile(name="options", description="What the options say.", arrivals=Closed(), duration_s=MAX_DURATION_S)
"""Where no profile is named. Its end stands for none: Locust's own clock, or `--samples`, ends the load."""


@dataclass(frozen=True)
class Plan:
    """What is to be sent when and where.

    Attributes
    ----------
    profile
        With what the options say in place of its own.
    duration_s
        End of the load; None is no such end.
    """

    profile: LoadProfile
    arms: tuple[Arm, ...]
    duration_s: float | None

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent by a schedule."""
        return not isinstance(self.profile.arrivals, Closed)

    def shares(self, processes: int) -> list[Share]:
        """Share the test out among generator processes: every n-th request to each.

        Raises
        ------
        SettingsError
            There is no such schedule.
        """
        samples = self.profile.samples
        if not self.open_loop:
            counts = [None if samples is None else len(range(first, samples, processes)) for first in range(processes)]
            return [Share(first, processes, None, count, self.duration_s) for first, count in enumerate(counts)]
        starts_s = schedule(self.profile.arrivals, self.profile.seed, duration_s=self.duration_s, samples=samples)
        return [Share(first, processes, starts_s[first::processes]) for first in range(processes)]


def plan_of(options: Any) -> Plan:
    """Read the plan from Locust's parsed options.

    Raises
    ------
    SettingsError
        One of ours is wrong.
    """
    base = load_profile(options.load_profile) if options.load_profile else PLAIN
    # Where the web page's clock ends the load, a profile's own end is no reason to begin without one.
    profile = replaced(
        base,
        options.load_profile or "of the options",
        arrivals=parse_arrivals(options.arrivals) if options.arrivals else None,
        duration_s=options.duration_s or None,
        samples=options.samples or None,
        seed=None if options.seed is None else options.seed,
        candidates=options.candidates or None,
        traffic=parse_traffic(options.traffic) if options.traffic else None,
        recorded=Path(options.requests_file) if options.requests_file else None,
    )
    is_plain = not options.load_profile and not options.duration_s
    return Plan(profile, parse_arms(options.arm), None if is_plain else profile.duration_s)


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
        "--load-profile",
        default="",
        env_var="PILOTAGE_LOADTEST_LOAD_PROFILE",
        help="name of a load profile, or path of a .toml file; the options below replace its values (default: none, closed:1)",
    )
    add(
        "--arrivals",
        default="",
        env_var="PILOTAGE_LOADTEST_ARRIVALS",
        help="closed:USERS, poisson:RATE, constant:RATE, replay:FILE, or JSON such as "
        '{"kind": "ramp", "from_rps": 10, "to_rps": 200, "ramp_s": 60}; also bursts, steps',
    )
    add(
        "--duration-s",
        type=float,
        default=0.0,
        env_var="PILOTAGE_LOADTEST_DURATION_S",
        help="seconds of the schedule (default: Locust's --run-time)",
    )
    add("--samples", type=int, default=0, env_var="PILOTAGE_LOADTEST_SAMPLES", help="end after so many requests (default: no such end)")
    add(
        "--seed",
        type=int,
        default=None,
        env_var="PILOTAGE_LOADTEST_SEED",
        help="seed of schedule, arms and bodies: same seed, same bytes (default: the profile's, or 0)",
    )
    add(
        "--arm",
        action="append",
        default=[],
        env_var="PILOTAGE_LOADTEST_ARM",
        help="NAME=header:VALUE or NAME=http://host:port, repeated: share the requests out among these at random",
    )
    add(
        "--traffic",
        default="",
        env_var="PILOTAGE_LOADTEST_TRAFFIC",
        help="what is sent: a mix such as rank:70,classify:30, a .toml file with a table [traffic], or that table as JSON "
        "(default: what the first model of the service is for)",
    )
    add(
        "--requests-file",
        default="",
        env_var="PILOTAGE_LOADTEST_REQUESTS_FILE",
        help="send these recorded requests, one JSON body a line, instead of made-up ones",
    )
    add(
        "--candidates",
        default="",
        env_var="PILOTAGE_LOADTEST_CANDIDATES",
        help="candidates of made-up requests, SIZE or SIZE:WEIGHT,SIZE:WEIGHT,...",
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
        help="write samples to files in this folder, or, with -, to standard output, about once a second while the load runs",
    )


def stream_of(options: Any) -> Stream | None:
    """Return what takes the chunks down."""
    if options.stream == TO_LOG:
        return LogWriter()
    return StreamWriter(Path(options.stream)) if options.stream else None
