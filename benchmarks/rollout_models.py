"""Versions of one small ranker, made in milliseconds: good ones, and ones that are wrong or slow in a known way.

A graph of hashed ids, embedding tables, a dot product and a small network, written by hand, so that nothing has to be trained: what a
rollout must tell apart is how versions differ, and that is chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from loadtests.sources.payloads import generate
from optimize.bundling import GRAPH_NAME
from serving.contract.bundle import write_bundle
from serving.contract.fields import PROBABILITY, REQUEST_INDEX, FeatureSpec, parse_spec
from serving.contract.files import write_bytes
from serving.contract.manifest import Calibration, Provenance, Quality, RankingManifest, ranking_signature

BUCKETS, DIM, HIDDEN = 4096, 16, 64
SEED = 8
CANDIDATES = {30: 1.0}
"""As many as a page shows before it is ranked; runs take a third of a millisecond, so that processes, not arithmetic, fill two cores."""

FIELDS = {"user_id": "user", "device": "context", "id": "candidate", "brand": "candidate"}


def spec() -> FeatureSpec:
    """Four ids."""
    fields = [{"name": name, "kind": "categorical", "part": part, "buckets": BUCKETS, "dim": DIM} for name, part in FIELDS.items()]
    return parse_spec({"schema_version": 1, "name": "ads", "fields": fields}, "ads")


@dataclass(frozen=True)
class Version:
    """How a version differs from the first one.

    Attributes
    ----------
    noise
        Deviation of what is added to each weight, in parts of the weights' own: a model trained again.
    bits
        Tables are rounded to so many bits; None leaves them.
    hash_seed
        Of all fields; another one looks everything up in the wrong place, as a wrong feature specification does.
    shift
        Added to every logit: a forgotten correction for down-sampled negatives.
    hidden
        Width of the network. What is beyond `HIDDEN` has weights of zero: it changes nothing but the time.
    """

    noise: float = 0.0
    bits: int | None = None
    hash_seed: int = 0
    shift: float = 0.0
    hidden: int = HIDDEN


def make_bundle(version: Version, name: str, folder: Path) -> Path:
    """Write the bundle of a version; return its folder."""
    features = spec()
    graph = folder / f"{name}.onnx"
    write_bytes(graph, _graph(version).SerializeToString())
    manifest = RankingManifest.model_construct(
        name="ads",
        version=name,
        family="ranking",
        graph=GRAPH_NAME,
        signature=ranking_signature(features),
        features=features,
        calibration=Calibration(method="none", scale=1.0, offset=0.0),
        quality=Quality(data="none, drawn weights", data_fingerprint="none", rows=1, metrics={}),
        provenance=Provenance(created_at=datetime.now(UTC), architecture="by hand", variant=name, seed=SEED, git_commit=None, versions={}),
        files={},
    )
    return write_bundle(folder / name, manifest, {GRAPH_NAME: graph}, replace=True).path


def make_requests(path: Path, count: int) -> None:
    """Write as many different requests, one a line."""
    bodies = generate(spec(), sizes=CANDIDATES, max_candidates=max(CANDIDATES), seed=SEED, count=count)
    write_bytes(path, b"\n".join(body.data for body in bodies) + b"\n")


def _graph(version: Version) -> onnx.ModelProto:
    draw = np.random.default_rng(SEED)
    weights: dict[str, NDArray[np.float64]] = {}
    for name in FIELDS:
        weights[f"table_{name}"] = _rounded(draw.normal(0, 0.35, (BUCKETS, DIM)), version.bits)
    weights["first"] = draw.normal(0, 0.2, (2 * DIM, HIDDEN))
    weights["last"] = draw.normal(0, 0.1, (HIDDEN, 1))
    if version.noise:
        again = np.random.default_rng(SEED + 1)
        weights = {name: value + again.normal(0, version.noise * float(np.std(value)), value.shape) for name, value in weights.items()}
    weights["first"] = _wider(weights["first"], version.hidden, axis=1)
    weights["last"] = _wider(weights["last"], version.hidden, axis=0)
    weights["offset"] = np.array(version.shift - 1.5)
    nodes = [node for name in FIELDS for node in _looked_up(name, version.hash_seed)]
    nodes += [
        helper.make_node("Add", ["row_user_id", "row_device"], ["asking"]),
        helper.make_node("Gather", ["asking", REQUEST_INDEX], ["asker"]),
        helper.make_node("Add", ["row_id", "row_brand"], ["offered"]),
        helper.make_node("Mul", ["asker", "offered"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last_axis"], ["match"], keepdims=1),
        helper.make_node("Concat", ["asker", "offered"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "last"], ["beyond"]),
        helper.make_node("Add", ["match", "beyond"], ["sum"]),
        helper.make_node("Add", ["sum", "offset"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["column"]),
        helper.make_node("Squeeze", ["column", "last_axis"], [PROBABILITY]),
    ]
    signature = ranking_signature(spec())
    kinds = {"string": onnx.TensorProto.STRING, "int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}
    values = [
        [helper.make_tensor_value_info(each.name, kinds[each.dtype], list(each.shape)) for each in side]
        for side in (signature.inputs, signature.outputs)
    ]
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    constants += [
        numpy_helper.from_array(np.array([1], np.int64), "last_axis"),
        numpy_helper.from_array(np.array(BUCKETS, np.int64), "buckets"),
    ]
    graph = helper.make_graph(nodes, "ads", values[0], values[1], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=10)


def _looked_up(name: str, seed: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MurmurHash3", [name], [f"hash_{name}"], domain="com.microsoft", seed=seed, positive=1),
        helper.make_node("Cast", [f"hash_{name}"], [f"long_{name}"], to=onnx.TensorProto.INT64),
        helper.make_node("Mod", [f"long_{name}", "buckets"], [f"bucket_{name}"]),
        helper.make_node("Gather", [f"table_{name}", f"bucket_{name}"], [f"row_{name}"]),
    ]


def _rounded(table: NDArray[np.float64], bits: int | None) -> NDArray[np.float64]:
    """Symmetric, one scale for the whole table: what makes few bits so few."""
    if bits is None:
        return table
    step = float(np.abs(table).max()) / (2 ** (bits - 1) - 0.5)
    return np.asarray(np.round(table / step) * step)


def _wider(matrix: NDArray[np.float64], width: int, axis: int) -> NDArray[np.float64]:
    missing = [(0, 0), (0, 0)]
    missing[axis] = (0, width - matrix.shape[axis])
    return np.pad(matrix, missing)
