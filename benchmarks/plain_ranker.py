"""What a competent user writes around ONNX Runtime: the same graph, documents as the standard library decodes them, no framework.

Shared by the rivals of `benchmarks.serving`, so that they differ in their HTTP alone. It gathers each field with one comprehension,
runs the graph once, sorts, and gives plain lists. It does less than `serving`: no rule of the specification is checked, no request has
an id.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from serving.contract.bundle import open_ranking_bundle
from serving.contract.fields import MISSING_STRING, REQUEST_INDEX

BUNDLE_VARIABLE = "RIVAL_BUNDLE"


class PlainRanker:
    """Ranks documents with one graph on one thread; the benchmark's fields are all single strings."""

    def __init__(self) -> None:
        bundle = open_ranking_bundle(Path(os.environ[BUNDLE_VARIABLE]))
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(bundle.graph_path), options, providers=["CPUExecutionProvider"])
        self._fields = [(field.name, field.part) for field in bundle.manifest.features.fields]

    def rank(self, user: dict[str, Any], context: dict[str, Any], candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return all candidates, best first."""
        rows = {"user": [user], "context": [context], "candidate": candidates}
        feeds = {name: np.array([row.get(name) or MISSING_STRING for row in rows[part]], object) for name, part in self._fields}
        feeds[REQUEST_INDEX] = np.zeros(len(candidates), np.int64)
        probabilities = self._session.run(None, feeds)[0]
        scores = probabilities.tolist()
        return [{"id": candidates[i]["id"], "probability": scores[i]} for i in np.argsort(-probabilities).tolist()]
