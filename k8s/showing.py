"""A rollout on the terminal: where it is, live, and line by line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from k8s.rollout.record import Entry, Record

LINES = 5
"""Of the timeline, below the picture."""


def tell(record: Record, entry: Entry) -> None:
    """Write a line of the timeline to stderr; a `Notice`."""
    typer.echo(f"{_clock(entry.at_s)}  {entry.what:10} {entry.detail}", err=True)


def follow(record: Record, changes: Iterator[Record]) -> Record:
    """Draw it on stderr until it is over."""
    from rich.console import Console
    from rich.live import Live

    with Live(picture(record), console=Console(stderr=True), auto_refresh=False) as live:
        while not record.is_over:
            record = next(changes)
            live.update(picture(record), refresh=True)
    return record


def picture(record: Record) -> Any:
    """Draw where it is: weights, steps, the last lines."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    state = str(record.outcome).replace("_", " ") if record.is_over else str(record.phase)
    head = f"{record.title} over {record.old_release.name}: {state}{', paused' if record.paused else ''}"
    steps = Table(box=None, show_header=False)
    for number, step in enumerate(record.plan.steps):
        is_now = number == record.step and not record.is_over
        mark = "▶" if is_now else "✓" if number < record.step or record.outcome == "promoted" else " "
        steps.add_row(mark, Text(step.title), f"{step.weight_pct} %", Text(record.progress if is_now else ""))
    weights = record.weights
    bar = Text()
    for share, style in ((weights.stable, "green"), (weights.baseline, "blue"), (weights.tried, "yellow")):
        bar.append("█" * round(share / 2), style=style)
    lines = [Text(f"{_clock(entry.at_s)}  {entry.detail}", style="dim") for entry in record.timeline[-LINES:]]
    return Group(Text(head, style="bold"), bar, Text(str(weights)), steps, *lines, Text(record.why))


def _clock(at_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_s))
