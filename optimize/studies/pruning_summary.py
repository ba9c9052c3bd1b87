"""Figures of the pruning study over seeds, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TRAININGS = {"none": "as pruned", "labels": "fine-tuned", "teacher": "fine-tuned, distilled"}


@dataclass(frozen=True)
class Outcome:
    """One pruned model.

    Attributes
    ----------
    labels
        ``clean`` or ``noisy``: of the training data.
    training
        After pruning: ``none``, ``labels``, or ``teacher`` for labels and the full model's answers.
    weights_kept
        Weights of linear layers that are not zero, as a share of the full model's.
    ne, auc
        On clean test data.
    """

    seed: int
    labels: str
    technique: str
    level: float
    training: str
    weights_kept: float
    ne: float
    auc: float


@dataclass(frozen=True)
class Summary:
    """One kind of pruned model over all seeds; changes are from the full model of the same seed and labels, not trained on.

    Attributes
    ----------
    ne_change_pct, auc_change
        Means; more NE is worse, more AUC is better.
    ne_change_pct_sd, auc_change_sd
        Standard deviations over seeds, 0 with one.
    """

    labels: str
    technique: str
    level: float
    training: str
    weights_kept: float
    ne: float
    auc: float
    ne_change_pct: float
    ne_change_pct_sd: float
    auc_change: float
    auc_change_sd: float


def summarize(outcomes: Sequence[Outcome]) -> list[Summary]:
    """Average over seeds, each against its own full model."""
    full = {(o.seed, o.labels): o for o in outcomes if o.technique == "none" and o.training == "none"}
    groups: dict[tuple[str, str, float, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.labels, outcome.technique, outcome.level, outcome.training), []).append(outcome)
    rows = []
    for key, group in groups.items():
        ne = np.array([100 * (o.ne / full[o.seed, o.labels].ne - 1) for o in group])
        auc = np.array([o.auc - full[o.seed, o.labels].auc for o in group])
        spread = 1 if len(group) > 1 else 0
        labels, technique, level, training = key
        rows.append(
            Summary(
                labels,
                technique,
                level,
                training,
                weights_kept=float(np.mean([o.weights_kept for o in group])),
                ne=float(np.mean([o.ne for o in group])),
                auc=float(np.mean([o.auc for o in group])),
                ne_change_pct=float(ne.mean()),
                ne_change_pct_sd=float(ne.std(ddof=spread)),
                auc_change=float(auc.mean()),
                auc_change_sd=float(auc.std(ddof=spread)),
            )
        )
    return rows


def draw(rows: Sequence[Summary], path: Path) -> None:
    """Draw the change of NE over the weights that are kept, a panel for each way of pruning and kind of labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    techniques = {"magnitude": "unstructured and 2:4", "neurons": "hidden units removed", "low_rank": "low rank"}
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3, sharey="row", squeeze=False)
    for line, labels in zip(axes, ("clean", "noisy"), strict=True):
        for axis, (technique, title) in zip(line, techniques.items(), strict=True):
            for color, (training, name) in zip(("tab:red", "tab:blue", "tab:green"), TRAININGS.items(), strict=True):
                chosen = [r for r in rows if r.labels == labels and r.training == training]
                points = sorted((r for r in chosen if r.technique in (technique, "none")), key=lambda r: -r.weights_kept)
                xs, ys, errors = ([getattr(r, key) for r in points] for key in ("weights_kept", "ne_change_pct", "ne_change_pct_sd"))
                axis.errorbar(xs, ys, errors, marker="o", capsize=3, color=color, label=name)
                if technique == "magnitude":
                    for row in (r for r in chosen if r.technique == "two_of_four"):
                        axis.errorbar(row.weights_kept, row.ne_change_pct, row.ne_change_pct_sd, marker="s", capsize=3, color=color)
            axis.set(title=f"{title}, {labels} labels", xlabel="share of linear weights kept", xlim=(1.03, 0))
            axis.set_yscale("symlog", linthresh=1.0)
            axis.axhline(0, color="gray", linewidth=0.8)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("NE change, % of the full model's (lower is better)")
    axes[0][0].legend()
    figure.suptitle(
        "What pruning costs: DCN-v2, synthetic clicks, clean test data; mean and standard deviation over seeds, squares are 2:4"
    )
    figure.savefig(path, dpi=110, metadata={"Software": None})
