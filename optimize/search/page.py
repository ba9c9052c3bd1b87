"""``report.html``: the report as one self-contained page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from optimize.search.cache import Cache, code_digest, key_of
from optimize.search.metrics import METRICS
from optimize.search.report import OptimizeReport
from optimize.training.records import RunRecord


def render(report: OptimizeReport, run: RunRecord | None = None, cache: Cache | None = None) -> str:
    """Make the page.

    Parameters
    ----------
    run
        Of a ranker: how it was trained, for two more sections.
    cache
        Keeps the pictures: drawing takes seconds.
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
        charts=_pictures(report, run, cache),
    )


def _pictures(report: OptimizeReport, run: RunRecord | None, cache: Cache | None) -> dict[str, str]:
    shown = report.model_dump(mode="json", exclude={"created_at", "seconds"})
    key = key_of(shown, [asdict(epoch) for epoch in run.epochs] if run else [], code_digest("search"))
    held: dict[str, str] | None = cache.read("pictures", key) if cache else None
    if held is None:
        from optimize.search import charts

        held = {name: charts.picture(figure) for name, figure in charts.of(report, run).items()}
        if cache:
            cache.write("pictures", key, held)
    return held
