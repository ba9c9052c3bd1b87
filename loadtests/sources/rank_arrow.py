"""Ranking requests as Arrow IPC streams: ``POST /v1/rank`` with columns in place of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from loadtests.calls import Call
from loadtests.sources.answers import mismatch
from loadtests.sources.envelope import Envelope
from loadtests.sources.payloads import Body, body_of
from loadtests.sources.refusals import refusal_kind
from loadtests.sources.rows import Rows
from serving.contract.errors import SettingsError
from serving.contract.fields import CategoricalField, FeatureSpec, NumericField, Part

ARROW = "application/vnd.apache.arrow.stream"
HEADERS = {"Content-Type": ARROW, "Accept": ARROW}
UNUSABLE = "answer without a usable Arrow stream"

_CONTINUATION = b"\xff\xff\xff\xff"
_FAILURES = (pa.ArrowException, OSError, EOFError, ValueError, TypeError, LookupError)
"""What pyarrow raises on damaged streams, and on columns that are not there."""


def arrow_call(spec: FeatureSpec, rows: Rows, envelope: Envelope) -> Call:
    """Write rows as one record batch of one row; the answer is asked for as Arrow, too.

    Raises
    ------
    SettingsError
        A recorded value has not the type of its field.
    """
    id_type = None if any(field.name == "id" for field in spec.categorical) else _id_type(rows)
    columns: dict[str, Any] = {}
    try:
        parts: dict[Part, Mapping[str, Any]] = {"user": rows.user, "context": rows.context}
        for part, row in parts.items():
            if spec.of_part(part):
                columns[part] = pa.array([row], _struct(spec, part, None))
        candidates = pa.array(rows.candidates, _struct(spec, "candidate", id_type))
        columns["candidates"] = pa.ListArray.from_arrays(pa.array([0, len(candidates)], pa.int32()), candidates)
        if rows.top_k is not None:
            columns["top_k"] = pa.array([rows.top_k], pa.int64())
    except _FAILURES as error:
        raise SettingsError(f"a request cannot be written as Arrow columns of the model {spec.name!r}: {error}") from error
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body = body_of(rows, sink.getvalue().to_pybytes())
    return envelope.call(body.data, body.candidates, _Check(body), HEADERS)


@dataclass(frozen=True, slots=True)
class _Check:
    """An answer is looked at as a stream, and read when it is checked in full."""

    sent: Body

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes, *, in_full: bool) -> str | None:
        if status != 200:
            return refusal_kind(status, body)
        if headers.get("content-type") != ARROW or not body.startswith(_CONTINUATION):
            return UNUSABLE
        return self._mismatch(body) if in_full else None

    def _mismatch(self, body: bytes) -> str | None:
        try:
            with pa.ipc.open_stream(body) as reader:
                table = reader.read_all()
            ids, probabilities = table.column("id").to_pylist(), table.column("probability").to_numpy()
        except _FAILURES:
            return UNUSABLE
        if not len(ids) or not (probabilities.min() >= 0 and probabilities.max() <= 1):
            return UNUSABLE
        return mismatch(ids, np.asarray(probabilities).tolist(), self.sent)


def _struct(spec: FeatureSpec, part: Part, id_type: Any) -> Any:
    fields = [(field.name, _type(field)) for field in spec.of_part(part)]
    return pa.struct(fields if id_type is None else [*fields, ("id", id_type)])


def _type(field: CategoricalField | NumericField) -> Any:
    if isinstance(field, NumericField):
        return pa.float32()
    value = pa.string() if field.dtype == "string" else pa.int64()
    return pa.list_(value) if field.is_list else value


def _id_type(rows: Rows) -> Any:
    return pa.int64() if all(isinstance(candidate["id"], int) for candidate in rows.candidates) else pa.string()
