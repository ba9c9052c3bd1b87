"""Apache Arrow IPC streams: one record batch of one row in, a ranking out. Knows no model.

A stream is untrusted bytes. Before pyarrow makes arrays of it, everything that lets few bytes cost much is refused:
compressed buffers, buffers that overlap, dictionaries, views, deep or wide schemas. Then the arrays are validated in full.

References
----------
Arrow columnar format, "Serialization and Interprocess Communication"; ``format/Message.fbs`` and ``format/Schema.fbs``
have the tables whose slots are numbered here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.contract.errors import InvalidRequest, MalformedRequest, Violation
from serving.protocol.answers import Model

MAX_DEPTH = 4
"""``candidates`` → its structure → a list field → its values; a request has nothing deeper."""

MAX_FIELDS = 2048
"""A specification has at most 1000 fields, each with a child when it is a list; the rest is the request's own columns."""

MAX_METADATA = 2**19
"""Bytes of one message's description: `MAX_FIELDS` fields with names of 63 characters take about 400 kB."""

MAX_REASON_SHOWN = 160

_CONTINUATION = 0xFFFFFFFF
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_METADATA_V5 = 4  # the only version since Arrow 1.0; version 4 could compress in a second, experimental way
_TYPES = {1: "null", 2: "int", 3: "float", 5: "utf8", 6: "bool", 12: "list", 13: "struct", 20: "large_utf8", 21: "large_list"}
"""Members of the union ``Type`` that JSON has too. Views are not among them: many can show the same bytes."""

_FAILURES = (pa.ArrowException, OSError, EOFError, ValueError, TypeError, LookupError, MemoryError, struct.error)
"""What pyarrow raises on a damaged stream; `struct.error` is the reader's below."""


def read_batch(body: bytes) -> pa.RecordBatch:
    """Read one IPC stream of one record batch of one row.

    Parameters
    ----------
    body
        The whole stream, already bounded in bytes.

    Raises
    ------
    MalformedRequest
        The bytes are not such a stream, are damaged, compressed or dictionary-encoded.
    InvalidRequest
        The batch does not have exactly one row, or a column has a type that no field can have.
    """
    try:
        schema_end = _description_end(body, 0)
        schema = _read_schema(body[:schema_end])
        if _is_end(body, schema_end):
            raise MalformedRequest("the Arrow stream has no record batch; send one batch with one row")
        description_end = _description_end(body, schema_end)
        message = pa.ipc.read_message(pa.py_buffer(memoryview(body)[schema_end:]))
        size = message.body.size if message.body is not None else 0
        _require_plain(message, size)
        if not _is_end(body, description_end + size):
            raise MalformedRequest("the Arrow stream has more than one record batch, or bytes after its end; send one batch with one row")
        batch = pa.ipc.read_record_batch(message, schema)
        if batch.num_rows != 1:
            raise InvalidRequest(f"the Arrow batch has {batch.num_rows} rows; a request is one row, its candidates are a list column")
        batch.validate(full=True)
    except _FAILURES as error:
        raise _malformed(error) from error
    return batch


def _malformed(error: Exception) -> MalformedRequest:
    return MalformedRequest(f"the body is not a valid Arrow IPC stream: {_printable(str(error) or type(error).__name__)}")


def _printable(text: str) -> str:
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= MAX_REASON_SHOWN else text[: MAX_REASON_SHOWN - 1] + "…"


def _description_end(body: bytes, start: int) -> int:
    """Where the metadata of the message at `start` ends; its buffers follow."""
    marker, length = struct.unpack_from("<Ii", body, start)
    if marker != _CONTINUATION or length < 0 or length % 8:  # so that all that follows is aligned
        raise MalformedRequest(f"the body is not an Arrow IPC stream: no message begins at byte {start}")
    if length > MAX_METADATA:
        raise MalformedRequest(f"a message of the Arrow stream has {length} bytes of metadata, the limit is {MAX_METADATA}")
    return int(start + 8 + length)


