"""Encode whole data sets with the feature graph, for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from optimize.features.graph import FeatureGraph, number_output, row_output
from serving.contract.fields import REQUEST_INDEX, FeatureSpec

CHUNK_ROWS = 65_536
"""Rows encoded at once: bounds the memory of the strings' copies inside ONNX Runtime."""


@dataclass(frozen=True)
class Encoded:
    """A data set as the dense part of a model takes it, one interaction a row.

    Attributes
    ----------
    rows
        Field or cross → ``(B,)`` or ``(B, V) int32`` embedding rows, 0 for missing.
    numbers
        Numeric field → ``(B,) float32``.
    """

    rows: dict[str, npt.NDArray[np.int32]]
    numbers: dict[str, npt.NDArray[np.float32]]

    def take(self, index: npt.NDArray[np.int64]) -> Encoded:
        """Rows at `index`."""
        return Encoded({k: v[index] for k, v in self.rows.items()}, {k: v[index] for k, v in self.numbers.items()})


def encode(spec: FeatureSpec, columns: Mapping[str, npt.NDArray[Any]]) -> Encoded:
    """Run the feature graph over columns of interactions: each row is one request with one candidate.

    Parameters
    ----------
    columns
        Field → ``(B,)`` or ``(B, V)``, with the dtypes of the graph's inputs.
    """
    session = ort.InferenceSession(FeatureGraph(spec).build().SerializeToString(), providers=["CPUExecutionProvider"])
    names = [field.name for field in spec.fields]
    outputs = [output.name for output in session.get_outputs()]
    chunks: list[list[npt.NDArray[Any]]] = []
    total = len(next(iter(columns.values())))
    for start in range(0, total, CHUNK_ROWS):
        feeds = {name: columns[name][start : start + CHUNK_ROWS] for name in names}
        length = len(feeds[names[0]])
        feeds[REQUEST_INDEX] = np.arange(length, dtype=np.int64)
        chunks.append(session.run(outputs, {name: feeds[name] for name in (node.name for node in session.get_inputs())}))
    whole = {name: np.concatenate([chunk[i] for chunk in chunks]) for i, name in enumerate(outputs)}
    return Encoded(
        rows={hashed.name: whole[row_output(hashed.name)].astype(np.int32) for hashed in spec.hashed},
        numbers={number.name: whole[number_output(number.name)] for number in spec.numeric},
    )
