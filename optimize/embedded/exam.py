"""The test: every variant on suites of combinations and phrasings that training never saw."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from optimize.data.scenes.captions import HELD_OUT, Phrasing, label
from optimize.embedded.report import Confusion, Sample, SuiteResult
from optimize.training.zero_shot import Exam, Towers, accuracy, predict

REPHRASED = ("colours", "characters")
"""Suites that are asked in unseen phrasings, too."""

MAIN = "colours"
SAMPLES = 12
SHOWN_ANSWERS = 3


def examine(exams: Sequence[Exam], variants: Mapping[str, Towers]) -> list[SuiteResult]:
    """Accuracy of every variant on every suite, and on some in unseen phrasings."""
    found = []
    for exam in exams:
        suite = exam.suite
        found.append(_result(exam, suite.name, suite.question, variants, (None,)))
        if suite.name in REPHRASED:
            question = f"the same, labels in {len(HELD_OUT)} phrasings that training never used; mean"
            found.append(_result(exam, f"{suite.name}, unseen phrasings", question, variants, HELD_OUT))
    return found


def _result(exam: Exam, name: str, question: str, variants: Mapping[str, Towers], phrasings: Sequence[Phrasing | None]) -> SuiteResult:
    scores = {variant: accuracy(exam, towers, phrasings) for variant, towers in variants.items()}
    return SuiteResult(name=name, question=question, pictures=len(exam.pixels), choices=exam.suite.choices, accuracy=scores)


def confusion_of(exam: Exam, towers: Towers) -> Confusion:
    """Count which label was chosen for which."""
    size = len(exam.suite.labels)
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (exam.suite.target, predict(exam, towers)), 1)
    labels = tuple(label(claim) for claim in exam.suite.labels)
    return Confusion(suite=exam.suite.name, labels=labels, counts=tuple(map(tuple, counts.tolist())))


def samples_of(exam: Exam, towers: Towers, logit_scale: float) -> tuple[Sample, ...]:
    """Pictures at even distances through the suite with their best labels: neither the best nor the worst of them."""
    labels = [label(claim) for claim in exam.suite.labels]
    rows = np.linspace(0, len(exam.pixels) - 1, SAMPLES).astype(int)
    logits = logit_scale * towers.images(exam.pixels[rows]) @ towers.texts(labels).T
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = weights / weights.sum(axis=1, keepdims=True)
    return tuple(
        Sample(
            picture=picture(exam.pixels[row]),
            right=labels[int(exam.suite.target[row])],
            answers=tuple((labels[at], float(share[at])) for at in np.argsort(-share)[:SHOWN_ANSWERS].tolist()),
        )
        for row, share in zip(rows.tolist(), shares, strict=True)
    )


def picture(pixels: np.ndarray) -> str:
    """PNG as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def fingerprint(exams: Sequence[Exam]) -> str:
    """SHA-256 over pictures, labels and right answers, first 16 hex digits."""
    digest = hashlib.sha256()
    for exam in exams:
        digest.update(repr(exam.suite.labels).encode())
        digest.update(exam.suite.target.tobytes())
        digest.update(exam.pixels.tobytes())
    return digest.hexdigest()[:16]
