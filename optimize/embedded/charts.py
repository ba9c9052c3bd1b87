"""Pictures of the embedded model's report, as PNG in data URIs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optimize.embedded.report import ClipReport, Confusion
from optimize.search.charts import ACCENT, INK, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion(found: Confusion) -> str:
    """Right labels down, chosen ones across, each row as shares of its pictures."""
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.array(found.counts, float)
    size = len(found.labels)
    figure = _figure(2.6 + 0.15 * size, 2.2 + 0.15 * size)
    axes = figure.subplots()
    shades = LinearSegmentedColormap.from_list("share", ["#ffffff", "#bfe3dc", ACCENT, INK])
    image = axes.imshow(counts / counts.sum(axis=1, keepdims=True), cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(range(size), found.labels, rotation=90, fontsize=6)
    axes.set_yticks(range(size), found.labels, fontsize=6)
    axes.set_xlabel("chosen label")
    axes.set_ylabel("right label")
    axes.set_xticks(np.arange(size) - 0.5, minor=True)
    axes.set_yticks(np.arange(size) - 0.5, minor=True)
    axes.grid(which="minor", color="#e3e6eb", linewidth=0.3)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(image, ax=axes, shrink=0.5, label="share of the row's pictures")
    return picture(figure)


def training(report: ClipReport) -> str:
    """Training loss and validation accuracy by epoch."""
    figure = _figure(6.4, 3.0)
    left = figure.subplots()
    right = left.twinx()
    epochs = [epoch.epoch for epoch in report.epochs]
    left.plot(epochs, [epoch.loss for epoch in report.epochs], color=INK, marker="o", markersize=3)
    right.plot(epochs, [100 * epoch.validation_accuracy for epoch in report.epochs], color=ACCENT, marker="o", markersize=3)
    left.set_xlabel("epoch")
    left.set_ylabel("contrastive loss", color=INK)
    right.set_ylabel("validation accuracy, %", color=ACCENT)
    left.grid(alpha=0.25)
    return picture(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
