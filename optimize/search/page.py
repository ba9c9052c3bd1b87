"""``report.html``: the report as one self-contained page."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from optimize.search import charts
from optimize.search.metrics import METRICS
from optimize.search.report import OptimizeReport
from optimize.training.records import RunRecord


def render(report: OptimizeReport, run: RunRecord | None = None) -> str:
    """Make the page.

    Parameters
    ----------
    run
        Of a ranker: how it was trained, for two more sections.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        report=report,
        run=run,
        metric=METRICS[report.budget.metric],
        chosen=report.candidate(report.chosen),
        reference=report.candidates[0],
        charts={name: charts.picture(figure) for name, figure in charts.of(report, run).items()},
    )
