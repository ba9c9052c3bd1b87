"""Linear layers as two thin ones.

Letters: ``K`` and ``M`` inputs and outputs of a layer, ``r`` rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from optimize.passes.base import NOTHING, Context, OptionError, Pass, PassNotApplicable
from optimize.passes.editing import Edit
from optimize.passes.linear import Linear, linears, rebuilt
from optimize.passes.moments import Moments, moments_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LowRank(Pass):
    """Multiply by ``(K, r)`` and then by ``(r, M)`` instead of by ``(K, M)``, where that is fewer multiplications: r (K + M) < K M.

    The outputs keep their r principal components: with calibration data those of the layer's real outputs, whose means the bias keeps;
    without, those of inputs that are independent and equally large, which is the truncated singular value decomposition of the weights.

    Calibration needs several times as many rows (tokens, candidates) as a layer has inputs, or what it says of their variance is chance.

    Attributes
    ----------
    rank
        ``r``.
    max_error
        Most of the outputs' variance that may be lost; a layer that would lose more stays as it is.

    References
    ----------
    Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1936; Yu and Wu, "Compressing Transformers:
    Features Are Low-Rank, but Weights Are Not!", AAAI 2023 (principal components of the outputs).
    """

    kind: ClassVar[str] = "low_rank"

    rank: int = 32
    max_error: float = 0.05

    def __post_init__(self) -> None:
        """Refuse options that no layer can have."""
        if self.rank < 1:
            raise OptionError(f"pass {self.kind!r}: rank={self.rank} is no rank; it must be 1 or more")
        if not 0 <= self.max_error <= 1:
            raise OptionError(f"pass {self.kind!r}: max_error={self.max_error} is no share; it must be from 0 to 1")

    @property
    def changes(self) -> str:
        """What it changes."""
        return f"linear layers that rank {self.rank} describes within {self.max_error:.0%} of their variance as two thin layers"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the factored model.

        Raises
        ------
        PassNotApplicable
            No linear layer becomes cheaper at this rank, or none that does keeps its error.
        CalibrationError
            The model does not run on the calibration data.
        """
        edit = Edit(model)
        wide = [layer for layer in linears(edit) if self.rank * sum(layer.weight.shape) < layer.weight.size]
        if not wide:
            raise PassNotApplicable(
                f"the model has no linear layer that rank {self.rank} makes cheaper: rank * (inputs + outputs) < inputs * outputs"
            )
        moments = moments_of(model, [str(layer.source.name) for layer in wide], context, products=True)
        least = 1.0
        for layer in wide:
            seen = moments.get(str(layer.source.name))
            components, error = principal_outputs(layer.weight.astype(np.float64), None if seen is None else seen.covariance, self.rank)
            least = min(least, error)
            if error <= self.max_error:
                _factor(edit, layer, components, seen)
        if not edit.changes:
            raise PassNotApplicable(
                f"the model has no linear layer that rank {self.rank} describes within {self.max_error:.0%} of its variance: "
                f"the least that one would lose is {least:.0%}"
            )
        return edit.done()


def principal_outputs(weight: Floats, covariance: Floats | None, rank: int) -> tuple[Floats, float]:
    """Directions of a layer's outputs that vary most.

    Parameters
    ----------
    weight
        ``(K, M)``.
    covariance
        Of the inputs, ``(K, K)``; None for the identity.

    Returns
    -------
    tuple
        Orthonormal columns ``(M, r)``, and the share of the outputs' variance outside them.
    """
    inputs, outputs = weight.shape
    if outputs <= inputs:
        gram = weight.T @ (weight if covariance is None else covariance @ weight)
        variances, directions = np.linalg.eigh(gram)
        components = directions[:, ::-1][:, :rank]
    else:  # the same through the smaller side
        root = weight if covariance is None else _root(covariance).T @ weight
        variances, directions = np.linalg.eigh(root @ root.T)
        components = np.linalg.qr(root.T @ directions[:, ::-1][:, :rank])[0]
    variances = np.maximum(variances[::-1], 0.0)
    total = float(variances.sum())
    return components, float(variances[rank:].sum()) / total if total else 0.0


def _root(covariance: Floats) -> Floats:
    """``R`` of ``R Rᵀ``; rounding can make a covariance slightly indefinite, which Cholesky's refuses."""
    variances, directions = np.linalg.eigh(covariance)
    out: Floats = directions * np.sqrt(np.maximum(variances, 0.0))
    return out


def _factor(edit: Edit, layer: Linear, components: Floats, seen: Moments | None) -> None:
    weight = layer.weight.astype(np.float64)
    thin = weight @ components
    bias = layer.bias
    if seen is not None:
        lost = seen.mean @ (weight - thin @ components.T)
        bias = (lost + (0 if bias is None else bias)).astype(np.float32)
    before = layer.output.producer()
    assert before is not None
    held = edit.constant(np.ascontiguousarray(thin, np.float32), f"{layer.output.name}/thin")
    kind = layer.node.op_type
    inner = edit.add(before, kind, [layer.node.inputs[0], held])
    edit.replace(layer.output, rebuilt(edit, layer, components.T.astype(np.float32), bias, inner))
