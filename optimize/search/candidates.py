"""What is tried: compositions of passes, as text, and a list for each family of models.

A list holds single techniques, so that the report can say what each brought, and the compositions that won where they were measured,
int8 with each type of weights, for the fastest that is accurate depends on the processor. What has no remedy in it stands before what
has. A pass that this version does not have drops its candidates from the list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from optimize.passes.base import Pass
from optimize.passes.registry import PASSES, parse_pass

REFERENCE = "fp32"

DOES_NOT_APPLY = "does not apply"
"""In the refusal of a candidate of which a pass found nothing to change."""

Family = str

DEFAULTS: dict[Family, tuple[str, ...]] = {
    "ranking": (
        "clean_up",
        "fp16",
        "int8_dynamic",
        "clean_up+int8_dynamic",
        "clean_up+int8_dynamic:weight_type=int7",
        "split_request+int8_dynamic",
        "fold_calibration+int8_dynamic",
        "clean_up+smooth_quant+int8_dynamic",
        "clean_up+int8_static",
        "clean_up+smooth_quant+int8_static",
        "clean_up+mixed_precision",
        "table_fp16",
        "table_bits",
        "clean_up+int8_dynamic+table_bits",
        "clean_up+smooth_quant+int8_dynamic+table_bits",
        "clean_up+smooth_quant+int8_dynamic+table_frequent_tail",
        "clean_up+low_rank:rank=32",
        "clean_up+low_rank:rank=32+table_bits:block_size=64",
        "clean_up+low_rank:rank=32+int8_dynamic",
        "clean_up+low_rank:rank=32+smooth_quant+int8_dynamic+table_bits",
        "clean_up+low_rank:rank=32+repeat_thin+fold_crosses+table_bits:scales=column",
        "clean_up+low_rank:rank=8+repeat_thin+fold_crosses+table_bits:scales=column",
        "clean_up+prune_neurons+int8_dynamic+table_bits",
    ),
    "transformer": (
        "clean_up",
        "fuse_attention",
        "fuse_attention+fuse_gelu+merge_projections",
        "fp16",
        "weight_only",
        "int8_dynamic",
        "int8_dynamic:weight_type=int7",
        "fuse_attention+fuse_gelu+int8_dynamic",
        "fuse_attention+fuse_gelu+int8_static:weight_type=int7",
        "fuse_attention+fuse_gelu+smooth_quant:alpha=0.7+int8_static:weight_type=int7",
        "fuse_attention+fuse_gelu+mixed_precision:max_error=0.02",
        "fuse_attention+fuse_gelu+merge_projections+int8_dynamic",
        "fuse_attention+fuse_gelu+merge_projections+smooth_quant+int8_dynamic",
        "used_position+fuse_attention+fuse_gelu+merge_projections+int8_dynamic",
        "conv_to_matmul+used_position+fuse_attention+fuse_gelu+merge_projections+int8_dynamic:weight_type=int8",
        "conv_to_matmul+used_position+fuse_attention+fuse_gelu+merge_projections+int8_dynamic:weight_type=int7",
        "conv_to_matmul+used_position+fuse_attention+fuse_gelu+merge_projections+smooth_quant+int8_dynamic:weight_type=int7",
        "prune_heads+fuse_attention+fuse_gelu+merge_projections+int8_dynamic",
        "prune_width:share=0.125+fuse_attention+fuse_gelu+merge_projections+int8_dynamic",
    ),
    "any": (
        "clean_up",
        "fp16",
        "int8_dynamic",
        "clean_up+int8_dynamic",
        "clean_up+int8_static",
        "clean_up+smooth_quant+int8_dynamic",
        "clean_up+mixed_precision",
        "clean_up+weight_only",
        "clean_up+prune_neurons+int8_dynamic",
    ),
}


@dataclass(frozen=True)
class Candidate:
    """A composition; without a step it is the reference."""

    steps: tuple[Pass, ...]

    @property
    def name(self) -> str:
        """The steps as text, ``clean_up+low_rank:rank=32``."""
        return "+".join(step.name for step in self.steps) or REFERENCE

    @property
    def file_stem(self) -> str:
        """The name as every file system takes it."""
        return re.sub(r"[^a-zA-Z0-9._+-]+", "-", self.name)

    @property
    def changes(self) -> str:
        """What the steps change, in words."""
        return "; ".join(step.changes for step in self.steps) or "as exported"

    def needs_calibration(self) -> bool:
        """Whether a step cannot do without calibration data."""
        return any("calibration" in step.needs for step in self.steps)


def parse_candidate(text: str) -> Candidate:
    """Read ``PASS+PASS:option=value``; a ``+`` inside an option's value stays there.

    Raises
    ------
    UnknownPass
        Naming what is wrong.
    """
    if text.strip() in ("", REFERENCE):
        return Candidate(())
    steps: list[str] = []
    for part in text.strip().split("+"):
        if steps and part.partition(":")[0] not in PASSES and ":" in steps[-1]:
            steps[-1] += f"+{part}"
        else:
            steps.append(part)
    return Candidate(tuple(parse_pass(step) for step in steps))


REMEDIES: dict[str, str | None] = {"smooth_quant": None, "mixed_precision": "int8_dynamic"}
"""Passes that save an int8 model whose answers are not good enough, and what stands in their place where they are not needed."""


def without_remedy(candidate: Candidate) -> Candidate | None:
    """The same composition in plain int8; None where that is no other one."""
    plain = [REMEDIES.get(step.kind, step.name) for step in candidate.steps]
    kept = [text for text in plain if text is not None]
    if kept == [step.name for step in candidate.steps] or not any(text.startswith("int8_") for text in kept):
        return None
    return Candidate(tuple(parse_pass(text) for text in kept))


def default_candidates(family: Family) -> list[Candidate]:
    """The reference and the list of `family`, of passes that there are."""
    listed = DEFAULTS.get(family, DEFAULTS["any"])
    known = [text for text in listed if all(step.partition(":")[0] in PASSES for step in text.split("+"))]
    return with_reference([parse_candidate(text) for text in known])


def with_reference(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The reference first, each composition once."""
    return list({candidate.name: candidate for candidate in (Candidate(()), *candidates)}.values())
