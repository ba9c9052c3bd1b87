"""Typed requests to classify, their decoding from JSON, and the rules that types cannot say."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec

from serving.clip.label_rules import MAX_LABEL_LENGTH, refuse, require_labels
from serving.clip.prompts import MAX_TEMPLATE_LENGTH, MAX_TEMPLATES
from serving.features.json_bodies import decode_json, read_value

PRINTABLE = "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$"

MAX_EMBEDDING_LENGTH = 8192

_Label = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_LENGTH, extra_json_schema={"pattern": PRINTABLE})]
_Template = Annotated[str, msgspec.Meta(min_length=2, max_length=MAX_TEMPLATE_LENGTH)]
_Name = Annotated[str, msgspec.Meta(max_length=63)]


class Image(msgspec.Struct, forbid_unknown_fields=True):
    """One image: its file in base64, or its embedding from an earlier answer."""

    base64: str | None = None
    embedding: Annotated[list[float], msgspec.Meta(min_length=1, max_length=MAX_EMBEDDING_LENGTH)] | None = None
    url: str | None = msgspec.field(default=None)


Sent = str | bytes | Image
"""An image as it was sent: its file in base64 or as it is, or an `Image`."""


class ClassifyRequest(Protocol):
    """A decoded request.

    Attributes
    ----------
    labels, label_set
        One of the two; neither where embeddings alone are asked for.
    templates
        A set's name or the caller's own; None leaves it to the label set or the model.
    multi_label
        Whether labels hold independently of each other; None leaves it to the model.
    none_of_these
        Whether no label may hold, or the label that stands for that.
    embeddings
        Whether the images' embeddings are answered as well.
    """

    images: Sequence[Sent]
    labels: Sequence[str] | None
    label_set: str | None
    templates: str | list[str] | None
    multi_label: bool | None
    threshold: float | None
    none_of_these: bool | str
    top_k: int | None
    embeddings: bool


class LabelSetBody(Protocol):
    """A label set, as it is registered."""

    labels: Sequence[str]
    templates: str | list[str] | None


class ClassifyTypes:
    """The structures of requests within the bounds of a service, and their decoders.

    Parameters
    ----------
    max_images, max_labels
        Most in one request.

    Attributes
    ----------
    request, options, label_set
        msgspec types: of a JSON body, of the same without images, and of a label set.
    """

    def __init__(self, max_images: int, max_labels: int) -> None:
        self.max_images = max_images
        self.max_labels = max_labels
        labels = Annotated[list[_Label], msgspec.Meta(min_length=1, max_length=max_labels, extra_json_schema={"uniqueItems": True})]
        templates = str | Annotated[list[_Template], msgspec.Meta(min_length=1, max_length=MAX_TEMPLATES)] | None
        options: list[Any] = [
            ("labels", labels | None, None),
            ("label_set", _Name | None, None),
            ("templates", templates, None),
            ("multi_label", bool | None, None),
            ("threshold", Annotated[float, msgspec.Meta(ge=0, le=1)] | None, None),
            ("none_of_these", bool | _Label, False),
            ("top_k", Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None, None),
            ("embeddings", bool, False),
        ]
        images = Annotated[list[str | Image], msgspec.Meta(min_length=1, max_length=max_images)]
        make: dict[str, Any] = {"forbid_unknown_fields": True, "kw_only": True}
        self.request: type = msgspec.defstruct("ClassifyRequest", [("images", images), *options], **make)
        self.options: type = msgspec.defstruct("ClassifyOptions", options, **make)
        self.label_set: type = msgspec.defstruct("LabelSetBody", [("labels", labels), ("templates", templates, None)], **make)
        self._request = msgspec.json.Decoder(self.request)
        self._options = msgspec.json.Decoder(self.options)
        self._label_set = msgspec.json.Decoder(self.label_set)

    def decode(self, body: bytes) -> ClassifyRequest:
        """Decode a JSON body with images; raises `MalformedRequest`, `InvalidRequest`."""
        request: ClassifyRequest = decode_json(self._request, body)
        return self._checked(request)

    def decode_options(self, body: bytes, images: Sequence[Sent]) -> ClassifyRequest:
        """Decode a JSON document without images, which came beside it; raises `MalformedRequest`, `InvalidRequest`."""
        return self._with_images(decode_json(self._options, body), images)

    def read_options(self, fields: Mapping[str, Sequence[str]], images: Sequence[Sent]) -> ClassifyRequest:
        """Read options from the fields of a form or a query, where all values are texts; raises `InvalidRequest`."""
        document: dict[str, Any] = {}
        for name, values in fields.items():
            if name in ("label", "labels"):
                document.setdefault("labels", []).extend(values)
            elif name in ("template", "templates"):
                document["templates"] = values[0] if name == "templates" and len(values) == 1 else list(values)
            elif len(values) > 1:
                refuse(f"$.{name}", f"expected once, it is given {len(values)} times")
            elif name == "none_of_these":
                document[name] = {"true": True, "false": False}.get(values[0].lower(), values[0])
            else:
                document[name] = values[0]
        return self._with_images(read_value(document, self.options), images)

    def decode_label_set(self, body: bytes) -> LabelSetBody:
        """Decode the body of a label set; raises `MalformedRequest`, `InvalidRequest`."""
        body_: LabelSetBody = decode_json(self._label_set, body)
        require_labels(body_.labels, self.max_labels)
        return body_

    def _with_images(self, options: Any, images: Sequence[Sent]) -> ClassifyRequest:
        if not 1 <= len(images) <= self.max_images:
            refuse("$.images", f"expected 1 to {self.max_images} images, got {len(images)}")
        given = {field: getattr(options, field) for field in options.__struct_fields__}
        return self._checked(self.request(images=images, **given))

    def _checked(self, request: ClassifyRequest) -> ClassifyRequest:
        if request.labels is not None and request.label_set is not None:
            refuse("$.label_set", "labels are given, too; send the one or the other")
        if request.labels is None and request.label_set is None and not request.embeddings:
            refuse("$.labels", "missing: give labels, or the name of a label_set, or ask for embeddings alone")
        if request.labels is not None:
            require_labels(request.labels, self.max_labels)
        if isinstance(request.none_of_these, str):
            require_labels([request.none_of_these], 1, "$.none_of_these")
        return request


def image_files(request: ClassifyRequest, dim: int) -> list[bytes | list[float]]:
    """The images of a request: content of their files, or embeddings of `dim` finite numbers, not all zero; raises `InvalidRequest`."""
    return [_image_file(f"$.images[{index}]", image, dim) for index, image in enumerate(request.images)]


def _image_file(path: str, image: Sent, dim: int) -> bytes | list[float]:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image):
        if image.url is not None:
            refuse(f"{path}.url", "images are not fetched from anywhere; send the file itself, in base64 or as multipart/form-data")
        if (image.base64 is None) == (image.embedding is None):
            refuse(path, "expected one of base64 and embedding")
        if image.embedding is not None:
            if len(image.embedding) != dim:
                refuse(f"{path}.embedding", f"expected the {dim} numbers of an embedding of this model, got {len(image.embedding)}")
            length = math.hypot(*image.embedding)
            if not 1e-6 < length < 1e6:
                refuse(f"{path}.embedding", "expected numbers that have a direction: not all zero, none out of range")
            return image.embedding
        path, text = f"{path}.base64", image.base64
    else:
        text = image
    assert text is not None
    if text.startswith(("http://", "https://")):
        refuse(path, "images are not fetched from anywhere; send the file itself, in base64 or as multipart/form-data")
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        refuse(path, f"not base64: {error}")
