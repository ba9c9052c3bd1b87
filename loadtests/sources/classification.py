"""Calls to a model that classifies: pictures, lists of labels, and labels that are new."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from random import Random

from loadtests.calls import Call
from loadtests.sources.access import Caller
from loadtests.sources.classify import CLASSIFY_PATH, NEW_LABEL, NewLabels, Picture, Question, classify_call
from loadtests.sources.envelope import Envelope
from loadtests.sources.label_sets import label_set, warm
from loadtests.sources.labels import label_list
from loadtests.sources.photographs import encoded, parse_pixels, photograph
from loadtests.sources.pool import Mix, Pool, Source
from loadtests.sources.service import Classifier
from loadtests.sources.sizes import capped, parse_sizes
from loadtests.sources.traffic import ClassifyRequests, Traffic
from loadtests.sources.weights import allot
from loadtests.sources.zipf import Draw, zipf
from serving.contract.errors import SettingsError

DEFAULT_LABELS = 20

NOISE = 8.0
"""Standard deviation of the pictures' noise, in levels of 255: a phone in daylight. Noise is what decoders spend their time on."""

JPEG_QUALITY = 85
PNG_LEVEL = 1
"""Compression is paid by the generator, once; noise hardly gets smaller at a higher level."""

NEW_LABEL_BODIES = 8
"""Bodies that new labels are put into: the labels differ, so the bodies need not."""


def classification_path(entry: ClassifyRequests, model: Classifier) -> str:
    """Where such requests go."""
    return CLASSIFY_PATH if entry.model is None else f"/v1/models/{model.name}/classify"


def classification(
    entry: ClassifyRequests, model: Classifier, envelope: Envelope, traffic: Traffic, callers: Sequence[Caller], seed: int, max_bytes: int
) -> tuple[Source, int, int]:
    """Make the source of one entry, and have its labels embedded by the services of `callers`.

    Returns
    -------
    tuple
        The source, how many bodies it has, and the memory that they take.

    Raises
    ------
    SettingsError
        The labels do not fit the service, or the bodies do not fit into `max_bytes`.
    ServiceError
        The service refuses the labels.
    """
    draw = Random(seed).random  # noqa: S311 - made-up requests, no secret
    questions = _questions(entry, model, callers, draw)
    if entry.warm and entry.label_set is None:
        for caller in callers:
            for question in questions:
                warm(caller, envelope.path, question.labels, entry.templates)
    pictures = tuple(_pictures(entry, seed))
    exponent = traffic.values.zipf_exponent
    pool = Pool(_calls(entry, model, questions, pictures, envelope, entry.bodies, exponent, draw), max_bytes)
    if not entry.new_label_pct:
        return pool, len(pool.calls), pool.size_bytes
    renewed = [_renewed(question, model) for question in questions]
    bodies = min(entry.bodies, NEW_LABEL_BODIES)
    # The parts of a body lie in memory beside it.
    new = Pool(_calls(entry, model, renewed, pictures, envelope, bodies, exponent, draw), (max_bytes - pool.size_bytes) // 2)
    fresh = NewLabels(new.calls, traffic.new_label_salt or secrets.token_hex(4))
    weighted: list[tuple[Source, float]] = [(fresh, entry.new_label_pct), (pool, 100 - entry.new_label_pct)]
    mix = Mix([part for part in weighted if part[1] > 0], seed)
    return mix, len(pool.calls) + bodies, pool.size_bytes + 2 * new.size_bytes


def _questions(entry: ClassifyRequests, model: Classifier, callers: Sequence[Caller], draw: Draw) -> list[Question]:
    lists: list[tuple[str, ...]] = []
    if isinstance(entry.labels, tuple):
        lists = [entry.labels]
    elif entry.labels is not None or entry.label_set is None:
        lists = [label_list(entry.labels or DEFAULT_LABELS, draw) for _ in range(entry.label_lists)]
    longest = max(map(len, lists), default=0)
    if longest > model.max_labels:
        raise SettingsError(f"{entry.name}: {longest} labels, {model.name} takes at most {model.max_labels} in one request")
    if entry.label_set is not None:
        found = [label_set(caller, model, entry.label_set, lists[0] if lists else None) for caller in callers]
        if len(set(found)) > 1:
            raise SettingsError(
                f"{entry.name}: the label set {entry.label_set!r} has not the same labels at {' and '.join(c.host for c in callers)}"
            )
        lists = found[:1]
    shares = not (model.is_multi_label if entry.multi_label is None else entry.multi_label)
    return [Question(labels, entry.label_set, entry.top_k or None, entry.templates, entry.multi_label, shares) for labels in lists]


def _renewed(question: Question, model: Classifier) -> Question:
    """Put a place for a new label into a list: one more, or the last one's where the list is as long as it may be."""
    kept = question.labels[: model.max_labels - 1]
    return Question((*kept, NEW_LABEL), None, question.top_k, question.templates, question.multi_label, question.shares)


def _pictures(entry: ClassifyRequests, seed: int) -> Iterator[Picture]:
    """Draw the pictures, those of one size after those of another, so that a body of several has all sizes."""
    sizes = allot(parse_pixels(entry.pixels), entry.pictures)
    for number, (width, height) in enumerate(sizes):
        pixels = photograph(width, height, noise=NOISE, seed=seed * entry.pictures + number)
        if entry.format == "jpeg":
            yield Picture(encoded(pixels, "JPEG", quality=JPEG_QUALITY), "image/jpeg")
        else:
            yield Picture(encoded(pixels, "PNG", compress_level=PNG_LEVEL), "image/png")


def _calls(
    entry: ClassifyRequests,
    model: Classifier,
    questions: Sequence[Question],
    pictures: Sequence[Picture],
    envelope: Envelope,
    bodies: int,
    exponent: float,
    draw: Draw,
) -> Iterator[Call]:
    """Put pictures and questions together: every picture as often as any other, the first questions most often."""
    counts = allot(capped(parse_sizes(entry.images, what="images"), model.max_images), bodies)
    order = cycle(picture for _, picture in sorted((draw(), number) for number in range(len(pictures))))
    for _, count in sorted((draw(), count) for count in counts):
        shown = [pictures[number] for number in islice(order, count)]
        yield classify_call(shown, questions[zipf(len(questions), exponent, draw) - 1], entry.form, envelope)
