"""The few lines that ``pilotage loadtest`` prints for people, on stderr."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests.figures import Latency
from loadtests.judge.sentences import number, percent
from loadtests.report import REPORT_NAME, Report

COLOURS = {"pass": "green", "done": "green", "fail": "red", "inconclusive": "yellow"}
MAX_KINDS = 5
"""Kinds of errors printed; the report has them all."""


def print_summary(report: Report, out: Path) -> None:
    """Print the figures, the errors, the verdict and where the reports are."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    table = Table(title=f"{report.model_name} {report.model_version} at {report.host}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    low, high = report.error_interval_pct
    table.add_row("requests", f"{report.requests:,}")
    table.add_row("failed", f"{report.failures:,} ({percent(report.error_pct)})", f"{number(low)} to {percent(high)}")
    table.add_row("answered a second", f"{report.throughput_rps:,.1f}")
    if report.offered_rps is not None:
        table.add_row("due a second", f"{report.offered_rps:,.1f}")
    if report.goodput is not None:
        table.add_row(f"goodput within {report.goodput.within_ms:g} ms", percent(report.goodput.pct), f"{report.goodput.rps:,.1f} a second")
    if report.latency_ms is not None:
        _add_latency(table, report.latency_ms)
    console.print(table)
    for kind, count in list(report.errors.items())[:MAX_KINDS]:
        console.print(f"  {count:,} × {kind}", markup=False)
    if report.unanswered:
        console.print(f"  {report.unanswered} still unanswered at the end, in no figure above")
    if not report.open_loop:
        console.print("closed loop: a service that stalls is asked less, and looks better than its callers would find it", style="dim")
    if report.verdict is not None:
        for finding in report.verdict.findings:
            console.print(f"  [{COLOURS[finding.status]}]{finding.status:12}[/] {finding.objective}: ", end="")
            console.print(finding.sentence, markup=False)
    for reason in report.invalid_reasons:
        console.print(f"INVALID: {reason}", style="bold yellow", markup=False)
    console.print(f"report: {out / REPORT_NAME} and .html", markup=False)
    shown = report.sentence.replace("Failed", "FAILED", 1) if report.status == "fail" else report.sentence
    console.print(shown, style=f"bold {COLOURS[report.status]}", markup=False)


def _add_latency(table: Table, latency: Latency) -> None:
    for name in ("p50", "p90", "p95", "p99", "p99_9"):
        value, ends = getattr(latency, name), latency.intervals.get(name, (None, None))
        shown = " to ".join("?" if end is None else f"{end:,.2f}" for end in ends) if name in latency.intervals else ""
        table.add_row(f"latency {name.replace('_', '.')}", "too few requests" if value is None else f"{value:,.2f} ms", shown)
    table.add_row("latency max", f"{latency.max:,.2f} ms")
    table.add_row("latency mean", f"{latency.mean:,.2f} ms")
