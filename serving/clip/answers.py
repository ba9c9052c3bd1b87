"""From embeddings to the answer for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.clip.labels import Matrix, Row
from serving.clip.requests import ClassifyRequest
from serving.clip.scoring import best_labels, exclusive, independent
from serving.contract.clip import ScoringSpec


@dataclass(frozen=True)
class ImageScores:
    """The answer for one image.

    Attributes
    ----------
    order
        ``(N,) int64``, positions of the labels that are answered, best first.
    probabilities, similarities
        ``(N,) float32``, of each of these.
    best
        Position of the label that the image shows; None where none is likely enough, or the null prompt is likelier.
    none_of_these
        Probability that no label holds, where it was asked for.
    embedding
        ``(D,) float32``, where it was asked for.
    """

    order: npt.NDArray[np.int64]
    probabilities: Row
    similarities: Row
    best: int | None
    none_of_these: float | None
    embedding: Row | None


@dataclass(frozen=True)
class Classified:
    """The answer to one request.

    Attributes
    ----------
    labels
        All that were asked.
    marks_s
        Times before, between and after the stages of `serving.monitoring.metrics.CLIP_STAGES`, on `time.perf_counter`'s clock.
    """

    labels: Sequence[str]
    images: Sequence[ImageScores]
    marks_s: tuple[float, ...]


def is_independent(request: ClassifyRequest, scoring: ScoringSpec) -> bool:
    """Whether labels hold or not independently of each other; without a word from the caller, as the model was trained."""
    return scoring.kind == "sigmoid" if request.multi_label is None else request.multi_label


def needs_null(request: ClassifyRequest, scoring: ScoringSpec) -> bool:
    """Whether a null prompt is embedded, too: to take its share, or in place of the bias that a model trained with a softmax has not."""
    if is_independent(request, scoring):
        return scoring.logit_bias is None
    return request.none_of_these is not False


def score(
    request: ClassifyRequest, scoring: ScoringSpec, embeddings: Matrix, labels: Matrix | None, null: Matrix | None
) -> list[ImageScores]:
    """Score images.

    Parameters
    ----------
    embeddings
        ``(B, D) float32``, of images.
    labels
        ``(K, D) float32``; None where no labels were asked.
    null
        ``(1, D) float32``, of the null prompt where `needs_null`.
    """
    kept = embeddings if request.embeddings else [None] * len(embeddings)
    if labels is None:
        nothing, no_order = np.zeros(0, np.float32), np.zeros(0, np.int64)
        return [ImageScores(no_order, nothing, nothing, None, None, embedding) for embedding in kept]
    similarities = embeddings @ labels.T
    to_null = None if null is None else (embeddings @ null.T)[:, 0]
    none: Row | None = None
    if is_independent(request, scoring):
        probabilities = independent(similarities, scoring.logit_scale, scoring.logit_bias, to_null)
        if request.none_of_these is not False:
            none = 1 - probabilities.max(axis=1)
    else:
        probabilities, none = exclusive(similarities, scoring.logit_scale, to_null)
    found = []
    for row, embedding in enumerate(kept):
        order = best_labels(probabilities[row], request.top_k, request.threshold)
        chances = probabilities[row][order]
        likely = len(order) > 0 and (none is None or chances[0] > none[row])
        found.append(
            ImageScores(
                order,
                chances,
                similarities[row][order],
                int(order[0]) if likely else None,
                None if none is None else float(none[row]),
                embedding,
            )
        )
    return found
