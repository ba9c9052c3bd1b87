"""Open Inference Protocol v2 over HTTP: named tensors in, named tensors out, as JSON or as bytes behind the JSON. Knows no model.

References
----------
KServe, "Open Inference Protocol (V2)", https://github.com/kserve/open-inference-protocol ; Triton Inference Server, "Binary Tensor
Data Extension" and "Model Configuration Extension", https://github.com/triton-inference-server/server/tree/main/docs/protocol .
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from serving.contract.errors import InvalidRequest, MalformedRequest, Violation
from serving.contract.manifest import DType, Signature, TensorSpec
from serving.protocol.answers import Model, encode

HEADER_LENGTH = b"inference-header-content-length"
"""How many bytes of a body are JSON; tensors follow. A body without it is JSON alone."""

MAX_INPUTS = 2048
"""A specification has at most 1000 fields; ``request_index`` is one more."""

MAX_RANK = 2
MAX_NAME_SHOWN = 80

EXTENSIONS = ("binary_tensor_data", "model_configuration")
PLATFORM = "onnxruntime_onnx"
"""Triton's name for a model that ONNX Runtime runs."""

_BYTES = "BYTES"
_STORED = {
    "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
"""Datatypes of numbers and how they lie in bytes. UINT64 is not among them, since the graph takes 64 bits with a sign."""

_DATATYPE: dict[DType, str] = {"string": _BYTES, "int64": "INT64", "float32": "FP32", "uint8": "UINT8"}
_CONFIG_TYPE: dict[DType, str] = {"string": "TYPE_STRING", "int64": "TYPE_INT64", "float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}

Tensor = npt.NDArray[Any]


class _Input(msgspec.Struct):
    name: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]], msgspec.Meta(min_length=1, max_length=MAX_RANK)]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Document(msgspec.Struct):
    inputs: Annotated[list[_Input], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: Annotated[list[_Output], msgspec.Meta(max_length=MAX_INPUTS)] = []


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request.

    Attributes
    ----------
    id
        The caller's, empty when it gave none.
    inputs
        Name → array of object (strings), int64 or float32, in its shape.
    outputs
        Name → whether it is to be answered in bytes; empty when the caller named none.
    binary
        Whether outputs that were not named are.
    """

    id: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, bool]
    binary: bool


class InferReader:
    """Reads bodies.

    Parameters
    ----------
    max_values
        Most values in one tensor.
    """

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._document = msgspec.json.Decoder(_Document)
        self._strings = _decoders(str, max_values)
        self._integers = _decoders(Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], max_values)
        self._floats = _decoders(float, max_values)

    def read(self, body: bytes, header: bytes | None) -> InferRequest:
        """Read one body.

        Parameters
        ----------
        header
            Value of the header `HEADER_LENGTH`, None without.

        Raises
        ------
        MalformedRequest
            The body is not what the protocol asks for, or its parts do not fit together.
        InvalidRequest
            A tensor has a datatype, a shape or values that no model of ours takes.
        """
        end = len(body) if header is None else _header_length(header, len(body))
        try:
            document = self._document.decode(memoryview(body)[:end])
        except msgspec.ValidationError as error:
            rule, _, path = str(error).rpartition(" - at `")
            _refuse(path.rstrip("`") or "$", rule or str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"the body is not valid JSON: {error}") from error
        inputs: dict[str, Tensor] = {}
        at = end
        for tensor in document.inputs:
            if tensor.name in inputs:
                _refuse(_path(tensor.name), "the name is given to more than one tensor; names must be unique")
            if "shared_memory_region" in tensor.parameters:
                _refuse(_path(tensor.name), "tensors in shared memory are not read; send the values")
            size = tensor.parameters.get("binary_data_size")
            if size is None:
                inputs[tensor.name] = self._from_json(tensor)
                continue
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(body) - at:
                _malformed(tensor, f"binary_data_size is {_shown(size)}, {len(body) - at} bytes are left of the body")
            if tensor.data is not msgspec.UNSET:
                _malformed(tensor, "there are data as well as binary_data_size; send one of them")
            inputs[tensor.name] = self._from_bytes(tensor, body[at : at + size])
            at += size
        if at != len(body):
            raise MalformedRequest(f"the body has {len(body) - at} bytes that belong to no tensor")
        binary = document.parameters.get("binary_data_output") is True
        return InferRequest(document.id, inputs, _outputs(document.outputs, binary), binary)

    def _count(self, tensor: _Input) -> int:
        count = 1
        for axis in tensor.shape:
            count *= axis
        if count > self._max_values:
            _refuse(f"{_path(tensor.name)}.shape", f"Expected at most {self._max_values} values", str(tensor.shape))
        return count

    def _from_json(self, tensor: _Input) -> Tensor:
        count, path = self._count(tensor), _path(tensor.name)
        if tensor.data is msgspec.UNSET:
            _malformed(tensor, "there are neither data nor binary_data_size")
        raw = memoryview(tensor.data)
        nested = len(tensor.shape) == 2 and bytes(raw[1:64]).lstrip()[:1] == b"["
        flat, rows = self._strings if tensor.datatype == _BYTES else self._floats if tensor.datatype[:2] == "FP" else self._integers
        if tensor.datatype != _BYTES:
            _stored(tensor)
        try:
            values = (rows if nested else flat)(raw)
        except msgspec.ValidationError as error:
            rule, _, where = str(error).rpartition(" - at `$")
            _refuse(f"{path}.data{where.rstrip('`')}", rule or str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            _refuse(f"{path}.data", str(error))
        if nested:
            width = tensor.shape[1]
            if len(values) != tensor.shape[0] or any(len(row) != width for row in values):
                _malformed(tensor, f"data has {len(values)} rows, or rows of another length than the shape {tensor.shape} says")
            values = [value for row in values for value in row]
        if len(values) != count:
            _malformed(tensor, f"data has {len(values)} values, the shape {tensor.shape} has {count}")
        if tensor.datatype == _BYTES:
            return np.array(values, object).reshape(tensor.shape)
        try:
            with np.errstate(over="ignore"):
                return _widened(np.array(values, _STORED[tensor.datatype]), tensor)
        except OverflowError:
            _refuse(f"{path}.data", f"a value is out of the range of {tensor.datatype}")

    def _from_bytes(self, tensor: _Input, content: bytes) -> Tensor:
        count = self._count(tensor)
        if tensor.datatype == _BYTES:
            return np.array(_strings(content, count, tensor), object).reshape(tensor.shape)
        stored = np.dtype(_stored(tensor))
        if len(content) != count * stored.itemsize:
            _malformed(tensor, f"binary_data_size is {len(content)}, {count} values of {tensor.datatype} take {count * stored.itemsize}")
        return _widened(np.frombuffer(content, stored), tensor)


def require_outputs(request: InferRequest, known: Sequence[str]) -> None:
    """Refuse a request that asks for an output that is not among `known`.

    Raises
    ------
    InvalidRequest
        Naming both.
    """
    for name in request.outputs:
        if name not in known:
            _refuse(f"$.outputs.{_shown(name)[1:-1]}", f"no such output; there is {', '.join(known)}")


def infer_answer(model: Model, request: InferRequest, name: str, values: npt.NDArray[np.float32]) -> tuple[bytes, int | None]:
    """Encode an answer of one output.

    Parameters
    ----------
    name, values
        The output and what it is, ``(N,) float32``.

    Returns
    -------
    tuple
        The body, and how many bytes of it are JSON; None when all are.
    """
    output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": [output]}
    if request.id:
        answer["id"] = request.id
    if not request.outputs.get(name, request.binary):
        output["data"] = values.tolist()
        return encode(answer), None
    content = values.astype("<f4", copy=False).tobytes()
    output["parameters"] = {"binary_data_size": len(content)}
    head = encode(answer)
    return head + content, len(head)


def server_metadata(version: str) -> bytes:
    """Body of ``GET /v2``."""
    return encode({"name": "pilotage", "version": version, "extensions": EXTENSIONS})


def model_metadata(model: Model, signature: Signature) -> bytes:
    """Body of ``GET /v2/models/NAME``; an axis of any length is -1."""

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "datatype": _DATATYPE[spec.dtype], "shape": _axes(spec)} for spec in specs]

    inputs, outputs = tensors(signature.inputs), tensors(signature.outputs)
    return encode({"name": model.name, "versions": [model.version], "platform": PLATFORM, "inputs": inputs, "outputs": outputs})


def model_config(model: Model, signature: Signature) -> bytes:
    """Body of ``GET /v2/models/NAME/config``, as far as the notion has a meaning here: requests are stacked by the server, not by shape."""

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "data_type": _CONFIG_TYPE[spec.dtype], "dims": _axes(spec)} for spec in specs]

    inputs, outputs = tensors(signature.inputs), tensors(signature.outputs)
    about = {"name": model.name, "platform": PLATFORM, "backend": "onnxruntime", "max_batch_size": 0}
    return encode({**about, "input": inputs, "output": outputs})


class InferError(msgspec.Struct, frozen=True):
    """Body of every answer of the protocol's routes that is not a 2xx."""

    error: str


def infer_error(message: str) -> bytes:
    """Encode an `InferError`."""
    return encode(InferError(message))


def _decoders(kind: Any, most: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """For values in one list, and for rows of them."""
    values = Annotated[list[kind], msgspec.Meta(max_length=most)]
    rows = Annotated[list[values], msgspec.Meta(max_length=most)]
    return msgspec.json.Decoder(values).decode, msgspec.json.Decoder(rows).decode


def _header_length(value: bytes, size: int) -> int:
    if not (value.isdigit() and len(value) <= 10 and int(value) <= size):
        raise MalformedRequest(f"header {HEADER_LENGTH.decode()} is not a number of bytes from 0 to the body's {size}")
    return int(value)


def _outputs(asked: Sequence[_Output], binary: bool) -> dict[str, bool]:
    found = {}
    for output in asked:
        if "classification" in output.parameters or "shared_memory_region" in output.parameters:
            _refuse(f"$.outputs.{_shown(output.name)[1:-1]}", "neither classification nor shared memory is offered; ask for the tensor")
        found[output.name] = output.parameters.get("binary_data", binary) is True
    return found


def _stored(tensor: _Input) -> str:
    stored = _STORED.get(tensor.datatype)
    if stored is None:
        _refuse(f"{_path(tensor.name)}.datatype", f"Expected one of {', '.join((_BYTES, *_STORED))}", _shown(tensor.datatype))
    return stored


def _widened(values: Tensor, tensor: _Input) -> Tensor:
    with np.errstate(over="ignore"):  # becomes infinite, which no field takes
        return values.astype(np.float32 if values.dtype.kind == "f" else np.int64).reshape(tensor.shape)


def _strings(content: bytes, count: int, tensor: _Input) -> list[str]:
    """Each string is its length in four bytes, then UTF-8."""
    values: list[str] = []
    at, end = 0, len(content)
    length_at = struct.Struct("<I").unpack_from
    try:
        while at < end and len(values) < count:
            (length,) = length_at(content, at)
            at += 4 + length
            if at > end:
                break
            values.append(str(content[at - length : at], "utf-8"))
    except struct.error:
        at = -1
    except UnicodeDecodeError as error:
        _malformed(tensor, f"value {len(values)} is not valid UTF-8: {error.reason}")
    if at != end or len(values) != count:
        _malformed(tensor, f"its {end} bytes do not hold exactly {count} strings, each a length of four bytes and its UTF-8")
    return values


def _axes(spec: TensorSpec) -> list[int]:
    return [axis if isinstance(axis, int) else -1 for axis in spec.shape]


def _path(name: str) -> str:
    return f"$.inputs.{_shown(name)[1:-1]}"


def _shown(value: object) -> str:
    """Written out in ASCII: a lone surrogate can be sent as an escape, and no answer can carry one."""
    text = ascii(value)
    return text if len(text) <= MAX_NAME_SHOWN else f"{text[: MAX_NAME_SHOWN - 2]}…{text[-1]}"


def _malformed(tensor: _Input, reason: str) -> NoReturn:
    raise MalformedRequest(f"{_path(tensor.name)}: {reason}")


def _refuse(path: str, rule: str, value: str | None = None) -> NoReturn:
    shown = [text.encode("utf-8", "backslashreplace").decode() for text in (path, rule)]
    raise InvalidRequest(": ".join(shown), [Violation(shown[0], shown[1], value)])
