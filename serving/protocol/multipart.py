"""Bodies of ``multipart/form-data`` (RFC 7578), taken apart. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.contract.errors import MalformedRequest


@dataclass
class Part:
    """One part.

    Attributes
    ----------
    name
        Of the form's field.
    filename
        None where the part is no file.
    media
        Content type without parameters, in lower case; empty when it is not said.
    """

    name: str = ""
    filename: str | None = None
    media: str = ""
    content: bytes = b""
    _chunks: list[bytes] = field(default_factory=list, repr=False)


def read_parts(content_type: bytes, body: bytes, max_parts: int) -> list[Part]:
    """Take a body apart.

    Parameters
    ----------
    content_type
        Of the request, with its boundary.

    Raises
    ------
    MalformedRequest
        The body is damaged or cut off, has a part without a name, or more than `max_parts`.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise MalformedRequest("content-type multipart/form-data has no boundary of 1 to 70 characters")
    reader = _Reader(max_parts)
    parser = MultipartParser(boundary, reader.callbacks)
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedRequest(f"the body is not valid multipart/form-data: {error}") from error
    if not reader.ended:
        raise MalformedRequest("the body of multipart/form-data is cut off: its last boundary is missing")
    return reader.parts


class _Reader:
    """Gathers what the parser finds."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._max_parts = max_parts
        self._name = self._value = b""
        callbacks: dict[str, Callable[..., Any]] = {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header,
            "on_end": self._finish,
        }
        self.callbacks: Any = callbacks

    def _begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise MalformedRequest(f"the body has over {self._max_parts} parts")
        self.parts.append(Part())

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1]._chunks.append(data[start:end])

    def _end(self) -> None:
        part = self.parts[-1]
        if not part.name:
            raise MalformedRequest(f"part {len(self.parts)} of the body has no name")
        part.content = b"".join(part._chunks)
        part._chunks.clear()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        name, value, part = self._name.lower(), self._value, self.parts[-1]
        self._name = self._value = b""
        if name == b"content-disposition":
            _, options = parse_options_header(value)
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            if (filename := options.get(b"filename")) is not None:
                part.filename = filename.decode("utf-8", "replace")
        elif name == b"content-type":
            part.media = value.partition(b";")[0].strip().lower().decode("latin-1")

    def _finish(self) -> None:
        self.ended = True
