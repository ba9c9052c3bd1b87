"""Folders as open_clip publishes them, whose two transformers are put into transformers' `CLIPModel`, where they are the same functions.

Read without open_clip, which wants torchvision besides. Towers of other libraries (``timm_model_name``, ``hf_model_name``), ResNets
and CoCa are refused by name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from optimize.export.clip.checkpoint import CheckpointError, Parts, described, read_json, weight_files
from optimize.export.clip.hugging_face import quiet_transformers, shown
from optimize.export.clip.open_clip_weights import renamed
from optimize.export.clip.preprocessing import from_open_clip
from optimize.export.clip.vocabulary import BPE_FILE, read_byte_pairs, read_tokenizer, require_vocabulary
from serving.contract.clip import ClipSpec

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"

VISION: dict[str, Any] = {
    "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224,
    "act_kwargs": None, "norm_kwargs": None,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0,
    "act_kwargs": None, "norm_kwargs": None, "hf_tokenizer_name": None, "tokenizer_kwargs": None,
}  # fmt: skip
"""Settings that are honoured, with open_clip's defaults."""

FIXED: dict[str, Any] = {
    "pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",), "block_type": ("default",),
}  # fmt: skip
"""Other settings may be there where they say nothing (false, null, zero), or one of these."""

FOR_TRAINING = {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "pad_id", "eos_id"} | {
    "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path",
    "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "tokenizer_mode",
}  # fmt: skip
"""Settings without a part in these models' answers."""

CLEANED = {"lower": "lower", "canonicalize": "siglip", "whitespace": "none"}


def read_open_clip(folder: Path, templates: str) -> Parts:
    """Read a folder; parameters and errors as for `read_hugging_face`."""
    file = folder / CONFIG
    document = read_json(file)
    config = document.get("model_cfg")
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: model_cfg is missing; is this open_clip's configuration?")
    vision = _settings(config, "vision_cfg", VISION, file)
    text = _settings(config, "text_cfg", TEXT, file)
    weights = weight_files(folder, WEIGHTS, "model.safetensors")
    tokenizer, canonicalize, tokenizer_files = _tokenizer(folder, text)
    require_vocabulary(tokenizer, text["vocab_size"], folder)
    side = vision["image_size"]
    side = side[0] if isinstance(side, list) and len(set(side)) == 1 else side
    if not isinstance(side, int):
        raise CheckpointError(f"{file}: image_size is {vision['image_size']}; models of square pictures are served")
    model, bias = _load(weights, config, {**vision, "image_size": side}, text, file)
    scale = float(model.logit_scale.detach().exp())
    spec = described(
        ClipSpec,
        {
            "image": from_open_clip(document.get("preprocess_cfg") or {}, side, file),
            "text": {
                "context_length": text["context_length"],
                "padding": "longest",
                "pad_id": 0,
                "canonicalize": canonicalize,
                "truncate": True,
                "uses_attention_mask": False,
            },
            "scoring": {"kind": "softmax" if bias is None else "sigmoid", "logit_scale": scale, "logit_bias": bias},
            "embedding_size": config.get("embed_dim"),
            "templates": templates,
        },
        file,
    )
    end_id = tokenizer.encode("a").ids[-1]
    if end_id != max(tokenizer.get_vocab(with_added_tokens=True).values()):
        raise CheckpointError(
            f"{folder}: the tokenizer ends texts with token {end_id}, which is not the largest id, where the model reads them"
        )
    return Parts("open_clip", model, tokenizer, end_id, spec, (file, *weights, *tokenizer_files))


def _settings(config: Mapping[str, Any], part: str, known: Mapping[str, Any], file: Path) -> dict[str, Any]:
    given = config.get(part)
    if not isinstance(given, dict):
        raise CheckpointError(f"{file}: model_cfg.{part} is missing")
    for key in ("timm_model_name", "hf_model_name"):
        if given.get(key):
            raise CheckpointError(
                f"{file}: {part}.{key} is {given[key]!r}: towers of other libraries are not read from open_clip's layout; SigLIP models "
                "are published in transformers' layout, too, which is"
            )
    if part == "vision_cfg" and isinstance(given.get("layers"), list):
        raise CheckpointError(f"{file}: {part}.layers is {given['layers']}: a ResNet, which is not served; take one of the ViT models")
    for key, value in given.items():
        if key in known or key in FOR_TRAINING or not value or value in FIXED.get(key, ()):
            continue
        raise CheckpointError(f"{file}: {part}.{key} is {value!r}, which is not served")
    if "multimodal_cfg" in config:
        raise CheckpointError(f"{file}: multimodal_cfg is there: CoCa models are not served")
    return {**known, **{key: value for key, value in given.items() if key in known}}


