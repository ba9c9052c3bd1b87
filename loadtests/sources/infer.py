"""The graph's own tensors by the Open Inference Protocol v2: ``POST /v2/models/NAME/infer``, what clients of Triton and KServe send.

Letters: ``N`` candidates, ``V`` values of a list field.

References
----------
KServe, "Open Inference Protocol (V2)"; Triton Inference Server, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from loadtests.calls import Call
from loadtests.sources.envelope import Envelope
from loadtests.sources.refusals import refusal_kind
from loadtests.sources.rows import Rows
from serving.contract.errors import SettingsError
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, PROBABILITY, CategoricalField, FeatureSpec, NumericField, Part

HEADER_LENGTH = "Inference-Header-Content-Length"
"""How many bytes of a body are JSON; tensors follow. In lower case where an answer's is looked up."""

UNUSABLE = "answer without usable probabilities"


class _Output(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: list[int]
    data: list[float] = []


class _Answer(msgspec.Struct, gc=False):
    outputs: list[_Output]


_answers = msgspec.json.Decoder(_Answer)


def infer_path(model: str) -> str:
    """Where a model of this name is asked."""
    return f"/v2/models/{model}/infer"


def infer_call(spec: FeatureSpec, rows: Rows, envelope: Envelope) -> Call:
    """Write rows as tensors in bytes behind their JSON. ``top_k`` has no place in the protocol: all probabilities are answered.

    Raises
    ------
    SettingsError
        A recorded value has not the type of its field.
    """
    inputs: list[dict[str, Any]] = []
    contents: list[bytes] = []
    per_part: dict[Part, Sequence[Mapping[str, Any]]] = {"user": [rows.user], "context": [rows.context], "candidate": rows.candidates}
    for field in spec.fields:
        values = [row.get(field.name) for row in per_part[field.part]]
        try:
            datatype, shape, content = _tensor(field, values)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise SettingsError(f"a request cannot be written as tensors of the model {spec.name!r}: {field.name}: {error}") from error
        inputs.append({"name": field.name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}})
        contents.append(content)
    outputs = [{"name": PROBABILITY, "parameters": {"binary_data": True}}]
    head = msgspec.json.encode({"inputs": inputs, "outputs": outputs})
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return envelope.call(b"".join((head, *contents)), len(rows.candidates), _Check(len(rows.candidates)), headers)


@dataclass(frozen=True, slots=True)
class _Check:
    """All probabilities are looked at every time (some microseconds), what is said of them when an answer is checked in full."""

    candidates: int

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes, *, in_full: bool) -> str | None:
        if status != 200:
            return refusal_kind(status, body)
        length = headers.get(HEADER_LENGTH.lower(), "")
        if not length.isdigit() or len(body) != int(length) + 4 * self.candidates:
            return UNUSABLE
        values = np.frombuffer(body, "<f4", offset=int(length))
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            return UNUSABLE
        return self._mismatch(body[: int(length)]) if in_full else None

    def _mismatch(self, head: bytes) -> str | None:
        try:
            (output,) = _answers.decode(head).outputs
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            return UNUSABLE
        if (output.name, output.datatype, output.shape) != (PROBABILITY, "FP32", [self.candidates]):
            return "answer with a tensor that was not asked for"
        return None


def _tensor(field: CategoricalField | NumericField, values: Sequence[Any]) -> tuple[str, list[int], bytes]:
    """Datatype, shape and bytes of one input; "no value" is as in the graph."""
    if isinstance(field, NumericField):
        return "FP32", [len(values)], np.array([math.nan if value is None else value for value in values], "<f4").tobytes()
    missing: str | int = MISSING_STRING if field.dtype == "string" else MISSING_INTEGER
    flat: list[Any] = [missing if value is None else value for value in values]
    shape = [len(values)]
    if field.is_list:
        width = max(1, *(len(value or ()) for value in values))
        shape, flat = [len(values), width], []
        for value in values:
            flat += [*(value or ()), *[missing] * (width - len(value or ()))]
    if field.dtype == "int64":
        return "INT64", shape, np.array(flat, "<i8").tobytes()
    encoded = [str.encode(text) for text in flat]
    return "BYTES", shape, b"".join(struct.pack("<I", len(text)) + text for text in encoded)
