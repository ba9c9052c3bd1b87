"""Dynamic int8: weights quantized beforehand, activations at run time."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable, copy_of


@dataclass(frozen=True)
class Int8Dynamic(Pass):
    """Quantize the matrix products; embedding tables stay as they are.

    Weights become signed int8 with a scale per output channel, activations unsigned int8 with one scale per tensor and
    run, as ONNX Runtime's stock quantizer does it.
    """

    kind: ClassVar[str] = "int8_dynamic"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "weights of matrix products as int8 per output channel, activations as uint8 at run time"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the quantized model.

        Raises
        ------
        PassNotApplicable
            The model has no matrix product with constant weights.
        """
        from onnxruntime.quantization import QuantType, quantize_dynamic

        constants = {tensor.name for tensor in model.graph.initializer}
        if not any(node.op_type in ("MatMul", "Gemm") and constants & set(node.input) for node in model.graph.node):
            raise PassNotApplicable("the model has no matrix product with constant weights")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "int8.onnx"
            root = logging.getLogger()
            level = root.level
            root.setLevel(logging.ERROR)  # the quantizer advises, on the root logger, a preparation that does not apply here
            try:
                quantize_dynamic(
                    copy_of(model), str(target), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
                )
            finally:
                root.setLevel(level)
            return onnx.load(str(target))
