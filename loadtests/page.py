"""Pages with everything inside, to attach to a change or open without a network; ``report.html`` is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loadtests.judge import Effect
from loadtests.judge.sentences import number
from loadtests.report import Report, as_utc_text
from loadtests.report_charts import draw
from loadtests.samples import Samples
from serving.contract.files import write_bytes

PAGE_NAME = "report.html"
TEMPLATES = Path(__file__).parent / "pages"

UNITS = {"ms": " ms", "percent": " %", "percentage points": " points", "times": " ×", "share": ""}


def render(template: str, charts: Mapping[str, str], **values: Any) -> str:
    """Render a page; everything that came from a service is escaped."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "ms": _milliseconds,
        "count": lambda value: f"{value:,}".replace(",", "\N{NO-BREAK SPACE}"),
        "number": number,
        "pct": lambda value: f"{number(value)}\N{NO-BREAK SPACE}%",
        "rate": lambda value: f"{number(value)}/s",
        "ends": _ends,
        "effect": lambda effect: _of(effect.value, effect),
        "effect_ends": _effect_ends,
    }
    # The drawings hold figures and our own words; names that a service gave are escaped by matplotlib.
    drawn = {name: Markup(svg) for name, svg in charts.items()}  # noqa: S704
    return environment.get_template(template).render(charts=drawn, **values)


def render_page(report: Report, samples: Samples) -> str:
    """Render ``report.html``."""
    return render("report.html", draw(report, samples), report=report, started_at=as_utc_text(report.started_at))


def write_page(report: Report, samples: Samples, target: Path) -> None:
    """Write ``report.html``, completely or not at all."""
    write_bytes(target, render_page(report, samples).encode())


def _milliseconds(value: float | None) -> str:
    """Three significant digits, as much as a run of some thousand requests can carry."""
    if value is None:
        return "too few requests"
    shown = f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
    return f"{shown}\N{NO-BREAK SPACE}ms"


def _ends(ends: tuple[float | None, float | None]) -> str:
    low, high = ("?" if end is None else f"{end:.0f}" if end >= 100 else f"{end:#.3g}" for end in ends)
    return f"{low} to {high}"


def _of(value: float | None, effect: Effect) -> str:
    return "?" if value is None else number(value) + UNITS.get(effect.unit, f" {effect.unit}")


def _effect_ends(effect: Effect) -> str:
    return f"{_of(effect.low, effect)} to {_of(effect.high, effect)}"
