"""Figures of the precision study: what they are, as tables and as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "fp32"

FAMILIES = {"fp32": "#33415c", "bf16": "#7d5ba6", "fp16": "#b07aa1", "int8": "#2a9d8f", "int4": "#e9a23b"}
"""First word of a format's name → colour."""


@dataclass(frozen=True)
class Time:
    """One size of runs.

    Attributes
    ----------
    speedup
        Median over rounds of float32's time by this one's.
    """

    size: int
    p50_ms: float
    p95_ms: float
    rounds: int
    speedup: float


@dataclass(frozen=True)
class Outcome:
    """One format of one subject.

    Attributes
    ----------
    skipped
        Why there are no figures, if there are none.
    memory_bytes
        By how much a process grows that loads and runs it, at most; None where that was not measured.
    """

    subject: str
    format: str
    passes: tuple[str, ...]
    skipped: str = ""
    size_bytes: int = 0
    memory_bytes: int | None = None
    quality: dict[str, float] = field(default_factory=dict)
    times: tuple[Time, ...] = ()


Described = Mapping[str, Any]
"""What the JSON says of one subject."""

QUALITY: dict[str, dict[str, Callable[[Mapping[str, float]], str]]] = {
    "ranker": {
        "NE": lambda q: f"{q['ne']:.4f}",
        "change of NE, % (95 % interval)": lambda q: (
            f"{q['ne_change_pct']:+.3f} ({q['ne_change_low_pct']:+.3f} to {q['ne_change_high_pct']:+.3f})"
        ),
        "AUC": lambda q: f"{q['auc']:.4f}",
    },
    "encoder": {
        "cosine to fp32 (least)": lambda q: f"{q['cosine']:.5f} ({q['cosine_min']:.5f})",
        "same nearest sentence": lambda q: f"{100 * q['top1_agreement']:.1f} %",
        "paraphrase found": lambda q: f"{100 * q['top1_accuracy']:.1f} %",
    },
}
"""Columns of a subject's table."""

AXES: dict[str, tuple[str, float | None]] = {"ranker": ("change of NE, %, 95 % interval", None), "encoder": ("1 − cosine to fp32", 1e-7)}
"""What quality is on the picture, and where a logarithmic scale turns linear: float32's own rounding is 6e-8."""


def table(name: str, described: Described) -> str:
    """Markdown: size, memory, time and quality of each format, then what was skipped."""
    rows = [Outcome(**{**row, "times": tuple(Time(**time) for time in row["times"])}) for row in described["outcomes"]]
    made = [row for row in rows if not row.skipped]
    sizes = [time.size for time in made[0].times]
    reference = made[0]
    heads = ["format", "file, MB", "memory, MB", *(f"ms, {size}" for size in sizes), *(f"speed, {size}" for size in sizes), *QUALITY[name]]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in made:
        share = "" if row is reference else f" ({100 * row.size_bytes / reference.size_bytes:.0f} %)"
        cells = [row.format, f"{row.size_bytes / 1e6:.2f}{share}", "–" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}"]
        cells += [f"{time.p50_ms:.3g}" for time in row.times] + [f"{time.speedup:.2f}×" for time in row.times]
        cells += [show(row.quality) for show in QUALITY[name].values()]
        lines.append("| " + " | ".join(cells) + " |")
    skipped = [f"* Skipped: {row.format}: {row.skipped}" for row in rows if row.skipped]
    return "\n".join([*lines, *([""] if skipped else []), *skipped]) + "\n"


def draw_quality(document: Mapping[str, Described], path: Path) -> None:
    """What each format loses, with the size of its file."""
    figure = _figure(len(document), 5.4)
    for axis, (name, described) in zip(_panels(figure, document), document.items(), strict=True):
        made = [row for row in described["outcomes"] if not row["skipped"]]
        for place, row in enumerate(made):
            quality = row["quality"]
            loss = quality[described["loss"]]
            low, high = quality.get("ne_change_low_pct", loss), quality.get("ne_change_high_pct", loss)
            axis.errorbar(loss, place, xerr=[[loss - low], [high - loss]], marker="o", capsize=3, color=_colour(row["format"]))
            axis.annotate(f"{row['size_bytes'] / 1e6:.1f} MB", (1, place), xycoords=("axes fraction", "data"), xytext=(4, -3),
                          textcoords="offset points", fontsize=8)  # fmt: skip
        label, linear = AXES[name]
        if linear is not None:
            axis.set_xscale("symlog", linthresh=linear)
        axis.set_yticks(range(len(made)), [row["format"] for row in made])
        axis.invert_yaxis()
        axis.axvline(0, color="gray", linewidth=0.8)
        axis.set(title=described["title"], xlabel=f"{label} (lower is better) · size of the file")
        axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def draw_latency(document: Mapping[str, Described], path: Path) -> None:
    """How fast each format runs, as a multiple of float32, at every size."""
    figure = _figure(len(document), 5.4)
    for axis, described in zip(_panels(figure, document), document.values(), strict=True):
        made = [row for row in described["outcomes"] if not row["skipped"]]
        sizes = [time["size"] for time in made[0]["times"]]
        height = 0.8 / len(sizes)
        for i, size in enumerate(sizes):
            speeds = [row["times"][i]["speedup"] for row in made]
            at = [place + (i - (len(sizes) - 1) / 2) * height for place in range(len(made))]
            bars = axis.barh(at, speeds, height * 0.9, color=[_colour(row["format"]) for row in made], alpha=0.55 + 0.45 * i / len(sizes))
            axis.bar_label(bars, [f"{speed:.2f}× · {size}" for speed in speeds], padding=3, fontsize=7)
        axis.set_yticks(range(len(made)), [row["format"] for row in made])
        axis.invert_yaxis()
        axis.axvline(1, color="gray", linewidth=0.8)
        axis.set(title=described["title"], xlabel=f"speed over fp32, one thread · number of {described['unit']}")
        axis.set_xlim(0, 1.3 * max(time["speedup"] for row in made for time in row["times"]))
    _save(figure, path)


def _figure(panels: int, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8 * panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(figure: Figure, document: Mapping[str, Described]) -> list[Axes]:
    return list(figure.subplots(1, len(document), squeeze=False)[0])


def _colour(name: str) -> str:
    return FAMILIES[name.split(maxsplit=1)[0]]


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
