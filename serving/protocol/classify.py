"""JSON answers of classification and of label sets. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from serving.protocol.answers import Model, encode


class Labelled(msgspec.Struct, frozen=True, gc=False):
    """One label of an answer.

    Attributes
    ----------
    similarity
        Cosine of the image's and the label's embedding, which can be compared across requests.
    """

    label: str
    probability: float
    similarity: float


class ImageAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one image shows: labels by falling probability.

    Attributes
    ----------
    best
        The label that it shows, null where none is likely enough.
    none_of_these
        Probability that none of the labels holds, where it was asked for.
    embedding
        The image's embedding, where it was asked for.
    """

    best: str | None
    labels: list[Labelled]
    none_of_these: float | None = None
    embedding: list[float] | None = None


class ClassifyAnswer(msgspec.Struct, frozen=True):
    """Answer of ``POST /v1/classify``: the images in the order of the request."""

    model: Model
    request_id: str
    images: list[ImageAnswer]


class Readiness(msgspec.Struct, frozen=True):
    """How far one model is with the labels of a set."""

    name: str
    version: str
    embedded: int
    ready: bool


class LabelSetSummary(msgspec.Struct, frozen=True):
    """A label set without its labels; ``templates`` is null where the model that is asked chooses them."""

    name: str
    count: int
    templates: str | list[str] | None
    registered_at: str
    models: list[Readiness]


class LabelSetAnswer(msgspec.Struct, frozen=True):
    """A label set with its labels."""

    name: str
    count: int
    templates: str | list[str] | None
    registered_at: str
    models: list[Readiness]
    labels: list[str]


class LabelSetList(msgspec.Struct, frozen=True):
    """Answer of ``GET /v1/label-sets``."""

    label_sets: list[LabelSetSummary]


def image_answer(
    labels: Sequence[str],
    order: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    similarities: npt.NDArray[np.float32],
    *,
    best: int | None,
    none_of_these: float | None,
    embedding: npt.NDArray[np.float32] | None,
) -> ImageAnswer:
    """Write one image's part of an answer: positions in `labels`, best first, and their numbers, ``(N,)`` each."""
    found = map(Labelled, [labels[place] for place in order.tolist()], probabilities.tolist(), similarities.tolist())
    return ImageAnswer(
        None if best is None else labels[best], list(found), none_of_these, None if embedding is None else embedding.tolist()
    )


def classify_answer(model: Model, request_id: str, images: list[ImageAnswer]) -> bytes:
    """Encode an answer."""
    return encode(ClassifyAnswer(model, request_id, images))
