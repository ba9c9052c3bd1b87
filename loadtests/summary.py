"""The few lines that ``pilotage loadtest`` prints for people, on stderr."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests.report import REPORT_NAME, Report


def print_summary(report: Report, out: Path, *, max_error_pct: float, passed: bool) -> None:
    """Print the figures, the errors and where the reports are."""
    console = Console(stderr=True, highlight=False)
    table = Table(title=f"{report.model_name} {report.model_version} at {report.host}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("requests", f"{report.requests:,}")
    table.add_row("failed", f"{report.failures:,} ({report.error_pct:.3g} %)")
    table.add_row("answered a second", f"{report.throughput_rps:,.1f}")
    if report.latency_ms is not None:
        for name, value in report.latency_ms.model_dump().items():
            table.add_row(f"latency {name.replace('_', '.')}", "too few requests" if value is None else f"{value:,.2f} ms")
    console.print(table)
    for kind, number in list(report.errors.items())[:5]:
        console.print(f"  {number:,} × {kind}", markup=False)
    if report.unanswered:
        console.print(f"  {report.unanswered} still unanswered at the end, in no figure above")
    console.print("closed loop: a service that stalls is asked less, and looks better than its callers would find it", style="dim")
    console.print(f"report: {out / REPORT_NAME} and .html", markup=False)
    if not passed:
        console.print(f"FAILED: {report.error_pct:.3g} % of the requests failed, {max_error_pct:g} % are allowed", style="bold red")
