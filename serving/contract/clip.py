"""What a CLIP bundle says of its two towers: how pictures and texts become their inputs, and similarities become probabilities.

Letters: ``S`` side of the square picture, ``L`` tokens, ``D`` embedding size.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

PIXELS, INPUT_IDS, ATTENTION_MASK = "pixels", "input_ids", "attention_mask"
IMAGE_EMBEDS, TEXT_EMBEDS = "image_embeds", "text_embeds"

TemplateSet = Literal["plain", "single", "simple", "imagenet80"]
"""Names of `serving.clip.prompts.NAMED`."""

Channels = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageSpec(_Frozen):
    """From a decoded RGB picture to ``pixels (S, S, 3) uint8``; what follows is in the graph."""

    size: Annotated[int, Field(ge=1, le=4096)]
    """``S``."""
    resize: Literal["shortest_edge", "squash"]
    """``shortest_edge``: scaled so that the shorter side is `resize_to`, then the middle is cut out; ``squash``: both sides to `size`."""
    resize_to: Annotated[int, Field(ge=1, le=8192)]
    resample: Literal["bicubic", "bilinear", "lanczos"]
    """PIL's filter, antialiased."""
    mean: Channels
    """Of values in [0, 1]. The image tower subtracts it and divides by `std`: they stand here to be read, not to be applied."""
    std: Channels

    @model_validator(mode="after")
    def _can_be_cut(self) -> Self:
        if self.resize == "squash" and self.resize_to != self.size:
            raise ValueError(f"resize_to is {self.resize_to}, but a squashed picture has the size, {self.size}")
        if self.resize_to < self.size:
            raise ValueError(f"resize_to is {self.resize_to}: no square of {self.size} can be cut out of so short a side")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; each must be above 0")
        return self


class TextSpec(_Frozen):
    """From a text to ``input_ids (T, L) int64``, by the bundle's ``tokenizer.json``."""

    context_length: Annotated[int, Field(ge=1, le=65536)]
    """Most tokens of a text, those of its beginning and end counted."""
    padding: Literal["max_length", "longest"]
    """``max_length``: the graph takes `context_length` tokens always; ``longest``: any number up to it, the same for all texts of a run."""
    pad_id: Annotated[int, Field(ge=0)]
    canonicalize: Literal["none", "lower", "siglip"]
    """Before the tokenizer: ``lower``: lower case; ``siglip``: without ASCII punctuation and repeated spaces, too."""
    truncate: bool
    """Whether a longer text is cut; else it is refused."""
    uses_attention_mask: bool
    """Whether the graph takes ``attention_mask (T, L) int64``, too: 1 for tokens, 0 for padding."""


class ScoringSpec(_Frozen):
    """From a cosine to a probability."""

    kind: Literal["softmax", "sigmoid"]
    logit_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Factor of cosines; a checkpoint's is an exponent, this is not."""
    logit_bias: FiniteFloat | None = None
    """Added to the scaled cosine before the sigmoid."""

    @model_validator(mode="after")
    def _bias_belongs_to_the_sigmoid(self) -> Self:
        if (self.kind == "sigmoid") != (self.logit_bias is not None):
            raise ValueError(f"logit_bias is {self.logit_bias} with {self.kind}: a sigmoid needs one, a softmax has none")
        return self


class ClipSpec(_Frozen):
    """Everything that host code must know of a model."""

    image: ImageSpec
    text: TextSpec
    scoring: ScoringSpec
    embedding_size: Annotated[int, Field(ge=1)]
    """``D``."""
    templates: TemplateSet
    """Prompts for requests that name none."""
