"""Two of each four weights of an output as zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from optimize.passes.base import NOTHING, Context, Pass
from optimize.passes.sparsity import Floats, with_zeros

GROUP, KEPT = 4, 2


@dataclass(frozen=True)
class Prune24(Pass):
    """Of each four neighbouring inputs of an output keep the two whose weights are largest.

    Tensor cores multiply such matrices at twice the rate; ONNX Runtime on a CPU does not, so this is no faster. It is here to tell what the
    pattern costs in quality, docs/passes.md. Fewer than four inputs at the end count as if zeros followed.

    References
    ----------
    Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, section 3.
    """

    kind: ClassVar[str] = "prune_2_4"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "two of each four weights of an output are zero: smaller when compressed, not faster on a CPU"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the pruned model.

        Raises
        ------
        PassNotApplicable
            The model has no linear layer with constant weights and more than two inputs.
        """
        return with_zeros(model, smaller_two)


def smaller_two(weight: Floats, axis: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Mark in each group of four along the axis of the inputs the two smallest; ties keep the first."""
    rows = np.moveaxis(np.abs(weight), axis, -1)
    missing = -rows.shape[-1] % GROUP
    groups = np.pad(rows, [*[(0, 0)] * (rows.ndim - 1), (0, missing)]).reshape(*rows.shape[:-1], -1, GROUP)
    ranks = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1)
    marked = (ranks >= KEPT).reshape(*rows.shape[:-1], -1)[..., : rows.shape[-1]]
    return np.moveaxis(marked, -1, axis)
