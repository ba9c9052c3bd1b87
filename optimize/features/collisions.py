"""Collision report: what hashing into buckets did to the ids of a training set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optimize.features.encode import Encoded
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, Cross, FeatureSpec

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class FieldCollisions:
    """One field or cross.

    Attributes
    ----------
    ids_seen
        Different values in the training data.
    buckets_hit
        Buckets that at least one of them falls into.
    collisions
        ``ids_seen - buckets_hit``: ids that had to share.
    expected_collisions
        What a uniform hash would give, see `expected_collisions`.
    table_bytes
        Size of the fp32 embedding table.
    """

    name: str
    buckets: int
    ids_seen: int
    buckets_hit: int
    collisions: int
    expected_collisions: float
    table_bytes: int


def expected_collisions(ids: int, buckets: int) -> float:
    """Expected ``ids - occupied buckets`` when `ids` different values are thrown into `buckets` uniformly.

    ``n - m (1 - (1 - 1/m)**n)``: the occupancy problem (Feller, "An Introduction to Probability Theory", vol. 1, IV.2).
    """
    occupied = buckets * -np.expm1(ids * np.log1p(-1.0 / buckets))
    return float(ids - occupied)


def count_collisions(spec: FeatureSpec, columns: Mapping[str, npt.NDArray[Any]], encoded: Encoded) -> list[FieldCollisions]:
    """Count ids and buckets of every field and cross.

    Parameters
    ----------
    columns
        Raw training columns, ``(B,)`` or ``(B, V)``.
    encoded
        The same rows, encoded.
    """
    codes = {field.name: _codes(columns[field.name]) for field in spec.categorical}
    report = []
    for hashed in spec.hashed:
        rows = encoded.rows[hashed.name]
        present = rows.ravel() > 0
        if isinstance(hashed, Cross):
            ids_seen = _combinations([codes[member] for member in hashed.fields], rows.shape, present)
        else:
            ids_seen = len(np.unique(codes[hashed.name].ravel()[present]))
        buckets_hit = len(np.unique(rows.ravel()[present]))
        report.append(
            FieldCollisions(
                name=hashed.name,
                buckets=hashed.buckets,
                ids_seen=ids_seen,
                buckets_hit=buckets_hit,
                collisions=ids_seen - buckets_hit,
                expected_collisions=round(expected_collisions(ids_seen, hashed.buckets), 2),
                table_bytes=hashed.rows * hashed.dim * FLOAT32_BYTES,
            )
        )
    return report


def _codes(column: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Number the different values of a column from 0."""
    sentinel: Any = MISSING_STRING if column.dtype == object else MISSING_INTEGER
    known: dict[Any, int] = {sentinel: 0}
    flat = [known.setdefault(value, len(known)) for value in column.ravel().tolist()]
    return np.array(flat, np.int64).reshape(column.shape)


def _combinations(members: list[npt.NDArray[np.int64]], shape: tuple[int, ...], present: npt.NDArray[np.bool_]) -> int:
    """Count the different combinations of members, lists broadcast against single values."""
    flat = [np.broadcast_to(codes if codes.ndim == len(shape) else codes[:, None], shape).ravel()[present] for codes in members]
    return len(np.unique(np.stack(flat), axis=1).T)
