"""CLIP ViT-B/32 with seeded weights in the forms that are compared: in torch, as a bundle, and as a bundle of the optimized towers.

How fast a model of this shape answers does not depend on what its weights are; how well it classifies is not measured here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import torch

from benchmarks.optimize_arms import EXACT
from optimize.clip_bundling import bundle_checkpoint
from optimize.export.clip.checkpoint import Checkpoint, Parts
from optimize.export.clip.hugging_face import quiet_transformers
from optimize.export.clip.vocabulary import BPE_FILE, byte_pairs, read_byte_pairs
from optimize.export.files import bundled, save_graph
from optimize.passes.base import Context, PassNotApplicable
from optimize.passes.registry import parse_pass
from optimize.search.machine import describe_machine
from serving.contract.bundle import ClipBundle, write_bundle
from serving.contract.clip import ClipSpec, ImageSpec, ScoringSpec, TextSpec
from serving.contract.errors import PilotageError
from serving.contract.manifest import Source

LAYERS = 12
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
ENDS = ("<start_of_text>", "<end_of_text>")


@dataclass(frozen=True)
class ClipSubject:
    """One model in all its forms.

    Attributes
    ----------
    model
        transformers' ``CLIPModel``.
    plain, optimized
        Bundles: float32, and each tower after our passes with int8 products.
    passes
        What made the optimized image tower, and the text tower.
    """

    model: Any
    tokenizer: Any
    spec: ClipSpec
    plain: ClipBundle
    optimized: ClipBundle
    passes: dict[str, tuple[str, ...]]


def make(folder: Path, *, layers: int = LAYERS, seed: int = 0, tell: Callable[[str], None] = lambda what: None) -> ClipSubject:
    """Draw weights and write both bundles below `folder`; with fewer `layers` it is another, smaller model."""
    tell("drawing weights")
    tokenizer, end_id = _tokenizer()
    with quiet_transformers():
        from transformers import CLIPConfig, CLIPModel

        torch.manual_seed(seed)
        text = {
            "num_hidden_layers": layers,
            "eos_token_id": end_id,
            "pad_token_id": end_id,
            "bos_token_id": end_id - 1,
            "vocab_size": end_id + 1,
        }
        kind: Any = CLIPModel
        model = kind(CLIPConfig(text_config=text, vision_config={"num_hidden_layers": layers})).eval()
    spec = ClipSpec(
        image=ImageSpec(size=224, resize="shortest_edge", resize_to=224, resample="bicubic", mean=MEAN, std=STD),
        text=TextSpec(context_length=77, padding="longest", pad_id=end_id, canonicalize="none", truncate=True, uses_attention_mask=False),
        scoring=ScoringSpec(kind="softmax", logit_scale=100.0),
        embedding_size=512,
        templates="single",
    )
    parts = Parts("clip", model, tokenizer, end_id, spec, ())
    tell("exporting both towers")
    plain = bundle_checkpoint(Checkpoint(parts, _source()), folder / "plain", name="vit-b-32", version="seeded")
    tell("optimizing both towers")
    flags = describe_machine(1).flags
    weights = "int8" if {"avx512_vnni", "avx_vnni"} & set(flags) else "int7"
    recipe = (*EXACT["image_tower"], f"int8_dynamic:weight_type={weights}")
    files = {name: plain.path / name for name in plain.manifest.files}
    passes = {}
    for tower, name in (("image", plain.manifest.towers.image), ("text", plain.manifest.towers.text)):
        graph, passes[tower] = _passed(onnx.load(files[name]), recipe)
        for old in [other for other in files if other.startswith(name)]:
            del files[old]
        save_graph(graph, folder / name)
        files |= bundled(folder / name, name)
    return ClipSubject(model, tokenizer, spec, plain, write_bundle(folder / "optimized", plain.manifest, files), passes)


def _passed(graph: onnx.ModelProto, recipe: tuple[str, ...]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Apply the passes that have something to do, and say which had."""
    applied = []
    for name in recipe:
        try:
            graph = parse_pass(name).apply(graph, Context())
        except PassNotApplicable:
            continue
        applied.append(name)
    return graph, tuple(applied)


def _tokenizer() -> tuple[Any, int]:
    """CLIP's own vocabulary where open_clip is installed, else bytes alone: labels then have more tokens."""
    found = find_spec("open_clip")
    if found is not None and found.origin is not None:
        tokenizer = read_byte_pairs(Path(found.origin).parent / BPE_FILE)
    else:
        tokenizer = byte_pairs((), ENDS)
    end_id = tokenizer.token_to_id(ENDS[1])
    if end_id is None:
        raise PilotageError(f"the tokenizer has no token {ENDS[1]!r}")
    return tokenizer, end_id


def _source() -> Source:
    return Source(name="seeded-vit-b-32", fingerprint="0" * 64)
