"""A CLIP bundle and labelled pictures → what is optimized: each tower by itself, judged with the other one as it is.

Letters: ``B`` pictures, ``S`` side, ``K`` labels, ``M`` templates, ``D`` embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optimize.data.pictures import Pictures
from optimize.export.files import load_graph
from optimize.passes.base import Feeds
from optimize.search.cache import digest_of
from optimize.search.metrics import Answers, MetricName
from optimize.search.subject import Part, Subject, SubjectError
from serving.clip.images import MOST_PIXELS, ImageReader
from serving.clip.prompts import NAMED, ensemble, templates_of
from serving.clip.tokenize import TextEncoder
from serving.contract.bundle import ClipBundle
from serving.contract.clip import PIXELS
from serving.contract.errors import RequestError
from serving.runtime.session import GraphSession

MAX_FILE_BYTES = 64 * 2**20

MIN_PICTURES = 16
"""Of these an eighth calibrates, and the rest is halved."""

CALIBRATION_SHARE, MAX_CALIBRATION = 8, 128
PICTURES_A_RUN, TEXTS_A_RUN, CALIBRATION_RUN = 32, 64, 8

PICTURE_SIZES, DECISIVE_PICTURES = (1, 8), 1
"""A request has one picture; eight is the most that the service stacks."""

TEXT_SIZES, DECISIVE_TEXTS = (1, 16), 16
"""Labels that were not embedded before come many at a time."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PicturePart:
    """Pictures of one purpose, as the image tower takes them.

    Attributes
    ----------
    pixels
        ``(B, S, S, 3) uint8``.
    label
        ``(B,) int64``.
    """

    pixels: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int64]

    @property
    def feeds(self) -> tuple[Feeds, ...]:
        """Runs over all of them."""
        return chunks({PIXELS: self.pixels}, PICTURES_A_RUN)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation set, read and split.

    Attributes
    ----------
    templates
        Of the texts that labels become.
    image_embeddings
        Of `validation` and of `test`, ``(B, D)``, by the bundle's image tower.
    label_embeddings
        ``(K, D)``, by its text tower.
    """

    pictures: Pictures
    fingerprint: str
    calibration: PicturePart
    validation: PicturePart
    test: PicturePart
    templates: tuple[str, ...]
    texts: Mapping[str, npt.NDArray[Any]]
    image_embeddings: Mapping[str, Floats]
    label_embeddings: Floats


def read_evaluation(bundle: ClipBundle, pictures: Pictures, *, max_pictures: int, seed: int, threads: int) -> Evaluation:
    """Read and split the pictures as the service would see them, and embed them and their labels by the bundle as it is.

    Parameters
    ----------
    max_pictures
        Read at most so many, drawn by `seed`.

    Raises
    ------
    SubjectError
        There are too few, or one cannot be read.
    """
    order = np.random.default_rng(seed).permutation(len(pictures.files))[:max_pictures]
    if len(order) < MIN_PICTURES:
        raise SubjectError(f"{pictures.name} has {len(order)} pictures, {MIN_PICTURES} are needed")
    drawn = pictures.take(order)
    reader = ImageReader(bundle.manifest.clip.image, max_bytes=MAX_FILE_BYTES, max_pixels=MOST_PIXELS)
    pixels = np.stack([_read(reader, drawn, row) for row in range(len(order))])
    calibrating = min(len(order) // CALIBRATION_SHARE, MAX_CALIBRATION)
    half = (len(order) + calibrating) // 2
    calibration, validation, test = (
        PicturePart(pixels[rows], drawn.label[rows])
        for rows in (slice(calibrating), slice(calibrating, half), slice(half, None))
    )  # fmt: skip
    templates = templates_of(None, bundle.manifest.clip.templates).texts
    texts = texts_of(bundle, pictures.labels, templates)
    image, text = (GraphSession(path, threads=threads) for path in (bundle.image_path, bundle.text_path))
    return Evaluation(
        pictures=drawn,
        fingerprint=drawn.fingerprint(),
        calibration=calibration,
        validation=validation,
        test=test,
        templates=templates,
        texts=texts,
        image_embeddings={name: embed(image, part.feeds) for name, part in (("validation", validation), ("test", test))},
        label_embeddings=joined(embed(text, chunks(texts, TEXTS_A_RUN)), len(pictures.labels)),
    )


def image_subject(bundle: ClipBundle, evaluation: Evaluation, metric: MetricName) -> Subject:
    """The image tower: accuracy among the labels as the bundle embeds them, or cosine to its own embeddings."""

    def part(pictures: PicturePart, name: str) -> Part:
        if metric == "cosine":
            return Part(pictures.feeds, None, digest_of(evaluation.fingerprint.encode(), name.encode()))
        known_as = digest_of(evaluation.fingerprint.encode(), name.encode(), evaluation.label_embeddings.tobytes())
        return Part(pictures.feeds, pictures.label, known_as, _compared_with(evaluation.label_embeddings))

    pixels = evaluation.validation.pixels
    timing = {size: {PIXELS: np.resize(pixels, (size, *pixels.shape[1:]))} for size in PICTURE_SIZES}
    return Subject(
        name=f"{bundle.manifest.name}, image tower",
        data=evaluation.pictures.name,
        family="transformer",
        reference=load_graph(bundle.image_path),
        validation=part(evaluation.validation, "validation"),
        test=part(evaluation.test, "test"),
        timing=timing,
        decisive_size=DECISIVE_PICTURES,
        calibration=chunks({PIXELS: evaluation.calibration.pixels}, CALIBRATION_RUN),
        size_unit="pictures",
        signature=bundle.manifest.signatures.image,
    )


def text_subject(bundle: ClipBundle, evaluation: Evaluation, metric: MetricName) -> Subject:
    """The text tower: accuracy on pictures as the bundle embeds them, or cosine to its own embeddings.

    Prompts of other templates than the bundle's calibrate, and judge the cosine last.
    """
    labels = evaluation.pictures.labels
    others = [text for text in NAMED["imagenet80"] if text not in evaluation.templates]
    feeds = chunks(evaluation.texts, TEXTS_A_RUN)
    told = digest_of(*(evaluation.texts[name].tobytes() for name in sorted(evaluation.texts)))

    def part(name: str) -> Part:
        if metric == "cosine":
            chosen = evaluation.texts if name == "validation" else texts_of(bundle, labels, others[1::2][: len(evaluation.templates)])
            return Part(chunks(chosen, TEXTS_A_RUN))
        pictures = evaluation.validation if name == "validation" else evaluation.test
        known = evaluation.image_embeddings[name]

        def head(embeddings: Answers) -> Answers:
            return known @ joined(embeddings.astype(np.float32), len(labels)).T

        known_as = digest_of(evaluation.fingerprint.encode(), name.encode(), told.encode(), known.tobytes())
        return Part(feeds, pictures.label, known_as, head)

    calibrating = texts_of(bundle, labels[: MAX_CALIBRATION // 4], others[::20])
    timing = {size: {key: np.resize(ids, (size, *ids.shape[1:])) for key, ids in evaluation.texts.items()} for size in TEXT_SIZES}
    return Subject(
        name=f"{bundle.manifest.name}, text tower",
        data=evaluation.pictures.name,
        family="transformer",
        reference=load_graph(bundle.text_path),
        validation=part("validation"),
        test=part("test"),
        timing=timing,
        decisive_size=DECISIVE_TEXTS,
        calibration=chunks(calibrating, CALIBRATION_RUN),
        size_unit="texts",
        signature=bundle.manifest.signatures.text,
    )


def texts_of(bundle: ClipBundle, labels: Sequence[str], templates: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Feeds of ``K · M`` texts, the templates of one label together."""
    chosen = templates_of(list(templates), bundle.manifest.clip.templates)
    texts = [text for label in labels for text in chosen.texts_of(label)]
    return TextEncoder(bundle.tokenizer_path, bundle.manifest.clip.text).encode(texts)


def embed(session: GraphSession, feeds: Sequence[Feeds]) -> Floats:
    """Embeddings of all runs."""
    return np.concatenate([session.run(one)[0] for one in feeds])


def joined(embeddings: Floats, labels: int) -> Floats:
    """Embeddings of texts ``(K · M, D)`` → of labels ``(K, D)``."""
    return ensemble(embeddings.reshape(labels, -1, embeddings.shape[-1]))


def chunks(arrays: Mapping[str, npt.NDArray[Any]], rows: int) -> tuple[Feeds, ...]:
    """Runs of at most so many rows."""
    count = len(next(iter(arrays.values())))
    return tuple({name: array[start : start + rows] for name, array in arrays.items()} for start in range(0, count, rows))


def _compared_with(labels: Floats) -> Callable[[Answers], Answers]:
    def head(embeddings: Answers) -> Answers:
        return embeddings @ labels.T

    return head


def _read(reader: ImageReader, pictures: Pictures, row: int) -> npt.NDArray[np.uint8]:
    file = pictures.files[row]
    try:
        return reader.read(file.read_bytes())
    except RequestError as error:
        raise SubjectError(f"{file} cannot be read: {error}") from error
