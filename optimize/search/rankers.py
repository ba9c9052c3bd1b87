"""A run folder of a ranker → what is optimized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from optimize.data.interactions import Interactions, load
from optimize.export.feeds import request_feeds
from optimize.export.files import save_graph
from optimize.passes.base import Feeds
from optimize.search.cache import Cache, code_digest, key_of
from optimize.search.machine import package_versions
from optimize.search.metrics import Answers
from optimize.search.subject import Agreement, Part, Subject, SubjectError
from optimize.training.metrics import evaluate
from optimize.training.records import TEST_NAME, VALIDATION_NAME, WEIGHTS_NAME, RunRecord
from serving.contract.bundle import sha256_of
from serving.contract.fields import REQUEST_INDEX, FeatureSpec
from serving.contract.manifest import ranking_signature
from serving.runtime.session import GraphSession

SIZES = (1, 100, 500)
DECISIVE_SIZE = 500
"""Candidates at which latency decides: the largest size, where the graph and not the overhead is measured."""

SCORING_ROWS = 4096
CALIBRATION_ROWS, CALIBRATION_RUNS = 1024, 16
"""Of the validation part, at most an eighth of it; they are not judged."""

GRAPH_NAME = "exported.onnx"


def ranking_subject(run: Path, record: RunRecord, cache: Cache) -> Subject:
    """Export a trained ranker and bring its data.

    Raises
    ------
    ExportError
        The model cannot be exported, or the graph does not answer like the model.
    SubjectError
        The data is too small for the sizes that are timed.
    """
    spec = record.features
    validation, test = load(run / VALIDATION_NAME), load(run / TEST_NAME)
    if len(validation) < DECISIVE_SIZE:
        raise SubjectError(f"the validation part has {len(validation)} interactions, timing {DECISIVE_SIZE} candidates needs as many")
    graph, parity, tolerance = _exported(run, record, validation, cache)
    rows = min(CALIBRATION_ROWS, len(validation) // 8)
    calibration, judged = validation.take(np.arange(rows)), validation.take(np.arange(rows, len(validation)))
    return Subject(
        name=run.resolve().name,
        data=record.data,
        family="ranking",
        reference=graph,
        validation=part_of(spec, judged),
        test=part_of(spec, test),
        timing={size: request_feeds(spec, validation, np.arange(size)) for size in SIZES},
        decisive_size=DECISIVE_SIZE,
        calibration=_chunks(spec, calibration, max(1, rows // CALIBRATION_RUNS)),
        size_unit="candidates",
        metrics=Evaluation(judged.label, judged.group, test.group),
        signature=ranking_signature(spec),
        parity=parity,
        parity_tolerance=tolerance,
    )


class Evaluation:
    """All ranking metrics; those within a user need to know whose an impression was."""

    def __init__(self, label: npt.NDArray[Any], group: npt.NDArray[Any], test_group: npt.NDArray[Any]) -> None:
        self._label, self._group, self._test_group = label, group, test_group

    def __call__(self, label: npt.NDArray[Any] | None, answers: Answers) -> dict[str, float]:
        """Evaluate answers of the part that `label` belongs to."""
        if label is None:
            return {}
        return evaluate(label, answers, self._group if label is self._label else self._test_group)


def part_of(spec: FeatureSpec, data: Interactions) -> Part:
    """Interactions as feeds, each its own request."""
    return Part(_chunks(spec, data, SCORING_ROWS), data.label, data.fingerprint())


def _chunks(spec: FeatureSpec, data: Interactions, rows: int) -> tuple[Feeds, ...]:
    chunks: list[Feeds] = []
    for start in range(0, len(data), rows):
        feeds = {field.name: data.columns[field.name][start : start + rows] for field in spec.fields}
        chunks.append({**feeds, REQUEST_INDEX: np.arange(len(data.label[start : start + rows]), dtype=np.int64)})
    return tuple(chunks)


def _exported(run: Path, record: RunRecord, validation: Interactions, cache: Cache) -> tuple[onnx.ModelProto, tuple[Agreement, ...], float]:
    """The graph, how far it is from the torch model, and how far it may be; without torch, which takes seconds to import, if it is kept."""
    code = code_digest("export", "features", "models")
    model = record.recipe.model.model_dump(mode="json")
    key = key_of(sha256_of(run / WEIGHTS_NAME), model, record.features.model_dump(mode="json"), package_versions(), code)
    folder, agreed = cache.read_folder("exports", key), cache.read("parity", key)
    if folder is None or agreed is None:
        from optimize.export.parity import TOLERANCE, check_parity
        from optimize.export.to_onnx import export_ranking
        from optimize.models.load import load_model

        loaded = load_model(record.recipe.model, record.features, run / WEIGHTS_NAME)
        graph = export_ranking(loaded)
        with cache.writing_folder("exports", key) as staging:
            save_graph(graph, staging / GRAPH_NAME)
            parity = check_parity(loaded, GraphSession(staging / GRAPH_NAME, threads=1), validation)
        agreed = {"tolerance": TOLERANCE, "runs": [[one.candidates, one.max_difference] for one in parity]}
        cache.write("parity", key, agreed)
        folder = cache.read_folder("exports", key)
    assert folder is not None, "it was just written"
    return onnx.load(str(folder / GRAPH_NAME)), tuple(Agreement(*one) for one in agreed["runs"]), agreed["tolerance"]