def _is_end(body: bytes, position: int) -> bool:
    """Whether the stream ends at `position`, with its mark or without."""
    return len(body) - position in (0, len(_END_OF_STREAM)) and body[position:] in (b"", _END_OF_STREAM)


@lru_cache(maxsize=16)  # callers send one schema again and again; at most 16 × `MAX_METADATA` bytes are kept
def _read_schema(message_bytes: bytes) -> pa.Schema:
    message = pa.ipc.read_message(message_bytes)  # verifies the flatbuffer
    if message.type != "schema":
        raise MalformedRequest(f"the Arrow stream begins with a {message.type} message; it must begin with its schema")
    tables = _Tables(message.metadata.to_pybytes())
    header = tables.message_header()
    if tables.integer("<h", header, 0, 0) != 0:
        raise MalformedRequest("the Arrow stream is big-endian; send little-endian")
    if b"ARROW:extension" in tables.data:
        raise MalformedRequest("the Arrow stream has extension types; send the columns as their plain storage types")
    _bound_fields(tables, header)
    return pa.ipc.read_schema(message)


def _bound_fields(tables: _Tables, schema: int) -> None:
    """Count fields and their depth before pyarrow builds them: the offsets of a flatbuffer may share, so few bytes can be many."""
    waiting = [("$", 1, field) for field in tables.vector(schema, 1)]
    seen = 0
    while waiting:
        parent, depth, field = waiting.pop()
        seen += 1
        path = f"{parent}.{tables.text(field, 0)}"
        if seen + len(waiting) > MAX_FIELDS or depth > MAX_DEPTH:
            raise MalformedRequest(f"the Arrow schema has over {MAX_FIELDS} fields, or one over {MAX_DEPTH} deep at {_printable(path)}")
        if tables.slot(field, 4):
            raise MalformedRequest(f"{_printable(path)} is dictionary-encoded; send plain values, dictionaries are not read")
        if tables.integer("<B", field, 2, 0) not in _TYPES:
            rule = f"a type that no field can have; the types read are {', '.join(_TYPES.values())}"
            raise InvalidRequest(f"{_printable(path)}: {rule}", [Violation(_printable(path), rule)])
        waiting.extend((path, depth + 1, child) for child in tables.vector(field, 5))


def _require_plain(message: Any, size: int) -> None:
    """Refuse what is not a record batch of uncompressed, separate buffers; nothing of the body has been looked at yet."""
    if message.type != "record batch":
        raise MalformedRequest(f"the Arrow stream has a {message.type} message where its record batch must be; dictionaries are not read")
    tables = _Tables(message.metadata.to_pybytes())
    header = tables.message_header()
    if tables.slot(header, 3):
        raise MalformedRequest("the buffers of the Arrow stream are compressed; send them uncompressed (IpcWriteOptions compression=None)")
    lengths = tables.buffer_lengths(header, 2)
    if lengths and (min(lengths) < 0 or sum(lengths) > size):
        raise MalformedRequest(f"the buffers of the Arrow stream overlap: {sum(lengths)} bytes are described, the message has {size}")


