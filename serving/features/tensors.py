"""Tensors as a caller sends them → the arrays that the graph takes, under the rules of the JSON requests.

Letters: ``R`` requests, ``N`` candidates of all of them, ``V`` values of a list field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from serving.contract.errors import Violation
from serving.contract.fields import MAX_FLOAT32, REQUEST_INDEX, CategoricalField, FeatureSpec, NumericField
from serving.features.columns import Encoded, Feeds, sentinel_of
from serving.features.json_bodies import invalid, shown

Tensor = npt.NDArray[Any]

MAX_NAME_SHOWN = 80
_DATATYPES = {"O": "BYTES", "i": "INT64", "f": "FP32"}


class TensorEncoder:
    """Check tensors against one feature specification.

    Parameters
    ----------
    spec
        The fields of the model.
    max_candidates
        Most candidates in one call, and most requests.
    """

    def __init__(self, spec: FeatureSpec, max_candidates: int) -> None:
        self._fields = spec.fields
        self._names = {field.name for field in spec.fields} | {REQUEST_INDEX}
        self._max_candidates = max_candidates

    def encode(self, inputs: Mapping[str, Tensor]) -> Encoded:
        """Check the tensors and fill in those that may be missing.

        Parameters
        ----------
        inputs
            Field name → ``(R,)``, ``(R, V)``, ``(N,)`` or ``(N, V)`` of object (strings), int64 or float32; ``request_index (N,)``
            may be left out where ``R`` is 1. "No value" is as in the graph: the sentinels of the contract, and NaN.

        Raises
        ------
        InvalidRequest
            A tensor breaks a rule; the violation has its name, the value and the rule.
        """
        for name in inputs:
            if name not in self._names:
                _refuse(ascii(name)[1:-1][:MAX_NAME_SHOWN], "no such input in the specification", None)
        requests, candidates = self._rows(inputs)
        feeds: Feeds = {}
        for field in self._fields:
            rows = candidates if field.part == "candidate" else requests
            tensor = inputs.get(field.name)
            if tensor is None or tensor.size == 0:
                if _must_have(field):
                    _refuse(field.name, "the input is required", None)
                feeds[field.name] = _all_missing(field, rows)
            else:
                feeds[field.name] = _checked(field, tensor)
        feeds[REQUEST_INDEX] = _index(inputs.get(REQUEST_INDEX), requests, candidates)
        return Encoded(feeds, requests, candidates)

    def _rows(self, inputs: Mapping[str, Tensor]) -> tuple[int, int]:
        """``R`` and ``N``, on which all tensors must agree."""
        found: dict[str, tuple[int, str]] = {}
        for field in self._fields:
            tensor = inputs.get(field.name)
            if tensor is None:
                continue
            axes = 2 if isinstance(field, CategoricalField) and field.is_list else 1
            if tensor.ndim != axes:
                _refuse(f"{field.name}.shape", f"Expected {axes} {'axes' if axes > 1 else 'axis'}", str(list(tensor.shape)))
            self._agree(found, "N" if field.part == "candidate" else "R", field.name, tensor)
        index = inputs.get(REQUEST_INDEX)
        if index is not None:
            if index.ndim != 1 or index.dtype != np.int64:
                _refuse(REQUEST_INDEX, "Expected INT64 with 1 axis", str(list(index.shape)))
            self._agree(found, "N", REQUEST_INDEX, index)
        if "N" not in found:
            _refuse("", "there is no tensor of the candidates", None)
        requests = found["R"][0] if "R" in found else 1 if index is None else min(int(index.max(initial=0)), self._max_candidates) + 1
        return max(requests, 1), found["N"][0]

    def _agree(self, found: dict[str, tuple[int, str]], letter: str, name: str, tensor: Tensor) -> None:
        rows = len(tensor)
        if not 1 <= rows <= self._max_candidates:
            _refuse(f"{name}.shape", f"Expected 1 to {self._max_candidates} rows", str(list(tensor.shape)))
        expected, first = found.setdefault(letter, (rows, name))
        if rows != expected:
            _refuse(f"{name}.shape", f"Expected {expected} rows, as {first} has", str(list(tensor.shape)))


def _checked(field: CategoricalField | NumericField, tensor: Tensor) -> Tensor:
    wanted = "f" if isinstance(field, NumericField) else "O" if field.dtype == "string" else "i"
    if tensor.dtype.kind != wanted:
        _refuse(field.name, f"Expected {_DATATYPES[wanted]}, got {_DATATYPES[tensor.dtype.kind]}", None)
    if isinstance(field, NumericField):
        return _numbers(field, tensor)
    if wanted == "O":
        _bound_lengths(field, tensor)
    absent = tensor == sentinel_of(field)
    if field.is_list:
        if tensor.shape[1] > field.max_values:
            _refuse(f"{field.name}.shape", f"Expected at most {field.max_values} values a row", str(list(tensor.shape)))
        absent = absent.all(axis=1)
    if _must_have(field) and absent.any():
        row = int(np.argmax(absent))
        _refuse(f"{field.name}[{row}]", "Expected a value: the field must not be missing", None)
    return tensor


def _bound_lengths(field: CategoricalField, tensor: Tensor) -> None:
    flat = tensor.ravel().tolist()
    if max(map(len, flat)) <= field.max_length:
        return
    place = next(i for i, text in enumerate(flat) if len(text) > field.max_length)
    path = "".join(f"[{axis}]" for axis in np.unravel_index(place, tensor.shape))
    _refuse(field.name + path, f"Expected `str` of length <= {field.max_length}", shown(flat[place]))


def _numbers(field: NumericField, tensor: Tensor) -> Tensor:
    broken = np.isnan(tensor) if field.missing == "reject" else np.zeros(len(tensor), bool)
    broken |= np.abs(tensor) > MAX_FLOAT32
    if broken.any():
        row = int(np.argmax(broken))
        _refuse(f"{field.name}[{row}]", "numbers must be finite", str(float(tensor[row])))
    return tensor


def _index(tensor: Tensor | None, requests: int, candidates: int) -> Tensor:
    if tensor is None:
        if requests > 1:
            _refuse(REQUEST_INDEX, f"the input is required, since there are {requests} requests", None)
        return np.zeros(candidates, np.int64)
    outside = (tensor < 0) | (tensor >= requests)
    if outside.any():
        row = int(np.argmax(outside))
        _refuse(f"{REQUEST_INDEX}[{row}]", f"Expected 0 to {requests - 1}", str(int(tensor[row])))
    return tensor


def _must_have(field: CategoricalField | NumericField) -> bool:
    return field.missing == "reject" or field.name == "id"


def _all_missing(field: CategoricalField | NumericField, rows: int) -> Tensor:
    if isinstance(field, NumericField):
        return np.full(rows, math.nan, np.float32)
    shape = (rows, 1) if field.is_list else (rows,)
    return np.full(shape, sentinel_of(field), object if field.dtype == "string" else np.int64)


def _refuse(name: str, rule: str, value: str | None) -> NoReturn:
    raise invalid(Violation(f"$.inputs.{name}".rstrip("."), rule, value))
