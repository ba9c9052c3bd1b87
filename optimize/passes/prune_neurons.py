"""Hidden units of multi-layer perceptrons, the least important ones removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable, require_share
from optimize.passes.editing import Edit, array, narrow
from optimize.passes.hidden import Hidden, hidden_units
from optimize.passes.linear import Linear, rebuilt
from optimize.passes.moments import Moments, moments_of

Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PruneNeurons(Pass):
    """Remove a share of the hidden units between linear layers: both layers' matrices become smaller, and faster.

    A unit counts for what its removal changes: the deviation of its activation times the norm of the weights that read it; what it gives on
    average goes into the next layer's bias. Without calibration data it counts for the product of the norms of its weights on both sides.

    Attributes
    ----------
    share
        Share of the units of each layer that is removed, rounded down.

    References
    ----------
    He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017; An et al., "Fluctuation-based Adaptive Structured
    Pruning for Large Language Models", AAAI 2024 (deviations, and means into biases).
    """

    kind: ClassVar[str] = "prune_neurons"

    share: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        require_share(self.kind, "share", self.share)

    @property
    def changes(self) -> str:
        """What it changes."""
        return f"the least important {self.share:.0%} of the hidden units between linear layers are removed"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the smaller model.

        Raises
        ------
        PassNotApplicable
            No layer's units are read by linear layers alone, or all have so few that the share is less than one unit.
        CalibrationError
            The model does not run on the calibration data.
        """
        edit = Edit(model)
        groups = [hidden for hidden in hidden_units(edit) if int(self.share * hidden.width)]
        if not groups:
            raise PassNotApplicable("the model has no hidden units that linear layers alone read, or too few of them to remove this share")
        moments = moments_of(model, [str(reader.value.name) for hidden in groups for reader in hidden.readers], context)
        cuts = [(hidden, _most_important(hidden, moments, hidden.width - int(self.share * hidden.width))) for hidden in groups]
        _cut(edit, cuts, moments)
        return edit.done()


def _most_important(hidden: Hidden, moments: Mapping[str, Moments], count: int) -> Kept:
    outgoing = [np.linalg.norm(r.layer.weight[r.start : r.start + hidden.width].astype(np.float64), axis=1) for r in hidden.readers]
    if moments:
        changes = [norm * moments[str(r.value.name)].deviation for norm, r in zip(outgoing, hidden.readers, strict=True)]
        importance = np.linalg.norm(changes, axis=0)
    else:
        incoming = [np.linalg.norm(layer.weight.astype(np.float64), axis=0) for layer in hidden.writers]
        importance = np.linalg.norm(incoming, axis=0) * np.linalg.norm(outgoing, axis=0)
    kept = np.zeros(hidden.width, bool)
    kept[np.argsort(-importance, kind="stable")[:count]] = True
    return kept


def _cut(edit: Edit, cuts: Sequence[tuple[Hidden, Kept]], moments: Mapping[str, Moments]) -> None:
    rows: dict[ir.Node, Kept] = {}
    columns: dict[ir.Node, Kept] = {}
    offsets: dict[ir.Node, npt.NDArray[np.float64]] = {}
    changed: dict[ir.Node, Linear] = {}
    for hidden, kept in cuts:
        for layer in hidden.writers:
            changed[layer.node], columns[layer.node] = layer, kept
        for reader in hidden.readers:
            layer, at = reader.layer, slice(reader.start, reader.start + hidden.width)
            changed[layer.node] = layer
            rows.setdefault(layer.node, np.ones(len(layer.weight), bool))[at] = kept
            if moments:
                lost = moments[str(reader.value.name)].mean[~kept] @ layer.weight[at][~kept].astype(np.float64)
                offsets[layer.node] = offsets.get(layer.node, np.zeros(len(lost))) + lost
        for node, index in hidden.constants:
            held = array(node.inputs[index])
            assert held is not None
            node.replace_input_with(index, edit.constant(held[..., kept], f"{node.outputs[0].name}/kept"))
        for value in (*hidden.values, *hidden.joined):
            narrow(value, int((~kept).sum()))
    for node, layer in changed.items():
        bias = layer.bias
        if node in offsets:
            bias = (offsets[node] + (0 if bias is None else bias)).astype(np.float32)
        if node in columns:
            bias = None if bias is None else bias[columns[node]]
        weight = layer.weight[:, columns[node]] if node in columns else layer.weight
        edit.replace(layer.output, rebuilt(edit, layer, weight[rows[node]] if node in rows else weight, bias))
