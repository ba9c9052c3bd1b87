"""Carries out a load test from the terminal: figures while it runs, its report at the end."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from loadtests.arms import parse_arms
from loadtests.generator import Order, run_generator
from loadtests.judge import Policy
from loadtests.page import PAGE_NAME
from loadtests.report import REPORT_NAME, Report, Status, read_report
from loadtests.samples import SAMPLES_NAME
from loadtests.sources.build import check_traffic
from loadtests.summary import print_summary
from loadtests.watch import Watch

LOOK_EVERY_S = 0.5
"""The stream has something new about once a second."""

PLAIN_EVERY_S = 10.0
"""Between lines of progress where stderr is no terminal but a log."""


def run_and_report(order: Order, *, as_json: bool) -> tuple[Status, bool]:
    """Run a test and print its report; its status, and whether somebody interrupted it."""
    with progress_bars() as bars:
        report, is_cut_short = carry_out(order, bars, order.profile.name)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    print_summary(report, order.out)
    return report.status, is_cut_short


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on stderr that go away at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield bars


def carry_out(order: Order, bars: Progress, name: str, fail_fast: Policy | None = None) -> tuple[Report, bool]:
    """Run the generator under a progress bar and read what it wrote; and whether somebody interrupted it.

    Parameters
    ----------
    fail_fast
        End as soon as an objective is shown to be missed, judged by this policy.

    Raises
    ------
    PilotageError
        The service cannot be reached, or the test could not be carried out.
    """
    # Asked here, too, so that what does not fit the service is said at once, without a word about Locust.
    hosts = [arm.host for arm in parse_arms(order.arms) if arm.host is not None]
    check_traffic(order.host, order.profile.traffic, also=hosts)
    for stale in (REPORT_NAME, PAGE_NAME, SAMPLES_NAME):
        # A report of an earlier run must not be taken for this one's, should the generator die.
        (order.out / stale).unlink(missing_ok=True)
    seconds = order.profile.seconds()
    with tempfile.TemporaryDirectory(prefix="pilotage-stream-") as folder:
        streaming = order if order.stream is not None else replace(order, stream=Path(folder))
        assert streaming.stream is not None
        watch = Watch(order.profile, streaming.stream, fail_fast)
        show = _Show(bars, bars.add_task(name, total=order.profile.samples if seconds is None else seconds), name, watch, seconds)
        try:
            run_generator(streaming, show)
        except KeyboardInterrupt:
            if not (order.out / REPORT_NAME).exists():
                typer.echo("interrupted before anything was measured; the load was stopped", err=True)
                raise typer.Exit(130) from None
            return read_report(order.out / REPORT_NAME), True
        finally:
            bars.remove_task(show.task)
    return read_report(order.out / REPORT_NAME), False


class _Show:
    """Called while the load runs: reads the stream, moves the bar, and says whether the load may end."""

    def __init__(self, bars: Progress, task: TaskID, name: str, watch: Watch, seconds: float | None) -> None:
        self._bars, self.task, self._name, self._watch, self._seconds = bars, task, name, watch, seconds
        self._looked_s, self._told_s = 0.0, 0.0

    def __call__(self, elapsed_s: float) -> bool:
        if elapsed_s - self._looked_s < LOOK_EVERY_S:
            return False
        self._looked_s = elapsed_s
        may_end = self._watch.look()
        figures = self._watch.figures
        told = f"{self._name} · {figures}" if figures.requests else f"{self._name} · starting"
        if self._seconds is not None and elapsed_s >= self._seconds:
            told += " · last answers, report"
        self._bars.update(self.task, completed=figures.requests if self._seconds is None else elapsed_s, description=told)
        if not self._bars.console.is_terminal and elapsed_s - self._told_s >= PLAIN_EVERY_S:
            self._told_s = elapsed_s
            print(told, file=sys.stderr, flush=True)
        return may_end
