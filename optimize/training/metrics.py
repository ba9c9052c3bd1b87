"""Quality of click probabilities.

Letters: ``B`` impressions.

References
----------
He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014 (normalized entropy);
Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017 (gAUC);
Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002 (NDCG).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

EPSILON = 1e-7
"""Probabilities are clipped to [1e-7, 1 - 1e-7]: float32's spacing below 1 is 6e-8, closer to 1 its log is noise."""

NDCG_AT = 10
CALIBRATION_BINS = 20


def log_losses(label: npt.ArrayLike, probability: npt.ArrayLike) -> Floats:
    """Log loss of every impression, ``(B,) float64``, in nats."""
    y = np.asarray(label, np.float64)
    p = np.clip(np.asarray(probability, np.float64), EPSILON, 1 - EPSILON)
    out: Floats = -(y * np.log(p) + (1 - y) * np.log1p(-p))
    return out


def base_entropy(label: npt.ArrayLike) -> float:
    """Entropy of the base rate in nats: the log loss of always predicting it."""
    rate = float(np.mean(np.asarray(label, np.float64)))
    return float(np.mean(log_losses(label, np.full(np.shape(label), rate))))


def normalized_entropy(label: npt.ArrayLike, probability: npt.ArrayLike) -> float:
    """Log loss over the entropy of the base rate: 1 is no better than the base rate, lower is better; NaN when there is one class only."""
    if np.ptp(np.asarray(label)) == 0:
        return float("nan")
    return float(np.mean(log_losses(label, probability))) / base_entropy(label)


def auc(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Area under the ROC curve; ties count half; NaN when there is one class only."""
    y = np.asarray(label) > 0
    positives, negatives = int(y.sum()), int((~y).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    return (float(_ranks(np.asarray(score, np.float64))[y].sum()) - positives * (positives + 1) / 2) / (positives * negatives)


def grouped_auc(label: npt.ArrayLike, score: npt.ArrayLike, group: npt.NDArray[Any]) -> float:
    """AUC within each group, averaged with the group's impressions as weight; groups with one class are left out."""
    y, s = np.asarray(label), np.asarray(score)
    total = weight = 0.0
    for rows in _groups(group):
        value = auc(y[rows], s[rows])
        if not np.isnan(value):
            total += value * len(rows)
            weight += len(rows)
    return total / weight if weight else float("nan")


def ndcg(label: npt.ArrayLike, score: npt.ArrayLike, group: npt.NDArray[Any], k: int = NDCG_AT) -> float:
    """Mean NDCG@k over groups with at least one click; gain 1 for a click, discount ``log2(rank + 1)``."""
    y, s = np.asarray(label, np.float64), np.asarray(score)
    discount = 1 / np.log2(np.arange(2, k + 2))
    values = []
    for rows in _groups(group):
        if y[rows].sum() > 0:
            gains = y[rows][np.argsort(-s[rows], kind="stable")][:k]
            ideal = np.sort(y[rows])[::-1][:k]
            values.append((gains * discount[: len(gains)]).sum() / (ideal * discount[: len(ideal)]).sum())
    return float(np.mean(values)) if values else float("nan")


def calibration_ratio(label: npt.ArrayLike, probability: npt.ArrayLike) -> float:
    """Mean predicted over mean observed; 1 is calibrated on average; NaN without a click."""
    observed = float(np.mean(np.asarray(label, np.float64)))
    return float(np.mean(np.asarray(probability, np.float64))) / observed if observed else float("nan")


def expected_calibration_error(label: npt.ArrayLike, probability: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Mean distance of predicted and observed over bins of equally many impressions."""
    y, p = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    chunks = np.array_split(np.argsort(p, kind="stable"), bins)
    return float(sum(abs(p[c].mean() - y[c].mean()) * len(c) for c in chunks if len(c)) / len(p))


def evaluate(label: npt.ArrayLike, probability: npt.ArrayLike, group: npt.NDArray[Any]) -> dict[str, float]:
    """All metrics of this page by name; one that is not defined on this data (one class only, say) is left out."""
    values = {
        "log_loss": float(np.mean(log_losses(label, probability))),
        "ne": normalized_entropy(label, probability),
        "auc": auc(label, probability),
        "gauc": grouped_auc(label, probability, group),
        f"ndcg@{NDCG_AT}": ndcg(label, probability, group),
        "calibration_ratio": calibration_ratio(label, probability),
        "ece": expected_calibration_error(label, probability),
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _ranks(score: Floats) -> Floats:
    """Ranks from 1, ties at their mean."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = (last - (counts - 1) / 2)[inverse]
    return means


def _groups(group: npt.NDArray[Any]) -> list[npt.NDArray[np.int64]]:
    _, codes = np.unique(group.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
