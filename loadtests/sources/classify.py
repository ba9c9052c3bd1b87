"""Images to classify: ``POST /v1/classify`` in its three forms, and what makes an answer a success.

Letters: ``K`` labels of a request.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec

from loadtests.calls import Call
from loadtests.sources.envelope import Envelope
from loadtests.sources.pool import Source
from loadtests.sources.refusals import refusal_kind

CLASSIFY_PATH = "/v1/classify"

Form = Literal["multipart", "base64", "image"]
"""``multipart/form-data``, images in base64 within JSON, or one file as the body with its options in the query."""

UNUSABLE = "answer without usable labels"

SUM_TOLERANCE = 1e-5
"""How far from 1 probabilities that share it may sum: each is a float32, rounded by at most 6e-8 of itself."""

NEW_LABEL = "new-label-that-stands-here-until-it-is-sent"
"""In place of a label that is made when the call is asked for."""

_BOUNDARY = "pilotage-loadtest-5f1d7c0b9a3e"
"""In no picture: 30 characters that a JPEG or PNG would have to hit by chance."""


@dataclass(frozen=True)
class Picture:
    """An image file; `media` is ``image/jpeg`` or ``image/png``."""

    data: bytes
    media: str


@dataclass(frozen=True)
class Question:
    """What is asked of the images of a request.

    Attributes
    ----------
    labels
        ``K`` labels; those of the set where `label_set` names one.
    label_set
        Sent in place of the labels.
    top_k
        Most labels in the answer; None asks for all.
    templates, multi_label
        As the service takes them; None leaves them to the model.
    shares
        Whether the labels share one probability, so that all of them sum to 1.
    """

    labels: tuple[str, ...]
    label_set: str | None
    top_k: int | None
    templates: str | None
    multi_label: bool | None
    shares: bool

    def options(self) -> dict[str, Any]:
        """Fields beside the images, as JSON has them."""
        labels = {"labels": self.labels} if self.label_set is None else {"label_set": self.label_set}
        others = {"top_k": self.top_k, "templates": self.templates, "multi_label": self.multi_label}
        return {**labels, **{name: value for name, value in others.items() if value is not None}}


def classify_call(pictures: Sequence[Picture], question: Question, form: Form, envelope: Envelope) -> Call:
    """Write one request; the form ``image`` takes one picture."""
    check = ClassifyCheck(len(pictures), frozenset(question.labels), question.top_k, question.shares)
    if form == "multipart":
        headers, body, query = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}, _multipart(pictures, question), ""
    elif form == "base64":
        images = [base64.b64encode(picture.data).decode() for picture in pictures]
        headers, body, query = {"Content-Type": "application/json"}, msgspec.json.encode({"images": images, **question.options()}), ""
    else:
        (picture,) = pictures
        headers, body, query = {"Content-Type": picture.media}, picture.data, "?" + _query(question)
    return envelope.call(body, len(pictures), check, {**headers, "Accept": "application/json"}, query=query)


def _multipart(pictures: Sequence[Picture], question: Question) -> bytes:
    line = f"\r\n--{_BOUNDARY}".encode()
    disposition = b'\r\nContent-Disposition: form-data; name="'
    parts = [line, disposition, b'request"\r\nContent-Type: application/json\r\n\r\n', msgspec.json.encode(question.options())]
    for number, picture in enumerate(pictures):
        ending = picture.media.partition("/")[2]
        head = f'image"; filename="photo-{number}.{ending}"\r\nContent-Type: {picture.media}\r\n\r\n'
        parts += [line, disposition, head.encode(), picture.data]
    return b"".join((*parts, line, b"--\r\n"))[2:]


def _query(question: Question) -> str:
    fields: list[tuple[str, str]] = []
    for name, value in question.options().items():
        if name == "labels":
            fields += [("label", label) for label in value]
        else:
            fields.append((name, str(value).lower() if isinstance(value, bool) else str(value)))
    return urlencode(fields)


class NewLabels(Source):
    """Prepared calls that each get a label which was never asked before, in place of `NEW_LABEL`.

    Parameters
    ----------
    calls
        Of `classify_call`, with `NEW_LABEL` among their labels.
    salt
        Letters and digits that make the labels of this run new to a service that has seen those of another.
    """

    def __init__(self, calls: Sequence[Call], salt: str) -> None:
        super().__init__()
        self._salt = salt
        mark = NEW_LABEL.encode()
        self._parts = [(call, call.body.partition(mark) if mark in call.body else None) for call in calls]
        self.size_bytes = 2 * sum(len(call.body) for call in calls)

    def call(self, index: int) -> Call:
        """Return the call of this number; the body is put together, which costs a copy of it."""
        call, parted = self._parts[index % len(self._parts)]
        label = f"label-{self._salt}-{index}"
        check = call.check
        assert isinstance(check, ClassifyCheck)
        new_check = replace(check, new_label=label)
        if parted is None:
            return replace(call, path=call.path.replace(NEW_LABEL, label), check=new_check)
        return replace(call, body=b"".join((parted[0], label.encode(), parted[2])), check=new_check)


class _Labelled(msgspec.Struct, gc=False):
    label: str
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Outline(msgspec.Struct, gc=False):
    best: str | None


class _Image(msgspec.Struct, gc=False):
    labels: list[_Labelled]


class _OutlineAnswer(msgspec.Struct, gc=False):
    images: list[_Outline]


class _Answer(msgspec.Struct, gc=False):
    images: list[_Image]


_outlines = msgspec.json.Decoder(_OutlineAnswer)
_answers = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class ClassifyCheck:
    """Each answer must have an image for each that was sent; one that is checked in full has its labels looked at as well.

    Attributes
    ----------
    images
        How many were sent.
    labels, top_k, shares
        As in `Question`.
    new_label
        What was sent in place of `NEW_LABEL`.
    """

    images: int
    labels: frozenset[str]
    top_k: int | None
    shares: bool
    new_label: str | None = None

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes, *, in_full: bool) -> str | None:
        """Judge one answer."""
        if status != 200:
            return refusal_kind(status, body)
        try:
            if len(_outlines.decode(body).images) != self.images:
                return "answer with another number of images"
            return next(filter(None, map(self._mismatch, _answers.decode(body).images)), None) if in_full else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return UNUSABLE

    def _mismatch(self, image: _Image) -> str | None:
        asked = self.labels if self.new_label is None else self.labels - {NEW_LABEL} | {self.new_label}
        if len(image.labels) != min(len(asked), self.top_k or len(asked)):
            return "answer with another number of labels"
        if not asked.issuperset(each.label for each in image.labels) or len({each.label for each in image.labels}) < len(image.labels):
            return "answer with labels that were not sent, or one twice"
        if any(after.probability > before.probability for before, after in pairwise(image.labels)):
            return "answer not sorted by probability"
        total = math.fsum(each.probability for each in image.labels)
        is_whole = len(image.labels) == len(asked)
        if self.shares and (total > 1 + SUM_TOLERANCE or (is_whole and total < 1 - SUM_TOLERANCE)):
            return "answer with probabilities that do not sum to 1"
        return None
