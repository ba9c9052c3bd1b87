"""The graph half of preprocessing: raw ids and numbers → embedding rows and scaled numbers, as ONNX nodes.

Training runs this graph to encode its data, export puts the very same nodes in front of the model. There is no
second implementation, so training and serving cannot disagree about a bucket.

Letters: ``R`` requests, ``N`` candidates, ``V`` values of a list field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, REQUEST_INDEX, CategoricalField, Cross, FeatureSpec, NumericField
from serving.contract.manifest import ranking_signature

OPSET = 20
"""Oldest opset with everything used here, Gelu included; ONNX Runtime has had it since 1.17."""

MICROSOFT = "com.microsoft"
IR_VERSION = 10
"""What opset 20 came with (onnx 1.16); newer versions add nothing that is used."""

DTYPES = {"string": TensorProto.STRING, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def row_output(name: str) -> str:
    """Name of the inner value that holds a field's embedding rows."""
    return f"row.{name}"


def number_output(name: str) -> str:
    """Name of the inner value that holds a scaled number."""
    return f"number.{name}"


class FeatureGraph:
    """Builds the nodes of one specification."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._hashes: dict[str, tuple[str, str]] = {}

    def build(self) -> onnx.ModelProto:
        """Return a model from the inputs of `ranking_signature` to the outputs ``row.NAME`` and ``number.NAME``.

        Rows are ``int64``, ``(R,)`` or ``(R, V)`` for fields and crosses of the request, ``(N,)`` or ``(N, V)`` for those
        that depend on the candidate; numbers are ``float32`` ``(R,)`` or ``(N,)``. ``request_index (N,) int64`` goes in.
        """
        outputs = []
        for field in self.spec.categorical:
            self._categorical(field)
        for cross in self.spec.crosses:
            self._cross(cross)
        for hashed in self.spec.hashed:
            outputs.append((row_output(hashed.name), TensorProto.INT64, _axes(self.spec, hashed)))
        for number in self.spec.numeric:
            self._numeric(number)
            outputs.append((number_output(number.name), TensorProto.FLOAT, _axes(self.spec, number)))
        inputs = [
            helper.make_tensor_value_info(tensor.name, DTYPES[tensor.dtype], list(tensor.shape))
            for tensor in ranking_signature(self.spec).inputs
        ]
        graph = helper.make_graph(
            self.nodes,
            "features",
            inputs,
            [helper.make_tensor_value_info(name, dtype, axes) for name, dtype, axes in outputs],
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="pilotage")
        onnx.checker.check_model(model)
        return model

    def _categorical(self, field: CategoricalField) -> None:
        digest = self._node("MurmurHash3", [field.name], f"hash.{field.name}", domain=MICROSOFT, seed=field.seed, positive=1)
        if field.dtype == "int64":
            absent = self._node("Equal", [field.name, self._constant(MISSING_INTEGER, np.int64)], f"absent.{field.name}")
        else:
            # Comparing hashes costs a twentieth of comparing strings in ONNX Runtime 1.32. One id in 2**32 shares the
            # sentinel's hash and is taken for missing; it would have shared a bucket with far more ids anyway.
            sentinel = self._constant(murmur3_of(MISSING_STRING, field.seed), np.uint32)
            absent = self._node("Equal", [digest, sentinel], f"absent.{field.name}")
        self._row(field, digest, absent)
        self._hashes[field.name] = (digest, absent)

    def _cross(self, cross: Cross) -> None:
        per_candidate = self.spec.is_per_candidate(cross)
        is_list = self.spec.is_list(cross)
        members = []
        for name in cross.fields:
            digest, absent = self._hashes[name]
            digest = self._once(f"hash64.{name}", "Cast", [digest], to=TensorProto.INT64)
            field = self.spec.field(name)
            if per_candidate and field.part != "candidate":
                digest = self._once(f"{digest}.by_candidate", "Gather", [digest, REQUEST_INDEX])
                absent = self._once(f"{absent}.by_candidate", "Gather", [absent, REQUEST_INDEX])
            if is_list and not (isinstance(field, CategoricalField) and field.is_list):
                digest = self._once(f"{digest}.column", "Unsqueeze", [digest, self._constant([1], np.int64)])
                absent = self._once(f"{absent}.column", "Unsqueeze", [absent, self._constant([1], np.int64)])
            members.append((digest, absent))
        digest, absent = members[0]
        for step, (other, other_absent) in enumerate(members[1:], 1):
            name = f"{cross.name}.{step}"
            signed = self._node("Sub", [digest, self._constant(2**31, np.int64)], f"signed.{name}")
            high = self._node("Mul", [signed, self._constant(2**32, np.int64)], f"high.{name}")
            key = self._node("Add", [high, other], f"key.{name}")
            hashed = self._node("MurmurHash3", [key], f"hash.{name}", domain=MICROSOFT, seed=cross.seed, positive=1)
            digest = self._node("Cast", [hashed], f"hash64.{name}", to=TensorProto.INT64)
            absent = self._node("Or", [absent, other_absent], f"absent.{name}")
        self._row(cross, hashed, absent)

    def _row(self, hashed: CategoricalField | Cross, digest: str, absent: str) -> None:
        """``row = 0 if absent else 1 + hash mod buckets``."""
        bucket = self._node("Mod", [digest, self._constant(hashed.buckets, np.uint32)], f"bucket.{hashed.name}")
        wide = self._node("Cast", [bucket], f"bucket64.{hashed.name}", to=TensorProto.INT64)
        shifted = self._node("Add", [wide, self._constant(1, np.int64)], f"shifted.{hashed.name}")
        self._node("Where", [absent, self._constant(0, np.int64), shifted], row_output(hashed.name))

    def _numeric(self, field: NumericField) -> None:
        """Fill in, clip, transform, centre and scale, in this order."""
        absent = self._node("IsNaN", [field.name], f"absent.{field.name}")
        value = self._node("Where", [absent, self._constant(field.missing_value, np.float32), field.name], f"filled.{field.name}")
        if field.min is not None:
            value = self._node("Max", [value, self._constant(field.min, np.float32)], f"floor.{field.name}")
        if field.max is not None:
            value = self._node("Min", [value, self._constant(field.max, np.float32)], f"ceiling.{field.name}")
        if field.transform == "log1p":
            plus = self._node("Add", [value, self._constant(1.0, np.float32)], f"plus1.{field.name}")
            value = self._node("Log", [plus], f"log1p.{field.name}")
        elif field.transform == "asinh":
            value = self._node("Asinh", [value], f"asinh.{field.name}")
        centred = self._node("Sub", [value, self._constant(field.center, np.float32)], f"centred.{field.name}")
        self._node("Div", [centred, self._constant(field.scale, np.float32)], number_output(field.name))

    def _node(self, op: str, inputs: Iterable[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"features/{output}", domain=domain, **attributes))
        return output

    def _once(self, output: str, op: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node unless another cross has added it already."""
        if not any(output in node.output for node in self.nodes):
            self._node(op, inputs, output, **attributes)
        return output

    def _constant(self, value: int | float | list[int], dtype: npt.DTypeLike) -> str:
        array = np.array(value, dtype)
        name = f"constant.{array.dtype}.{'_'.join(map(str, array.ravel().tolist()))}{'.list' if array.ndim else ''}"
        self.initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name


def _axes(spec: FeatureSpec, item: CategoricalField | NumericField | Cross) -> list[int | str]:
    rows = "N" if spec.is_per_candidate(item) else "R"
    if isinstance(item, NumericField) or not spec.is_list(item):
        return [rows]
    if isinstance(item, Cross):
        return [rows, next(f"V_{field.name}" for field in spec.categorical if field.is_list and field.name in item.fields)]
    return [rows, f"V_{item.name}"]


def murmur3_of(text: str, seed: int) -> int:
    """32-bit MurmurHash3 (x86) of a string's UTF-8, computed by the runtime that serves."""
    node = helper.make_node("MurmurHash3", ["text"], ["digest"], domain=MICROSOFT, seed=seed, positive=1)
    graph = helper.make_graph(
        [node],
        "murmur3",
        [helper.make_tensor_value_info("text", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("digest", TensorProto.UINT32, [1])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return int(session.run(None, {"text": np.array([text], object)})[0][0])