class _Tables:
    """As much of a flatbuffer reader as the checks need, over metadata that pyarrow has verified.

    A table's first four bytes are the distance back to its vtable: two sizes, then one 16-bit offset a slot, 0 where
    the slot has its default. Offsets to tables, vectors and text count from where they are written.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def message_header(self) -> int:
        """Position of the schema or record batch in a ``Message``, whose version is checked."""
        root = self._read("<I", 0)
        if self.integer("<h", root, 0, 0) != _METADATA_V5:
            raise MalformedRequest("the Arrow stream has a metadata version other than V5; write it with Arrow 1.0 or newer")
        return self._follow(self.slot(root, 2))

    def slot(self, table: int, number: int) -> int:
        """Position of a slot's content, 0 where it is left out."""
        vtable = table - self._read("<i", table)
        at = 4 + 2 * number
        offset = self._read("<H", vtable + at) if at < self._read("<H", vtable) else 0
        return table + offset if offset else 0

    def integer(self, form: str, table: int, number: int, default: int) -> int:
        """A scalar slot."""
        at = self.slot(table, number)
        return self._read(form, at) if at else default

    def text(self, table: int, number: int) -> str:
        """A string slot; raises `UnicodeDecodeError`."""
        at = self.slot(table, number)
        if not at:
            return ""
        start = self._follow(at)
        return self.data[start + 4 : start + 4 + self._read("<I", start)].decode()

    def vector(self, table: int, number: int) -> Iterator[int]:
        """Positions of a vector's tables; raises `MalformedRequest` at once where it is too long."""
        at = self.slot(table, number)
        start = self._follow(at) if at else 0
        count = self._read("<I", start) if at else 0
        if count > MAX_FIELDS:
            raise MalformedRequest(f"the Arrow schema has {count} fields side by side, the limit is {MAX_FIELDS}")
        return (self._follow(start + 4 + 4 * i) for i in range(count))

    def buffer_lengths(self, table: int, number: int) -> tuple[int, ...]:
        """Second members of a vector of ``Buffer`` structures, each an offset and a length of 64 bits."""
        at = self.slot(table, number)
        start = self._follow(at) if at else 0
        count = self._read("<I", start) if at else 0
        return struct.unpack_from(f"<{2 * count}q", self.data, start + 4)[1::2] if count else ()

    def _follow(self, at: int) -> int:
        return at + self._read("<I", at)

    def _read(self, form: str, at: int) -> int:
        if at < 0:  # `struct` would count from the end
            raise MalformedRequest("the metadata of the Arrow stream points outside itself")
        return int(struct.unpack_from(form, self.data, at)[0])


_PROBABILITY = pa.field("probability", pa.float32(), nullable=False)
_TEXT, _INTEGER = pa.string(), pa.int64()


def rank_answer_arrow(
    model: Model, request_id: str, ids: Sequence[str | int] | npt.NDArray[Any], probabilities: npt.NDArray[np.float32]
) -> bytes:
    """Encode an answer as one IPC stream.

    Parameters
    ----------
    request_id
        Not written: the header ``x-request-id`` has it, and a schema that never changes is encoded once.
    ids
        Candidate ids, best first.
    probabilities
        ``(K,) float32`` in the same order.

    Returns
    -------
    bytes
        One batch of ``id`` (int64 if every id is an integer, else string) and ``probability`` (float32); the schema's
        metadata has ``model`` and ``version``.
    """
    column = _id_column(ids)
    values = np.ascontiguousarray(probabilities, np.float32)
    scores = pa.Array.from_buffers(_PROBABILITY.type, len(values), [None, pa.py_buffer(values)])
    schema, head = _answer_schema(model.name, model.version, column.type)
    batch = pa.RecordBatch.from_arrays([column, scores], schema=schema)
    return b"".join((head, batch.serialize(), _END_OF_STREAM))


@lru_cache(maxsize=64)
def _answer_schema(model: str, version: str, id_type: Any) -> tuple[Any, bytes]:
    """Schema and its message, of which a service has two a model."""
    schema = pa.schema([pa.field("id", id_type, nullable=False), _PROBABILITY], {"model": model, "version": version})
    return schema, schema.serialize().to_pybytes()


def _id_column(ids: Sequence[str | int] | npt.NDArray[Any]) -> Any:
    """The type is tried by the first id, so that a pass over all of them is only made where they are mixed."""
    try:
        return pa.array(ids, _INTEGER if len(ids) and isinstance(ids[0], int | np.integer) else _TEXT)
    except (pa.ArrowException, TypeError, ValueError):
        return pa.array([str(one) for one in ids], _TEXT)
