"""Small seeded checkpoints as transformers itself saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from optimize.export.clip.hugging_face import quiet_transformers

SIDE = 32
LENGTH = 16
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": SIDE, "patch_size": 8}
CLIP_START, CLIP_END = 512, 513
MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
LETTERS = "▁abcdefghijklmnopqrstuvwxyz"


def save_clip(folder: Path, *, legacy_end: bool = False) -> Path:
    """A CLIP model with its byte-pair tokenizer; `legacy_end`: with the wrong ``eos_token_id`` of the first configurations."""
    with quiet_transformers():
        from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        vocabulary = _byte_pairs()
        end = len(vocabulary) - 1
        text = {"vocab_size": 600, "max_position_embeddings": LENGTH, "bos_token_id": end - 1, "pad_token_id": end}
        config = CLIPConfig(
            text_config={**TOWER, **text, "eos_token_id": 2 if legacy_end else end}, vision_config=VISION, projection_dim=24
        )
        _seeded(CLIPModel, config).save_pretrained(folder)
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
        CLIPTokenizer(vocab=vocabulary, merges=MERGES, model_max_length=LENGTH).save_pretrained(folder)
    return folder


def save_siglip(folder: Path, *, second: bool = False) -> Path:
    """A SigLIP model, or one of SigLIP 2 in fixed resolution, which has another tokenizer."""
    with quiet_transformers():
        from transformers import Siglip2Tokenizer, SiglipConfig, SiglipModel
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        text = {**TOWER, "vocab_size": 64, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 1}
        model = _seeded(SiglipModel, SiglipConfig(text_config=text, vision_config=VISION))
        with torch.no_grad():
            model.logit_scale.fill_(4.7)
            model.logit_bias.fill_(-16.5)
        model.save_pretrained(folder)
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=2 if second else 3).save_pretrained(folder)
        if second:
            vocabulary = {token: i for i, token in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", *LETTERS))}
            Siglip2Tokenizer(vocab=vocabulary, padding_side="right").save_pretrained(folder)
        else:
            _sentence_pieces().save(str(folder / "tokenizer.json"))
            config = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>", "model_max_length": 64}
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def edit_json(file: Path, **values: Any) -> None:
    """Change keys of a JSON file; None takes one out."""
    document = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def _seeded(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms that do nothing would hide a mistake
    return model


def _byte_pairs() -> dict[str, int]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = [a + b for a, b in MERGES]
    return {t: i for i, t in enumerate([*letters, *(f"{c}</w>" for c in letters), *merged, "<|startoftext|>", "<|endoftext|>"])}


def _sentence_pieces() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in LETTERS), ("▁cat", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer
