"""What quality is judged by: per example, a loss that is lower where the answer is better.

A metric that is a mean over examples can be bootstrapped whatever it is. Letters: ``B`` examples, ``D`` width of an answer.

References
----------
DeLong, DeLong and Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves", Biometrics
1988 (AUC as a mean of placement values).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from optimize.training.metrics import auc, log_losses

MetricName = Literal["ne", "auc", "accuracy", "cosine"]

Floats = npt.NDArray[np.float64]
Answers = npt.NDArray[np.floating[Any]]
"""What a model answers, ``(B,)`` or ``(B, D)``."""


@dataclass(frozen=True)
class Metric:
    """How to judge answers.

    Attributes
    ----------
    relative
        Whether a change is a share of the reference's loss, in percent, or a plain difference.
    factor, unit
        What a change is multiplied by to be shown, and in what.
    budget
        Most that it may get worse by, unless somebody says otherwise.
    losses
        Labels ``(B,)`` (None for ``cosine``), answers, the reference's answers → ``(B,) float64``.
    """

    name: MetricName
    title: str
    relative: bool
    factor: float
    unit: str
    budget: float
    losses: Callable[[npt.NDArray[Any] | None, Answers, Answers], Floats]

    @property
    def needs_label(self) -> bool:
        """Whether it compares with a truth, and not only with the reference."""
        return self.name != "cosine"

    def show(self, change: float) -> str:
        """A change in words, with its sign."""
        return f"{change:+.4g} {self.unit}".rstrip()


def _log_losses(label: npt.NDArray[Any] | None, answers: Answers, reference: Answers) -> Floats:
    return log_losses(_required(label), answers.reshape(len(answers)))


def _placements(label: npt.NDArray[Any] | None, answers: Answers, reference: Answers) -> Floats:
    """Minus each example's part of the AUC: the mean is ``-AUC``, and their spread that of the AUC, to first order."""
    y, score = _required(label) > 0, answers.reshape(len(answers)).astype(np.float64)
    positives, negatives = np.sort(score[y]), np.sort(score[~y])
    if not len(positives) or not len(negatives):
        return np.full(len(y), np.nan)
    part = np.empty(len(y))
    part[y] = _below(negatives, score[y])
    part[~y] = 1 - _below(positives, score[~y])
    area = auc(y, score)
    share = np.where(y, len(positives), len(negatives)) / len(y)
    out: Floats = -(area + (part - area) / share)
    return out


def _below(others: Floats, score: Floats) -> Floats:
    """Share of `others` (sorted) below each score; ties count half."""
    left, right = (np.searchsorted(others, score, side) for side in ("left", "right"))
    out: Floats = (left + right) / (2 * len(others))
    return out


def _mistakes(label: npt.NDArray[Any] | None, answers: Answers, reference: Answers) -> Floats:
    guess = answers.argmax(axis=1) if answers.ndim == 2 and answers.shape[1] > 1 else answers.reshape(len(answers)) > 0.5
    out: Floats = (guess != _required(label)).astype(np.float64)
    return out


def _angles(label: npt.NDArray[Any] | None, answers: Answers, reference: Answers) -> Floats:
    """One minus the cosine to the reference's answer, all axes of an example taken together."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (answers, reference))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(norms > 0, (a * b).sum(axis=1) / norms, np.where((a == b).all(axis=1), 1.0, np.nan))
    out: Floats = 1 - cosine
    return out


def _required(label: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if label is None:
        raise ValueError("this metric compares with labels, and there are none")
    return label


METRICS: dict[MetricName, Metric] = {
    "ne": Metric("ne", "normalized entropy", True, 100, "%", 0.1, _log_losses),
    "auc": Metric("auc", "AUC", False, 1, "", 0.001, _placements),
    "accuracy": Metric("accuracy", "accuracy", False, 100, "points", 0.5, _mistakes),
    "cosine": Metric("cosine", "cosine to the reference", False, 1, "", 0.01, _angles),
}
"""By name. NE's 0.1 % is the closest of MLPerf Inference's targets, 99.9 % of the reference. A difference of 0.001 AUC on MovieLens is what
trainings of one model differ by (BARS, SIGIR 2022). The other two are round figures."""
