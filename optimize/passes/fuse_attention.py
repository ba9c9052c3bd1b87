"""Multi-head attention as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.attention_sites import AttentionSite, attention_sites
from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import MICROSOFT, Edit, only_reader, same_axis, vector_added, width

ATTENTION_OPSET = 23
"""The first with ONNX's own ``Attention``."""

LOWEST = float(np.finfo(np.float32).min)
"""What torch and ONNX Runtime add where a mask says no."""


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Compute each attention with one operator, that keeps scores in the cache instead of in memory.

    Attributes
    ----------
    form
        ``contrib``: ONNX Runtime's ``MultiHeadAttention``, which adds the biases of the three projections too; ``standard``: ONNX's
        ``Attention``, for models of opset 23 and later; ``auto``: standard where the opset has it. In float32 the two are equally fast;
        under dynamic int8, which adds biases in its products anyway, standard was 2 to 3 % faster on CLIP's image tower, docs/passes.md.
    """

    kind: ClassVar[str] = "fuse_attention"

    form: Literal["auto", "contrib", "standard"] = "auto"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "each multi-head attention as one operator"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the fused model.

        Raises
        ------
        PassNotApplicable
            No attention is recognized, or `form` is ``standard`` and the model's opset has none.
        """
        edit = Edit(model)
        if self.form == "standard" and edit.opset < ATTENTION_OPSET:
            raise PassNotApplicable(
                f"the model has no standard Attention: its opset is {edit.opset}, that operator came with {ATTENTION_OPSET}; "
                f"export with opset {ATTENTION_OPSET} or take form=contrib"
            )
        sites = attention_sites(edit)
        if not sites:
            raise PassNotApplicable(
                "the model has no multi-head attention, softmax(scale * Q Kᵀ + mask) V between reshapes, that is recognized"
            )
        is_standard = self.form == "standard" or (self.form == "auto" and edit.opset >= ATTENTION_OPSET)
        for site in sites:
            (_standard if is_standard else _contrib)(edit, site)
        return edit.done()


def _contrib(edit: Edit, site: AttentionSite) -> None:
    before = site.tail.producer()
    assert before is not None
    inputs: list[ir.Value | None] = [site.query, site.key, site.value]
    biases = [_bias(value) for value in inputs if value is not None]
    if any(bias is not None for bias in biases):
        widths = [width(value) or 0 for value in (site.query, site.key, site.value)]
        parts = [np.zeros(w, np.float32) if bias is None else bias[1] for bias, w in zip(biases, widths, strict=True)]
        inputs = [value if bias is None else bias[0] for value, bias in zip(inputs, biases, strict=True)]
        inputs.append(edit.constant(np.concatenate(parts), f"{site.tail.name}/bias"))
    else:
        inputs.append(None)
    if site.mask is not None:
        inputs += [None, _added_mask(edit, before, site, site.mask)]
    attributes = {"num_heads": site.heads, "scale": site.scale, "unidirectional": int(site.causal)}
    while inputs[-1] is None:
        inputs.pop()
    edit.replace(site.tail, edit.add(before, "MultiHeadAttention", inputs, attributes, domain=MICROSOFT))


def _standard(edit: Edit, site: AttentionSite) -> None:
    before = site.tail.producer()
    assert before is not None
    inputs = [site.query, site.key, site.value] + ([] if site.mask is None else [_whole_mask(edit, before, site, site.mask)])
    attributes = {"q_num_heads": site.heads, "kv_num_heads": site.heads, "scale": site.scale, "is_causal": int(site.causal)}
    edit.replace(site.tail, edit.add(before, "Attention", inputs, attributes))


def _bias(value: ir.Value) -> tuple[ir.Value, npt.NDArray[np.float32]] | None:
    """Split ``product + bias`` where nothing else reads the sum."""
    return vector_added(value) if only_reader(value, "Reshape") is not None else None


def _added_mask(edit: Edit, before: ir.Node, site: AttentionSite, mask: ir.Value) -> ir.Value:
    """Make a mask of booleans one of floats to add."""
    if mask.dtype == ir.DataType.BOOL:
        zero, lowest = (edit.constant(np.array(number, np.float32), f"mask/{name}") for number, name in ((0.0, "kept"), (LOWEST, "hidden")))
        shape = mask.shape
        mask = edit.add(before, "Where", [mask, zero, lowest])
        mask.shape = shape
    return _whole_mask(edit, before, site, mask)


def _whole_mask(edit: Edit, before: ir.Node, site: AttentionSite, mask: ir.Value) -> ir.Value:
    """Give the mask a row a query and a column a key: the operators broadcast batch and heads alone."""
    if same_axis(mask, 2, site.query, 1) and same_axis(mask, 3, site.key, 1):
        return mask
    sizes = [edit.add(before, "Shape", [value], {"start": 1, "end": 2}) for value in (site.query, site.key)]
    one = edit.constant(np.array([1], np.int64), "mask/one")
    return edit.add(before, "Expand", [mask, edit.add(before, "Concat", [one, one, *sizes], {"axis": 0})])
