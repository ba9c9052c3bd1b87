"""All passes by kind, and passes from text: ``int8_dynamic`` or ``KIND:option=value,option=value``."""

from __future__ import annotations

import importlib
from dataclasses import fields

from pydantic import TypeAdapter, ValidationError

from optimize.passes.base import Pass
from serving.contract.errors import PilotageError

PASSES = {
    "bf16": "optimize.passes.bf16:Bf16",
    "clean_up": "optimize.passes.clean_up:CleanUp",
    "conv_to_matmul": "optimize.passes.conv_to_matmul:ConvToMatMul",
    "fold_calibration": "optimize.passes.fold_calibration:FoldCalibration",
    "fold_crosses": "optimize.passes.fold_crosses:FoldCrosses",
    "fp16": "optimize.passes.fp16:Fp16",
    "fuse_attention": "optimize.passes.fuse_attention:FuseAttention",
    "fuse_gelu": "optimize.passes.fuse_gelu:FuseGelu",
    "fuse_layer_norm": "optimize.passes.fuse_layer_norm:FuseLayerNorm",
    "int8_dynamic": "optimize.passes.int8_dynamic:Int8Dynamic",
    "int8_static": "optimize.passes.int8_static:Int8Static",
    "low_rank": "optimize.passes.low_rank:LowRank",
    "merge_projections": "optimize.passes.merge_projections:MergeProjections",
    "mixed_precision": "optimize.passes.mixed_precision:MixedPrecision",
    "prune_2_4": "optimize.passes.prune_2_4:Prune24",
    "prune_heads": "optimize.passes.prune_heads:PruneHeads",
    "prune_magnitude": "optimize.passes.prune_magnitude:PruneMagnitude",
    "prune_neurons": "optimize.passes.prune_neurons:PruneNeurons",
    "prune_width": "optimize.passes.prune_width:PruneWidth",
    "repeat_thin": "optimize.passes.repeat_thin:RepeatThin",
    "smooth_quant": "optimize.passes.smooth_quant:SmoothQuant",
    "split_request": "optimize.passes.split_request:SplitRequest",
    "table_bits": "optimize.passes.table_bits:TableBits",
    "table_fp16": "optimize.passes.table_fp16:TableFp16",
    "table_frequent_tail": "optimize.passes.table_frequent_tail:TableFrequentTail",
    "table_quotient_remainder": "optimize.passes.table_quotient_remainder:TableQuotientRemainder",
    "used_position": "optimize.passes.used_position:UsedPosition",
    "weight_only": "optimize.passes.weight_only:WeightOnly",
}
"""Kind → module and class; a pass is imported when it is asked for."""


class UnknownPass(PilotageError):
    """No pass of this kind, or no such option."""


def pass_type(kind: str) -> type[Pass]:
    """Return the class of a kind.

    Raises
    ------
    UnknownPass
        Naming the kinds that there are.
    """
    if kind not in PASSES:
        raise UnknownPass(f"there is no pass {kind!r}; there are {', '.join(sorted(PASSES))}")
    module, _, name = PASSES[kind].partition(":")
    found: type[Pass] = getattr(importlib.import_module(module), name)
    return found


def parse_pass(text: str) -> Pass:
    """Make a pass from ``KIND`` or ``KIND:option=value,option=value``; values of a tuple are joined by ``+``.

    Raises
    ------
    UnknownPass
        Naming the kind, option or value that is wrong.
    """
    kind, _, options = text.partition(":")
    found = pass_type(kind)
    known = {field.name: field for field in fields(found)}
    given: dict[str, object] = {}
    for part in filter(None, options.split(",")):
        name, equals, value = part.partition("=")
        if name not in known or not equals:
            raise UnknownPass(f"pass {kind!r} has no option {part!r}; it takes {', '.join(f'{n}=…' for n in known) or 'none'}")
        given[name] = value.split("+") if isinstance(known[name].default, tuple) else value
    try:
        return TypeAdapter(found).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UnknownPass(f"pass {kind!r}: {'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}") from error
