"""``make canary-demo``: three releases on this machine. A good one is promoted, a slow one and a wrong one are rolled back.

The engine, the plan's settings and the judge are those of a cluster; the proxy is a real Envoy, the services are real, and somebody asks
all the time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.rollout import LIVE_RATE_PER_S, PLAN, REQUESTS, SETTINGS, Case, Result, carry_out, launch
from benchmarks.rollout_live import failures, live_load
from benchmarks.rollout_models import Version, make_bundle, make_requests
from k8s.local.laptop import Laptop, clear
from k8s.local.processes import free_port
from k8s.rollout.arms import Release
from k8s.rollout.plan import load_plan
from k8s.rollout.record import Entry
from k8s.rollout.record import Record as Rollout
from k8s.rollout.report import explain
from serving.contract.errors import PilotageError

RELEASES = (
    Case("int8 tables", True, Version(bits=8)),
    Case("slow tail", False, fault="slow_tail"),
    Case("wrong hash seed", False, Version(hash_seed=1)),
)

INCONCLUSIVE = 4

console = Console(highlight=False, soft_wrap=True)


def tell(record: Rollout, entry: Entry) -> None:
    """Print a line of the timeline."""
    at_s = entry.at_s - record.started_s
    weights = f"{entry.weights.stable}/{entry.weights.baseline}/{entry.weights.canary}"
    console.print(f"  {at_s:5.1f} s  [dim]{weights:9}[/] {entry.by}: ", end="")
    console.print(entry.detail, markup=False)


def demo(folder: Path) -> int:
    """Carry it out; 0 where all three ended as they should, 1 where not, 4 where the judge could not tell."""
    began_s, port, plan = time.time(), free_port(), load_plan(str(PLAN))
    clear(folder / "laptop")
    make_requests(folder / "requests.jsonl", REQUESTS)
    console.print(f"[bold]A ranking service behind Envoy on http://127.0.0.1:{port}[/]")
    laptop = Laptop(folder / "laptop", port, launcher=launch, end_with_us=True)
    results: list[Result] = []
    try:
        first = make_bundle(Version(), "v0", folder / "bundles")
        laptop.serve(Release("00 first", bundle={"path": str(first)}, values={"env": SETTINGS}))
        with live_load(port, LIVE_RATE_PER_S, folder / "requests.jsonl", folder / "live.txt") as live:
            for number, case in enumerate(RELEASES, 1):
                console.print(f"\n[bold]Release {number}: {case.name}[/]")
                results.append(carry_out(case, number, laptop, plan, folder, live, notices=(tell,)))
                console.print("\n".join(explain(results[-1].rollout)[:3]), markup=False)
            everything = live.seen()
    finally:
        laptop.close()
    table = Table(title="three releases", title_justify="left")
    for title in ("release", "outcome", "users' requests to the canary", "of users' failed"):
        table.add_column(title, overflow="fold")
    for number, result in enumerate(results, 1):
        outcome = str(result.rollout.outcome).replace("_", " ")
        table.add_row(f"{number} {result.case.name}", outcome, f"{result.exposed_pct:.2f} %", str(sum(failures(result.seen).values())))
    console.print()
    console.print(table)
    lost = sum(failures(everything).values())
    console.print(f"reports  {folder}/reports/01/report.html, 02, 03", markup=False)
    console.print(f"{len(everything):,} requests of users, {lost} failed. Done in {time.time() - began_s:.0f} s; everything is stopped.")
    if any(result.rollout.conclusion == "inconclusive" for result in results):
        console.print("The judge could not tell: this machine had other work, and latencies say little. Run it again when it has none.")
        return INCONCLUSIVE
    return 0 if all(result.right for result in results) else 1


def main() -> int:
    """Run the demonstration: 0 all as it should be, 1 not, 3 it could not be carried out, 4 the judge could not tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/canary-demo"), help="folder for bundles, logs and reports")
    options = parser.parse_args()
    try:
        return demo(options.out.resolve())
    except PilotageError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
