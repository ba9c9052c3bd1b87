"""Folders as transformers saves them: CLIP, SigLIP, and SigLIP 2 of fixed resolution, which has SigLIP's layout."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from optimize.export.clip.checkpoint import CheckpointError, Parts, described, read_json, weight_files
from optimize.export.clip.preprocessing import from_transformers, read_preprocessor
from optimize.export.clip.vocabulary import read_tokenizer, require_vocabulary, special_token
from serving.contract.clip import ClipSpec

WEIGHTS = "model.safetensors"

LEGACY_END = 2
"""``eos_token_id`` of the first CLIP configurations, which is wrong: models that have it look for the largest id instead, which ends a text
in CLIP's vocabulary (transformers, pull request 24773)."""

MAX_SHOWN = 3


def read_hugging_face(folder: Path, templates: str) -> Parts:
    """Read a folder.

    Parameters
    ----------
    templates
        Name of the template set for requests that name none.

    Raises
    ------
    CheckpointError
        Something is missing or damaged, does not fit together, or is of a kind that is not served.
    """
    config_file = folder / "config.json"
    config = read_json(config_file)
    model_type = config.get("model_type")
    if model_type == "siglip2":
        raise CheckpointError(
            f"{config_file}: this is a SigLIP 2 model of variable resolution (NaFlex), whose pictures have no fixed size; take one of "
            "fixed resolution, such as siglip2-base-patch16-224"
        )
    if model_type not in ("clip", "siglip"):
        raise CheckpointError(f"{config_file}: model_type is {model_type!r}; 'clip' and 'siglip' are served")
    weights = weight_files(folder, WEIGHTS)
    settings, preprocessor_file = read_preprocessor(folder, model_type)
    tokenizer, tokenizer_files = read_tokenizer(folder)
    model = _load(folder, model_type)
    text = model.config.text_config
    image = from_transformers(settings, model_type, model.config.vision_config.image_size, preprocessor_file)
    require_vocabulary(tokenizer, text.vocab_size, folder)
    end_id = special_token(folder, "eos_token", tokenizer)
    if model_type == "clip":
        end_id = _clip_end(tokenizer, text, folder)
    spec = described(
        ClipSpec,
        {
            "image": image,
            "text": _text(folder, model_type, tokenizer, text),
            "scoring": _scoring(model, model_type),
            "embedding_size": _embedding_size(model, model_type),
            "templates": templates,
        },
        config_file,
    )
    named = (folder / name for name in ("tokenizer_config.json", "special_tokens_map.json"))
    files = (config_file, *weights, preprocessor_file, *tokenizer_files, *(file for file in named if file.is_file()))
    return Parts(model_type, model, tokenizer, end_id, spec, files)


def _load(folder: Path, model_type: str) -> Any:
    with quiet_transformers():
        from transformers import CLIPModel, SiglipModel

        kind: Any = CLIPModel if model_type == "clip" else SiglipModel
        try:
            model, found = kind.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # transformers and safetensors raise many unrelated types
            first = " ".join(str(error).split())[:500]
            raise CheckpointError(f"{folder} cannot be loaded as {kind.__name__}: {first}") from error
    for what, keys in (("lacks", found["missing_keys"]), ("has no place for", found["unexpected_keys"])):
        if keys:
            subject = WEIGHTS if what == "lacks" else kind.__name__
            raise CheckpointError(f"{folder}: {subject} {what} {shown(keys)}; is it a checkpoint of another model?")
    if model_type == "siglip" and not getattr(model.config.vision_config, "vision_use_head", True):
        raise CheckpointError(f"{folder}: the image model has no pooling head (vision_use_head is false), so it gives no embedding")
    return model.eval()


def _clip_end(tokenizer: Tokenizer, text: Any, folder: Path) -> int:
    """The token that ends a text, which the model must look for."""
    end = tokenizer.encode("a").ids[-1]
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    looked_for = largest if text.eos_token_id == LEGACY_END else text.eos_token_id
    if end != looked_for:
        rule = "the largest id" if text.eos_token_id == LEGACY_END else "eos_token_id"
        raise CheckpointError(
            f"{folder}: the tokenizer ends texts with token {end}, the model reads them at token {looked_for} ({rule}): all would be read "
            "at the wrong place; mend eos_token_id in config.json, or take the tokenizer that belongs to the model"
        )
    return end


def _text(folder: Path, model_type: str, tokenizer: Tokenizer, text: Any) -> dict[str, Any]:
    pad = special_token(folder, "pad_token", tokenizer)
    config = folder / "tokenizer_config.json"
    tokenizer_config = read_json(config) if config.is_file() else {}
    if tokenizer_config.get("padding_side", "right") != "right":
        raise CheckpointError(f"{config}: padding_side is {tokenizer_config['padding_side']!r}; CLIP and SigLIP were trained with 'right'")
    is_siglip2 = "iglip2" in str(tokenizer_config.get("tokenizer_class")) or "Gemma" in str(tokenizer_config.get("tokenizer_class"))
    return {
        "context_length": text.max_position_embeddings,
        # CLIP reads a text at its end and looks at nothing behind it; SigLIP reads it at the last place, padding or not
        "padding": "longest" if model_type == "clip" else "max_length",
        "pad_id": pad if pad is not None else text.pad_token_id or 0,
        "canonicalize": "none" if model_type == "clip" else "lower" if is_siglip2 else "siglip",
        "truncate": True,
        "uses_attention_mask": False,
    }


def _scoring(model: Any, model_type: str) -> dict[str, Any]:
    scale = float(model.logit_scale.detach().exp())
    if model_type == "clip":
        return {"kind": "softmax", "logit_scale": scale}
    return {"kind": "sigmoid", "logit_scale": scale, "logit_bias": float(model.logit_bias.detach())}


def _embedding_size(model: Any, model_type: str) -> int:
    return int(model.projection_dim if model_type == "clip" else model.config.vision_config.hidden_size)


def shown(keys: Any) -> str:
    """Some names of weights, for a message."""
    names = sorted(map(str, keys))
    return ", ".join(names[:MAX_SHOWN]) + (f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else "")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars, advice and warnings from the caller; what matters of them is in the exceptions."""
    from transformers.utils import logging as of_transformers

    bars, disabled = of_transformers.is_progress_bar_enabled(), logging.root.manager.disable
    of_transformers.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if bars:
            of_transformers.enable_progress_bar()  # type: ignore[no-untyped-call]
