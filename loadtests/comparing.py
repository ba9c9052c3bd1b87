"""``pilotage loadtest compare``: two runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from loadtests.comparison import Change, Comparison

EXIT_WRONG_USE = 2


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of the run that the other is compared with.")],
    b: Annotated[Path, typer.Argument(help="Folder of the other run.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for comparison.json and comparison.html.")] = Path("reports/comparison"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON on stdout.")] = False,
) -> None:
    """Compare two load tests: what differs, with intervals, and both drawn over each other. Judges nothing."""
    from loadtests.comparison import COMPARISON_NAME, compare_runs, read_run
    from loadtests.comparison_page import write_comparison_page
    from serving.contract.errors import SettingsError
    from serving.contract.files import write_bytes

    try:
        (report_a, samples_a), (report_b, samples_b) = read_run(a), read_run(b)
    except SettingsError as error:
        typer.echo(f"pilotage loadtest compare: {error}", err=True)
        raise typer.Exit(EXIT_WRONG_USE) from error
    names = (a.name, b.name) if a.name != b.name else (str(a), str(b))
    comparison = compare_runs(names, report_a, report_b)
    write_bytes(out / COMPARISON_NAME, (comparison.model_dump_json(indent=2) + "\n").encode())
    write_comparison_page(comparison, (samples_a, samples_b), out / "comparison.html")
    if as_json:
        typer.echo(comparison.model_dump_json(indent=2))
    _print(comparison, out)


def _print(comparison: Comparison, out: Path) -> None:
    """Print what differs, on stderr."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for part in comparison.parts:
        table = Table(title=", ".join(filter(None, (part.endpoint, part.arm))) or "all requests", title_justify="left")
        for title in ("figure", comparison.a, comparison.b, "change", "95 % interval"):
            table.add_column(title, justify="left" if title == "figure" else "right")
        for each in part.changes:
            between = "–" if each.low is None and each.high is None else f"{_change(each, each.low)} to {_change(each, each.high)}"
            style = "bold" if each.shown else ""
            table.add_row(each.figure, _value(each, each.a), _value(each, each.b), _change(each, each.change), between, style=style)
        console.print(table)
    for caution in comparison.cautions:
        console.print(f"take care: {caution}", style="yellow", markup=False)
    console.print(f"page: {out / 'comparison.html'}", markup=False)


def _value(change: Change, value: float | None) -> str:
    units = {"ms": " ms", "percent": " %", "per second": "/s"}
    return "too few requests" if value is None else f"{value:.4g}{units[change.unit]}"


def _change(change: Change, value: float | None) -> str:
    if value is None:
        return "?"
    if change.kind == "difference":
        return f"{value:+.3g} points"
    return f"{value:.3g} ×" if value >= 2 else f"{100 * (value - 1):+.1f} %"
