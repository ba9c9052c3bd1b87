"""A data set of interactions: raw feature columns and labels, one interaction a row.

Letters: ``B`` interactions, ``V`` values of a list field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract.errors import PilotageError
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, CategoricalField, FeatureSpec

Index = npt.NDArray[np.int64]


class DataError(PilotageError):
    """A data set that cannot be used; the message names the file and the line or column."""


@dataclass(frozen=True)
class Interactions:
    """Impressions with their outcome.

    Attributes
    ----------
    columns
        Field → ``(B,)`` or ``(B, V)``: object (strings), int64 or float32, missing values as the contract's sentinels.
    label
        ``(B,) float32``, 1 for a click.
    group
        ``(B,) object``: whose impression it was, for grouped metrics.
    timestamp
        ``(B,) int64`` seconds.
    truth
        ``(B,) float64`` true click probability, where it is known.
    grade
        ``(B,) float32`` in [0, 1]: a finer outcome than the label (a rating), where there is one; training only.
    """

    columns: dict[str, npt.NDArray[Any]]
    label: npt.NDArray[np.float32]
    group: npt.NDArray[Any]
    timestamp: npt.NDArray[np.int64]
    truth: npt.NDArray[np.float64] | None = None
    grade: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Count the interactions."""
        return len(self.label)

    def take(self, index: Index) -> Interactions:
        """Return the interactions at `index`."""
        return Interactions(
            {name: column[index] for name, column in self.columns.items()},
            self.label[index],
            self.group[index],
            self.timestamp[index],
            None if self.truth is None else self.truth[index],
            None if self.grade is None else self.grade[index],
        )

    def with_columns(self, extra: Mapping[str, npt.NDArray[Any]]) -> Interactions:
        """Return the same interactions with more columns."""
        return replace(self, columns={**self.columns, **extra})

    def fingerprint(self) -> str:
        """SHA-256 over names, values and labels, first 16 hex digits: two evaluations with one fingerprint saw one data set."""
        digest = hashlib.sha256()
        for name in sorted(self.columns):
            column = self.columns[name]
            digest.update(name.encode())
            digest.update(json.dumps(column.tolist()).encode() if column.dtype == object else np.ascontiguousarray(column).tobytes())
        digest.update(self.label.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Split:
    """Three parts of a data set that share no interaction."""

    train: Interactions
    validation: Interactions
    test: Interactions


def require_columns(spec: FeatureSpec, data: Interactions) -> None:
    """Check that every field of `spec` has a column of its dtype and rank.

    Raises
    ------
    DataError
        Naming the field.
    """
    for field in spec.fields:
        column = data.columns.get(field.name)
        if column is None:
            raise DataError(f"the data has no column for field {field.name!r}; it has {', '.join(sorted(data.columns))}")
        dtype: Any
        dtype, axes, max_values = np.dtype(np.float32), 1, 1
        if isinstance(field, CategoricalField):
            dtype = np.dtype(object if field.dtype == "string" else np.int64)
            axes, max_values = 1 + field.is_list, field.max_values
        if column.dtype != dtype or column.ndim != axes:
            raise DataError(f"column {field.name!r} is {column.dtype} with {column.ndim} axes, the specification wants {dtype} with {axes}")
        if axes > 1 and column.shape[1] > max_values:
            raise DataError(f"column {field.name!r} has up to {column.shape[1]} values a row, the specification allows {max_values}")


def pad(lists: Sequence[Sequence[Any]], dtype: type, max_values: int) -> npt.NDArray[Any]:
    """Stack lists of up to `max_values` values into ``(B, V)``, padded with the sentinel of `dtype`."""
    width = max(1, min(max_values, max((len(values) for values in lists), default=1)))
    out: npt.NDArray[Any] = np.full((len(lists), width), MISSING_STRING if dtype is object else MISSING_INTEGER, dtype)
    for row, values in enumerate(lists):
        chosen = list(values[:width])
        out[row, : len(chosen)] = chosen
    return out


def save(data: Interactions, path: Path) -> None:
    """Write interactions as an Arrow IPC file."""
    import pyarrow as pa

    arrays: dict[str, pa.Array] = {}
    for name, column in data.columns.items():
        if column.ndim == 1:
            arrays[f"column.{name}"] = pa.array(column)
        else:
            flat = pa.array(column.ravel(), pa.string() if column.dtype == object else pa.int64())
            arrays[f"column.{name}"] = pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
    arrays["label"] = pa.array(data.label)
    arrays["group"] = pa.array(data.group, pa.string())
    arrays["timestamp"] = pa.array(data.timestamp)
    if data.truth is not None:
        arrays["truth"] = pa.array(data.truth)
    table = pa.table(arrays)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def load(path: Path) -> Interactions:
    """Read what `save` wrote.

    Raises
    ------
    DataError
        The file is missing or is not such a file.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        columns = {name.removeprefix("column."): _column(table[name]) for name in table.column_names if name.startswith("column.")}
        truth = _column(table["truth"]) if "truth" in table.column_names else None
        return Interactions(columns, _column(table["label"]), _column(table["group"]), _column(table["timestamp"]), truth)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a file of interactions: {error}; `pilotage train` writes one") from error


def _column(chunked: Any) -> npt.NDArray[Any]:
    import pyarrow as pa

    array = chunked.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return _plain(array.flatten()).reshape(len(array), array.type.list_size)
    return _plain(array)


def _plain(array: Any) -> npt.NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_string(array.type):
        return np.array(array.to_pylist(), dtype=object)
    out: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False).copy()
    return out
