"""Decoded requests → the arrays that the graph takes.

Letters: ``R`` requests, ``N`` candidates of all of them, ``V`` values of a list field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import astuple

from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, REQUEST_INDEX, CategoricalField, FeatureSpec, NumericField
from serving.features.requests import RankRequest

Feeds = dict[str, npt.NDArray[Any]]
Encoder = Callable[[Sequence[Any]], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Requests as arrays, ready to run or to be stacked with others.

    Attributes
    ----------
    feeds
        Field name → array.
    requests, candidates
        ``R`` and ``N``.
    """

    feeds: Feeds
    requests: int
    candidates: int


def stack(parts: Sequence[Encoded], sentinels: Mapping[str, Any]) -> Feeds:
    """Put several requests into the feeds of one run.

    Parameters
    ----------
    sentinels
        List field → its "no value", which fills rows that are shorter than the longest.
    """
    if len(parts) == 1:
        return parts[0].feeds
    feeds: Feeds = {}
    for name in parts[0].feeds:
        arrays = [part.feeds[name] for part in parts]
        if name in sentinels:
            arrays = _widened(arrays, sentinels[name])
        elif name == REQUEST_INDEX:
            first_rows = accumulate((part.requests for part in parts), initial=0)
            arrays = [array + first for array, first in zip(arrays, first_rows, strict=False)]
        feeds[name] = np.concatenate(arrays)
    return feeds


def _widened(arrays: Sequence[npt.NDArray[Any]], sentinel: Any) -> list[npt.NDArray[Any]]:
    width = max(array.shape[1] for array in arrays)
    return [
        array if array.shape[1] == width else np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=sentinel)
        for array in arrays
    ]


class ColumnEncoder:
    """Gather requests into columns, one array a field, by the specification of one model."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._per_candidate = [(field.name, _encoder(field)) for field in spec.of_part("candidate")]
        self._per_request = [
            (field.name, attrgetter(f"{field.part}.{field.name}"), _encoder(field)) for field in spec.of_part("user", "context")
        ]
        self.sentinels = {field.name: sentinel_of(field) for field in spec.categorical if field.is_list}

    def encode(self, requests: Sequence[RankRequest]) -> Feeds:
        """Stack requests into the feeds of one run.

        Returns
        -------
        dict
            Field name → ``(R,)``, ``(R, V)``, ``(N,)`` or ``(N, V)`` of object (strings), int64 or float32;
            and ``request_index (N,) int64``.
        """
        if len(requests) == 1:
            candidates = requests[0].candidates
            index = np.zeros(len(candidates), np.int64)
        else:
            candidates = [candidate for request in requests for candidate in request.candidates]
            index = np.repeat(np.arange(len(requests), dtype=np.int64), [len(request.candidates) for request in requests])
        # Transposed in C, without a Python step a value. The structures have the specification's order; one that has no field
        # `id` has the id last, where `zip` leaves it out.
        columns = zip(*map(astuple, candidates), strict=True)
        feeds: Feeds = {name: encode(values) for (name, encode), values in zip(self._per_candidate, columns, strict=False)}
        for name, get, encode in self._per_request:
            feeds[name] = encode([get(request) for request in requests])
        feeds[REQUEST_INDEX] = index
        return feeds


def sentinel_of(field: CategoricalField) -> Any:
    """What stands for "no value" in this field's arrays."""
    return MISSING_STRING if field.dtype == "string" else MISSING_INTEGER


def _encoder(field: CategoricalField | NumericField) -> Encoder:
    if isinstance(field, NumericField):
        return _numbers
    dtype: Any = object if field.dtype == "string" else np.int64
    sentinel = sentinel_of(field)

    def single(values: Sequence[Any]) -> npt.NDArray[Any]:
        if None in values:
            values = [sentinel if value is None else value for value in values]
        return np.array(values, dtype)

    def several(values: Sequence[Any]) -> npt.NDArray[Any]:
        width = max(1, *(len(value) if value else 0 for value in values))
        padding = [sentinel] * width
        rows = [[*value, *padding[len(value) :]] if value else padding for value in values]
        return np.array(rows, dtype)

    return several if field.is_list else single


def _numbers(values: Sequence[Any]) -> npt.NDArray[Any]:
    return np.array(values, np.float32)  # None becomes NaN, the sentinel for "missing"
