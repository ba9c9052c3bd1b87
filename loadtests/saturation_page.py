"""``saturation.html``: what a saturation search tried and found."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from loadtests.charts import GREEN, INK, ORANGE, PURPLE, RED, drawing
from loadtests.load_profile import LoadProfile
from loadtests.page import render
from loadtests.saturation import Saturation
from serving.contract.files import write_bytes

MARKS = {"pass": ("o", GREEN), "fail": ("X", RED), "inconclusive": ("s", ORANGE), "invalid": ("D", PURPLE)}


def write_saturation_page(found: Saturation, profile: LoadProfile, host: str, target: Path) -> None:
    """Write the page, completely or not at all."""
    charts = {}
    if any(trial.p99_ms is not None for trial in found.trials):
        limits = [objective.p99_ms for objective in profile.objective if objective.p99_ms is not None]
        charts["latency"] = drawing("latency", [partial(_latency, found=found, limit_ms=min(limits, default=None))])
    write_bytes(target, render("saturation.html", charts, found=found, profile=profile, host=host).encode())


def _latency(axes: Axes, found: Saturation, limit_ms: float | None) -> None:
    """p99 with its interval by rate, marked by verdict; the rates that the search leaves open are shaded."""
    for status, (mark, colour) in MARKS.items():
        trials = [trial for trial in found.trials if trial.status == status and trial.p99_ms is not None]
        if not trials:
            continue
        rates, p99 = np.array([trial.rate_rps for trial in trials]), np.array([trial.p99_ms for trial in trials])
        ends = [trial.p99_interval_ms or (None, None) for trial in trials]
        low = np.array([value if end[0] is None else end[0] for value, end in zip(p99, ends, strict=True)])
        high = np.array([value if end[1] is None else end[1] for value, end in zip(p99, ends, strict=True)])
        axes.errorbar(rates, p99, yerr=[p99 - low, high - p99], fmt=mark, color=colour, capsize=3, label=status)
    if found.keeps_rps is not None and found.fails_rps is not None:
        axes.axvspan(found.keeps_rps, found.fails_rps, color=ORANGE, alpha=0.15, linewidth=0)
    if limit_ms is not None:
        axes.axhline(limit_ms, color=INK, linewidth=0.8, linestyle="--", label="limit of p99")
    axes.set(xlabel="requests a second", ylabel="p99 in ms", xscale="log", yscale="log")