def _tokenizer(folder: Path, text: Mapping[str, Any]) -> tuple[Tokenizer, str, tuple[Path, ...]]:
    """The tokenizer, how texts are cleaned before it, and its files."""
    if text["hf_tokenizer_name"]:
        tokenizer, files = read_tokenizer(folder)
        cleaning = (text["tokenizer_kwargs"] or {}).get("clean", "whitespace")
        if cleaning not in CLEANED:
            raise CheckpointError(f"{folder / CONFIG}: tokenizer_kwargs.clean is {cleaning!r}; {', '.join(CLEANED)} are served")
        return tokenizer, CLEANED[cleaning], files
    if text["tokenizer_kwargs"]:
        raise CheckpointError(
            f"{folder / CONFIG}: tokenizer_kwargs is {text['tokenizer_kwargs']}, which is served with hf_tokenizer_name only"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        for place in (folder, _open_clip_package()):
            if place is not None and (place / BPE_FILE).is_file():
                return read_byte_pairs(place / BPE_FILE), "none", (place / BPE_FILE,)
        raise CheckpointError(
            f"{folder}: file 'tokenizer.json' is missing, and so is {BPE_FILE!r}, of which it can be made; copy that one from open_clip's "
            "package into the folder"
        )
    tokenizer, files = read_tokenizer(folder)
    return tokenizer, "none", files


def _open_clip_package() -> Path | None:
    """Folder of the installed package, which is not imported."""
    found = importlib.util.find_spec("open_clip")
    return Path(found.origin).parent if found is not None and found.origin else None


def _load(weights: tuple[Path, ...], config: Mapping[str, Any], vision: Any, text: Any, file: Path) -> tuple[Any, float | None]:
    """The model, and the bias of its logits, if it has one."""
    state: dict[str, torch.Tensor] = {}
    for part in weights:
        if part.suffix == ".safetensors":
            try:
                state.update(load_file(part))
            except Exception as error:  # safetensors has an error of its own that is not exported
                raise CheckpointError(f"{part} cannot be read: {error}") from error
    bias = state.pop("logit_bias", None)
    with quiet_transformers():
        from transformers import CLIPConfig, CLIPModel

        try:
            model: Any = CLIPModel(CLIPConfig(**_transformers_config(config, vision, text)))
        except Exception as error:  # of the values in the configuration, in many types
            raise CheckpointError(f"{file}: no model can be built of it: {' '.join(str(error).split())[:500]}") from error
    try:
        found = model.load_state_dict(renamed(state), strict=False)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:500]
        raise CheckpointError(f"{weights[0]} does not fit {file.name}: {first}") from error
    for what, keys in (("lacks", found.missing_keys), ("has, without a place in the model,", found.unexpected_keys)):
        if keys:
            raise CheckpointError(f"{weights[0]} {what} {shown(keys)}; is it a checkpoint of another model?")
    return model.eval(), None if bias is None else float(bias)


def _transformers_config(config: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    size = config.get("embed_dim")
    of_text = {"vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"], "num_attention_heads": text["heads"]}
    heads = vision["width"] // vision["head_width"]
    of_vision = {"image_size": vision["image_size"], "patch_size": vision["patch_size"], "num_attention_heads": heads}
    return {
        "projection_dim": size,
        "text_config": {**_tower(config, text), **of_text, "projection_dim": size, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 0},
        "vision_config": {**_tower(config, vision), **of_vision, "projection_dim": size},
    }


def _tower(config: Mapping[str, Any], tower: Mapping[str, Any]) -> dict[str, Any]:
    """What the configurations of both towers have."""
    approximate = (tower["act_kwargs"] or {}).get("approximate", "none")
    return {
        "hidden_size": tower["width"],
        "intermediate_size": int(tower["width"] * tower["mlp_ratio"]),
        "num_hidden_layers": tower["layers"],
        "hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu_pytorch_tanh" if approximate == "tanh" else "gelu",
        "layer_norm_eps": (tower["norm_kwargs"] or {}).get("eps", 1e-5),
    }
