"""torch → ONNX: the feature graph in front, the model behind it, one graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import onnx
import torch
from onnx import compose, helper

from optimize.features.graph import IR_VERSION, MICROSOFT, OPSET, FeatureGraph
from optimize.models.base import RankingModel
from serving.contract.errors import PilotageError
from serving.contract.fields import PROBABILITY, REQUEST_INDEX

EXAMPLE_REQUESTS = 2
EXAMPLE_CANDIDATES = 3
EXAMPLE_VALUES = 4
"""Export traces with sizes of at least 2, all different: 0 and 1 would be taken for constants."""


class ExportError(PilotageError):
    """A model that cannot be turned into a graph."""


def export_ranking(model: RankingModel) -> onnx.ModelProto:
    """Export `model` with the feature graph in front: raw ids in, probabilities out.

    Returns
    -------
    onnx.ModelProto
        Inputs as in `serving.contract.manifest.ranking_signature`, output ``probability (N,) float32``.

    Raises
    ------
    ExportError
        torch cannot export the model; the cause is chained.
    """
    features = FeatureGraph(model.spec).build()
    dense = _export_dense(model)
    model.eval()
    prefixed = compose.add_prefix(dense, "model/", rename_inputs=False, rename_outputs=False)
    merged = compose.merge_models(
        _with_request_index(features),
        prefixed,
        io_map=[(output.name, output.name) for output in features.graph.output] + [(f"{REQUEST_INDEX}/out", REQUEST_INDEX)],
        outputs=[PROBABILITY],
    )
    del merged.metadata_props[:]
    merged.producer_name = "pilotage"
    del merged.opset_import[:]  # both halves brought theirs
    merged.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)])
    onnx.checker.check_model(merged, full_check=False)
    return merged


def _with_request_index(features: onnx.ModelProto) -> onnx.ModelProto:
    """Hand ``request_index`` through, so that one graph input feeds both halves."""
    copy = onnx.ModelProto()
    copy.CopyFrom(features)
    copy.graph.node.append(helper.make_node("Identity", [REQUEST_INDEX], [f"{REQUEST_INDEX}/out"], name="features/request_index"))
    copy.graph.output.append(helper.make_tensor_value_info(f"{REQUEST_INDEX}/out", onnx.TensorProto.INT64, ["N"]))
    return copy


def _export_dense(model: RankingModel) -> onnx.ModelProto:
    spec = model.spec
    requests, candidates = torch.export.Dim("R", min=1), torch.export.Dim("N", min=1)
    arguments: list[torch.Tensor] = []
    shapes: list[dict[int, torch.export.Dim]] = []
    for hashed in spec.hashed:
        per_candidate = spec.is_per_candidate(hashed)
        size: tuple[int, ...] = (EXAMPLE_CANDIDATES if per_candidate else EXAMPLE_REQUESTS,)
        axes = {0: candidates if per_candidate else requests}
        if spec.is_list(hashed):
            size = (*size, EXAMPLE_VALUES + len(arguments))
            axes[1] = torch.export.Dim(f"V_{hashed.name}", min=1)
        arguments.append(torch.ones(size, dtype=torch.int64))
        shapes.append(axes)
    for number in spec.numeric:
        per_candidate = spec.is_per_candidate(number)
        arguments.append(torch.zeros(EXAMPLE_CANDIDATES if per_candidate else EXAMPLE_REQUESTS))
        shapes.append({0: candidates if per_candidate else requests})
    arguments.append(torch.tensor([0, 1, 1]))
    shapes.append({0: candidates})
    model.eval()
    quiet = io.StringIO()
    level = logging.getLogger("torch.onnx").level
    try:
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet):
            warnings.simplefilter("ignore")  # the exporter warns of its own internals
            program = torch.onnx.export(
                model,
                tuple(arguments),
                dynamo=True,
                opset_version=OPSET,
                input_names=model.input_names,
                output_names=[PROBABILITY],
                dynamic_shapes=(tuple(shapes),),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many unrelated types
        raise ExportError(f"torch could not export {type(model).__name__}: {error}") from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    graph.ir_version = IR_VERSION
    used = {node.domain for node in graph.graph.node} | {"", MICROSOFT}
    if used != {"", MICROSOFT}:
        raise ExportError(f"torch exported operators of the domains {', '.join(sorted(used))}; only ONNX's own and {MICROSOFT} are served")
    return graph
