"""Small weights as zeros, in each matrix alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from optimize.passes.base import NOTHING, Context, Pass, require_share
from optimize.passes.sparsity import Floats, with_zeros


@dataclass(frozen=True)
class PruneMagnitude(Pass):
    """Set the smallest weights of every linear layer to zero.

    ONNX Runtime stores and multiplies the zeros like any other weight, so this is no faster; a compressed file is smaller. It is here to
    tell how many weights a model needs, docs/passes.md.

    Attributes
    ----------
    sparsity
        Share of each matrix's weights that becomes zero. 0.3 kept the answers of two trained BERT layers at cosine 0.98, 0.5 at 0.94.

    References
    ----------
    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015.
    """

    kind: ClassVar[str] = "prune_magnitude"

    sparsity: float = 0.3

    def __post_init__(self) -> None:
        """Refuse a sparsity that is no share."""
        require_share(self.kind, "sparsity", self.sparsity)

    @property
    def changes(self) -> str:
        """What it changes."""
        return f"the smallest {self.sparsity:.0%} of each linear layer's weights are zero: smaller when compressed, not faster"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the pruned model.

        Raises
        ------
        PassNotApplicable
            The model has no linear layer with constant weights, or all are so small that the share is less than one weight.
        """
        return with_zeros(model, lambda weight, _: smallest(weight, self.sparsity))


def smallest(weight: Floats, share: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Mark the given share of the weights, rounded down, that are smallest in magnitude."""
    marked = np.zeros(weight.size, bool)
    count = int(share * weight.size)
    if count:
        marked[np.argpartition(np.abs(weight).ravel(), count - 1)[:count]] = True
    return marked.reshape(weight.shape)
