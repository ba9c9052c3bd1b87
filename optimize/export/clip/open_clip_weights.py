"""open_clip's names of weights → those of transformers' `CLIPModel`.

Letters: ``W`` width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

_BLOCK = re.compile(r"(visual\.|text\.|)transformer\.resblocks\.(\d+)\.(.+)")

_IN_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip

_ELSEWHERE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}

_TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Products with a matrix on the right there, linear layers here."""

_NOT_LEARNED = {"attn_mask"}


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All weights in float32 under their new names; what has none keeps its own, so that loading finds it superfluous."""
    return {name: tensor.to(torch.float32) for key, value in state.items() for name, tensor in _renamed(key, value)}


def _renamed(key: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    block = _BLOCK.fullmatch(key)
    if block is not None:
        tower = "vision_model" if block[1] == "visual." else "text_model"
        yield from _in_block(f"{tower}.encoder.layers.{block[2]}.", block[3], value)
        return
    plain = key.removeprefix("text.")  # models of the class CustomTextCLIP
    if plain in _TURNED:
        yield _TURNED[plain], value.T
    elif plain in _ELSEWHERE:
        yield _ELSEWHERE[plain], value.reshape(()) if plain == "logit_scale" and value.numel() == 1 else value
    elif plain not in _NOT_LEARNED:
        yield key, value


def _in_block(prefix: str, key: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    module, _, kind = key.rpartition(".")
    if key in ("attn.in_proj_weight", "attn.in_proj_bias"):  # (3 W, W) or (3 W,): query, key and value on top of each other
        kind = key.rpartition("_")[2]
        for name, part in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
            yield f"{prefix}self_attn.{name}.{kind}", part
    else:
        yield f"{prefix}{_IN_BLOCK.get(module, module)}.{kind}", value
