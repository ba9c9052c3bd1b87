"""``report.html``: one page with everything inside, to attach to a change or open without a network."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loadtests.charts import draw
from loadtests.report import Report, as_utc_text
from loadtests.samples import Samples
from serving.contract.files import write_bytes

PAGE_NAME = "report.html"
TEMPLATE = "report_template.html"


def render_page(report: Report, samples: Samples) -> str:
    """Render the page; everything that came from the service is escaped."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters["ms"] = _milliseconds
    environment.filters["count"] = lambda value: f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")
    # The drawings hold figures and our own words only, nothing of the service's.
    charts = {name: Markup(svg) for name, svg in draw(report, samples).items()}  # noqa: S704
    return environment.get_template(TEMPLATE).render(report=report, charts=charts, started_at=as_utc_text(report.started_at))


def write_page(report: Report, samples: Samples, target: Path) -> None:
    """Write ``report.html``, completely or not at all."""
    write_bytes(target, render_page(report, samples).encode())


def _milliseconds(value: float | None) -> str:
    """Three significant digits, as much as a run of some thousand requests can carry."""
    if value is None:
        return "too few requests"
    return f"{value:.0f} ms" if value >= 100 else f"{value:#.3g} ms"
