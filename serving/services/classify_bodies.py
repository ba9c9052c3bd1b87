"""The forms of a body with images: JSON, ``multipart/form-data``, or one image file as it is."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

from serving.clip.label_rules import refuse
from serving.clip.requests import ClassifyRequest, ClassifyTypes, Sent
from serving.contract.errors import MalformedRequest, UnsupportedMedia
from serving.protocol.media import JSON, media_type
from serving.protocol.multipart import read_parts
from serving.services.exchange import Headers

MULTIPART = "multipart/form-data"

IMAGES = "image/*"
"""Any image file; what it truly is, its content says."""

OPTION_FIELDS = 32
"""Parts or query fields beside images and labels."""

IMAGE_PARTS = ("image", "images")
REQUEST_PART = "request"

Decode = Callable[[bytes], ClassifyRequest]


def decoder_of(headers: Headers, query: bytes, types: ClassifyTypes) -> Decode:
    """Choose how a body is decoded, by its content type; none means JSON.

    Raises
    ------
    UnsupportedMedia
        Another content type.
    InvalidRequest
        Options in the query of a body that has room for them: they would be overlooked.
    """
    value = headers.get(b"content-type", JSON.encode())
    media = media_type(value)
    if media.startswith("image/"):
        return lambda body: types.read_options(_query(query, types), [body])
    if media not in (JSON, MULTIPART):
        raise UnsupportedMedia(f"content-type {media[:80]!r} is none of {JSON}, {MULTIPART}, {IMAGES}")
    if query:
        name = next(iter(_query(query, types)), "")
        refuse("query", f"options stand in the body of {media}, and in the query only with {IMAGES}; put {name[:80]!r} into the body")
    if media == JSON:
        return types.decode
    return lambda body: _from_parts(value, body, types)


def _from_parts(content_type: bytes, body: bytes, types: ClassifyTypes) -> ClassifyRequest:
    parts = read_parts(content_type, body, types.max_images + types.max_labels + OPTION_FIELDS)
    images: list[Sent] = []
    fields: dict[str, list[str]] = {}
    options: bytes | None = None
    for part in parts:
        if part.name in IMAGE_PARTS:
            images.append(part.content)
        elif part.name == REQUEST_PART:
            if options is not None:
                refuse(REQUEST_PART, "expected one part of this name")
            options = part.content
        else:
            try:
                fields.setdefault(part.name, []).append(part.content.decode())
            except UnicodeDecodeError as error:
                raise MalformedRequest(f"part {part.name[:80]!r} is not valid UTF-8; images come in parts called image") from error
    if options is None:
        return types.read_options(fields, images)
    if fields:
        refuse(REQUEST_PART, f"beside it only images are taken, not the part {next(iter(fields))[:80]!r}; put it into the JSON")
    return types.decode_options(options, images)


def _query(query: bytes, types: ClassifyTypes) -> dict[str, list[str]]:
    try:
        return parse_qs(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=types.max_labels + OPTION_FIELDS, separator="&"
        )
    except ValueError as error:
        raise MalformedRequest(f"the query cannot be read: {error}") from error
