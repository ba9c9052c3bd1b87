"""Attention heads, the least important ones removed.

Letters: ``N`` heads, ``D`` width of a head, ``H`` width of a position.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable, require_share
from optimize.passes.editing import Edit, narrow
from optimize.passes.fuse_attention import FuseAttention
from optimize.passes.heads import FusedAttention, fused_attentions
from optimize.passes.linear import rebuilt
from optimize.passes.moments import Moments, moments_of

Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PruneHeads(Pass):
    """Remove a share of each attention's heads, with their slices of the projections of queries, keys, values and outputs.

    A head counts for what its removal changes: the deviation of what it adds to the output projection; what it adds on average goes into
    that projection's bias. Without calibration data it counts for the norm of its values' projection times its outputs'. Attention that is
    spelled out is fused first, as `fuse_attention` does.

    Attributes
    ----------
    share
        Share of the heads of each attention that is removed, rounded down.

    References
    ----------
    Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019.
    """

    kind: ClassVar[str] = "prune_heads"

    share: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        require_share(self.kind, "share", self.share)

    @property
    def changes(self) -> str:
        """What it changes."""
        return f"the least important {self.share:.0%} of each attention's heads are removed"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the smaller model.

        Raises
        ------
        PassNotApplicable
            No attention stands between projections with constant weights, or all have so few heads that the share is less than one.
        CalibrationError
            The model does not run on the calibration data.
        """
        with suppress(PassNotApplicable):  # what there is may be fused already
            model = FuseAttention().apply(model)
        edit = Edit(model)
        sites = [site for site in fused_attentions(edit) if int(self.share * site.heads)]
        if not sites:
            raise PassNotApplicable(
                "the model has no multi-head attention between projections with constant weights, or too few heads to remove this share"
            )
        moments = moments_of(model, [str(site.output.name) for site in sites], context, products=True)
        for site in sites:
            importance = _importance(site, moments)
            kept = np.zeros(site.heads, bool)
            kept[np.argsort(-importance, kind="stable")[: site.heads - int(self.share * site.heads)]] = True
            _cut(edit, site, kept, moments.get(str(site.output.name)))
        return edit.done()


def _importance(site: FusedAttention, moments: Mapping[str, Moments]) -> npt.NDArray[np.float64]:
    """One number a head, ``(N,)``."""
    seen = moments.get(str(site.output.name))
    importance = np.zeros(site.heads)
    for head, rows in enumerate(np.split(np.arange(site.value_width), site.heads)):
        for reader in site.readers:
            weight = reader.weight[rows].astype(np.float64)
            if seen is None:
                importance[head] += float(np.sum((site.value_weight[:, rows].astype(np.float64) @ weight) ** 2))
            else:
                importance[head] += float(np.sum(weight * (seen.covariance[np.ix_(rows, rows)] @ weight)))
    return importance


def _cut(edit: Edit, site: FusedAttention, kept: Kept, seen: Moments | None) -> None:
    units = [np.repeat(kept, width // site.heads) for width in (site.key_width, site.key_width, site.value_width)]
    for reader in site.readers:
        rows, bias = units[2], reader.bias
        if seen is not None:
            lost = seen.mean[~rows] @ reader.weight[~rows].astype(np.float64)
            bias = (lost + (0 if bias is None else bias)).astype(np.float32)
        edit.replace(reader.output, rebuilt(edit, reader, reader.weight[rows], bias))
    for layer, columns in zip(site.projections, units, strict=False):
        narrow(layer.output, int((~columns).sum()))
        edit.replace(layer.output, rebuilt(edit, layer, layer.weight[:, columns], None if layer.bias is None else layer.bias[columns]))
    for index, held, axis in site.packed:
        taken = np.concatenate(units)
        site.node.replace_input_with(index, edit.constant(np.compress(taken, held, axis), f"{site.output.name}/kept"))
    if site.mask is not None:
        index, held, axis = site.mask
        site.node.replace_input_with(index, edit.constant(np.compress(kept, held, axis), f"{site.output.name}/mask"))
    count = int(kept.sum())
    for name in site.counts:
        site.node.attributes[name] = ir.AttrInt64(name, count)
    if "qkv_hidden_sizes" in site.node.attributes:
        site.node.attributes["qkv_hidden_sizes"] = ir.AttrInt64s("qkv_hidden_sizes", [int(unit.sum()) for unit in units])
    narrow(site.output, int((~units[2]).sum()))
