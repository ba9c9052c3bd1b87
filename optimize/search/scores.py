"""How good a candidate answers: losses by example, metrics, and how far its answers are from the reference's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optimize.search.budget import Budget
from optimize.search.builds import Builds, Refused
from optimize.search.cache import Cache, key_of
from optimize.search.candidates import Candidate
from optimize.search.machine import cpu_identity
from optimize.search.metrics import Answers, Metric
from optimize.search.subject import Part, Subject, SubjectError
from serving.contract.errors import ModelOutputError

BINS = 41
"""Of a histogram of differences; odd, so that 0 is in the middle of one."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Differences:
    """Differences of answers to the reference's, over all examples and elements.

    Attributes
    ----------
    edges, counts
        ``BINS + 1`` edges and ``BINS`` counts.
    max_abs, rms
        Largest difference, and root of the mean square.
    largest
        Largest magnitude of the reference's answers.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    max_abs: float
    rms: float
    largest: float


@dataclass(frozen=True)
class Score:
    """What one part of the data says of a candidate.

    Attributes
    ----------
    losses
        ``(B,) float64`` of the budget's metric.
    """

    losses: Floats
    metrics: dict[str, float]
    differences: Differences


class Scores:
    """Scores candidates of one subject; the reference's answers are held, for comparison."""

    def __init__(self, subject: Subject, budget: Budget, builds: Builds, cache: Cache, *, threads: int) -> None:
        self._subject, self._budget, self._builds, self._cache, self._threads = subject, budget, builds, cache, threads
        self._reference: dict[str, Answers] = {}

    def of(self, candidate: Candidate, part: str, on_run: Callable[[float], None] = lambda _: None) -> Score:
        """Score a candidate on the part ``validation`` or ``test``.

        Raises
        ------
        Refused
            It does not run, or its answers are no numbers.
        SubjectError
            The same of the reference, with which nothing can be compared then.
        """
        data: Part = getattr(self._subject, part)
        reference = self._builds.key(Candidate(()))
        key = key_of(reference, self._builds.key(candidate), data.fingerprint, self._budget.metric, cpu_identity(), self._threads)
        held = self._cache.read_arrays("scores", key)
        if held is not None:
            told = json.loads(str(held["told"]))
            off = told["differences"]
            off |= {"edges": tuple(off["edges"]), "counts": tuple(off["counts"])}
            return Score(held["losses"], told["metrics"], Differences(**off))
        try:
            score = self._scored(candidate, part, data, on_run)
        except Refused as refused:
            if candidate.steps:
                raise
            raise SubjectError(f"the reference itself cannot be judged on the {part} part: it {refused}") from refused
        told = {"metrics": score.metrics, "differences": vars(score.differences)}
        self._cache.write_arrays("scores", key, {"losses": score.losses, "told": np.array(json.dumps(told))})
        return score

    def _scored(self, candidate: Candidate, part: str, data: Part, on_run: Callable[[float], None]) -> Score:
        before = self._reference_answers(part, data)
        answers = before if not candidate.steps else self._answers(candidate, data, on_run)
        if answers.shape != before.shape:
            raise Refused(f"gives answers of shape {answers.shape}, the reference of {before.shape}")
        metric = self._budget.of
        _require_comparable(metric, data.label, before, part)
        losses = metric.losses(data.label, answers, before)
        bad = int((~np.isfinite(losses)).sum())
        if bad:
            raise Refused(f"has a {metric.name} that is no number, on {bad} of {len(losses)} {part} examples")
        return Score(losses, {**self._subject.metrics(data.label, answers), **_own(metric.name, losses)}, differences(answers, before))

    def _reference_answers(self, part: str, data: Part) -> Answers:
        if part not in self._reference:
            self._reference[part] = self._answers(Candidate(()), data, lambda _: None)
        return self._reference[part]

    def _answers(self, candidate: Candidate, data: Part, on_run: Callable[[float], None]) -> Answers:
        try:
            answers = data.answers(self._builds.session(candidate), on_run)
        except (ModelOutputError, TypeError, ValueError) as error:
            raise Refused(f"does not run: {error}") from error
        bad = int((~np.isfinite(answers)).sum())
        if bad:
            raise Refused(f"gives answers that are not finite: {bad} of {answers.size}")
        return answers


def _require_comparable(metric: Metric, label: npt.NDArray[Any] | None, answers: Answers, part: str) -> None:
    """Refuse data of which the metric would make nonsense, or nothing."""
    width = answers[:1].size
    if metric.name in ("ne", "auc") and width != 1:
        raise SubjectError(f"the model gives {width} numbers an example, {metric.name} takes one; accuracy and cosine take several")
    if not metric.needs_label or label is None:
        return
    if label.shape != (len(answers),):
        raise SubjectError(
            f"the {part} part has labels of shape {label.shape} for {len(answers)} answers; give one an example, in their order"
        )
    if label.dtype.kind not in "biuf" or not np.isfinite(label).all():
        raise SubjectError(f"the {part} part has labels that are no finite numbers; leave those examples out")


def differences(answers: Answers, before: Answers) -> Differences:
    """Histogram of ``answers - before``."""
    off: Any = answers.astype(np.float64).ravel() - before.astype(np.float64).ravel()
    most = float(np.abs(off).max(initial=0.0))
    rms = float(np.sqrt(np.mean(off**2))) if len(off) else 0.0
    counts, edges = np.histogram(off, bins=BINS, range=(-most, most) if most > 0 else (-1.0, 1.0))
    return Differences(tuple(map(float, edges)), tuple(map(int, counts)), most, rms, float(np.abs(before).max(initial=0.0)))


def _own(name: str, losses: Floats) -> dict[str, float]:
    """The budget's metric as people know it, where it is not among the subject's."""
    mean = float(losses.mean())
    return {"accuracy": {"accuracy": 1 - mean}, "cosine": {"cosine": 1 - mean, "cosine_min": 1 - float(losses.max())}}.get(name, {})
