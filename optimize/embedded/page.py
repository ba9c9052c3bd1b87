"""``report.html``, one self-contained page, and the model card of the bundle."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from optimize.embedded import charts
from optimize.embedded.exam import MAIN
from optimize.embedded.report import ClipReport

MISTAKES = 12


def render(report: ClipReport) -> str:
    """Make the page."""
    pictures = {"confusion": charts.confusion(report.confusion), "training": charts.training(report)}
    mistakes = report.confusion.worst(MISTAKES)
    return _template("report.html").render(report=report, main=report.suite(MAIN), charts=pictures, mistakes=mistakes)


def card(report: ClipReport) -> str:
    """Make the card, in Markdown."""
    return _template("card.md").render(report=report, main=report.suite(MAIN))


def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
