"""Two pictures of what `benchmarks.judge` found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks.record import Figure

RULES = (("judge", "our judge", "#3b82c4"), ("threshold", "threshold rule", "#d9822b"), ("mann_whitney", "Mann-Whitney rule", "#c8453b"))


def draw(figures: Sequence[Figure], folder: Path) -> None:
    """Draw false alarms and found harms by rule into ``false_alarms.png`` and ``found.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {figure.name: figure.value for figure in figures}
    names = [figure.name.removesuffix("|judge") for figure in figures if figure.name.endswith("|judge")]
    healthy = [name for name in names if name.startswith("healthy")]
    for file, chosen, title in (
        ("false_alarms", healthy, "false alarms, % of healthy canaries"),
        ("found", [name for name in names if name not in healthy], "found, % of harmed canaries"),
    ):
        picture = Picture(figsize=(9.0, 0.8 + 0.5 * len(chosen)), layout="constrained")
        _bars(picture.add_subplot(), chosen, by_name, title)
        picture.savefig(folder / f"{file}.png", dpi=110)


def _bars(axes: Axes, names: Sequence[str], by_name: dict[str, float], title: str) -> None:
    rows = np.arange(len(names))[::-1].astype(float)
    for number, (rule, label, colour) in enumerate(RULES):
        values = [by_name.get(f"{name}|{rule}", np.nan) for name in names]
        axes.barh(rows + 0.27 * (1 - number), np.nan_to_num(values), height=0.25, color=colour, label=label)
        for row, value in zip(rows, values, strict=True):
            if not np.isnan(value):
                axes.text(value + 0.7, row + 0.27 * (1 - number), f"{value:.3g}", va="center", fontsize=7)
    bounds = [by_name.get(f"{name}|bound", np.nan) for name in names]
    if not np.isnan(bounds).all():
        axes.scatter(bounds, rows, marker="|", s=260, color="black", label="most that any test could find")
    axes.set_yticks(rows, [name.removeprefix("healthy: ") for name in names], fontsize=8)
    axes.set(xlabel=title, xlim=(0, 108))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), fontsize=8)
