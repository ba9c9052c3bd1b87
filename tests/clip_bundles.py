"""A tiny bundle of the family ``clip`` that knows three colours, made without torch.

Its image tower reads the mean colour of a picture, its text tower the words red, green and blue; everything else is seeded noise.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from serving.contract.bundle import ClipBundle, write_bundle
from serving.contract.clip import ClipSpec
from serving.contract.manifest import ClipManifest, Provenance, Quality, TowerFiles

SIZE, LENGTH, DIM = 8, 40, 16
COLOURS = ("red", "green", "blue")
BEGIN, END = "<begin>", "<end>"


def tiny_clip_spec(**scoring: Any) -> ClipSpec:
    return ClipSpec.model_validate(
        {
            "image": {
                "size": SIZE,
                "resize": "squash",
                "resize_to": SIZE,
                "resample": "bicubic",
                "mean": (0.5, 0.5, 0.5),
                "std": (0.5, 0.5, 0.5),
            },
            "text": {
                "context_length": LENGTH,
                "padding": "max_length",
                "pad_id": 0,
                "canonicalize": "lower",
                "truncate": True,
                "uses_attention_mask": False,
            },
            "scoring": {"kind": "softmax", "logit_scale": 20.0, **scoring},
            "embedding_size": DIM,
            "templates": "single",
        }
    )


def tiny_clip_bundle(target: Path, *, name: str = "tiny-clip", version: str = "1", seed: int = 0, **scoring: Any) -> ClipBundle:
    """Write the bundle to `target`; towers of another `seed` have other noise."""
    rng = np.random.default_rng(seed)
    spec = tiny_clip_spec(**scoring)
    parts = target.parent / f"{target.name}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(parts / "tokenizer.json"))
    onnx.save(_image_tower(rng), str(parts / "image.onnx"))
    onnx.save(_text_tower(rng, tokenizer), str(parts / "text.onnx"))
    manifest = ClipManifest.model_construct(
        name=name,
        version=version,
        family="clip",
        towers=TowerFiles(image="image.onnx", text="text.onnx"),
        tokenizer="tokenizer.json",
        clip=spec,
        quality=Quality(data="none", data_fingerprint="0", rows=1, metrics={"accuracy": 1.0}),
        provenance=Provenance(created_at=datetime(2026, 1, 1, tzinfo=UTC), architecture="tiny", variant="fp32", seed=seed, versions={}),
        files={},
    )
    return write_bundle(target, manifest, {path.name: path for path in parts.iterdir()}, replace=target.exists())


def picture(colour: str | tuple[int, int, int], form: str = "PNG", size: tuple[int, int] = (20, 14)) -> bytes:
    """An image file of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def _model(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> tiny {text}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def _image_tower(rng: np.random.Generator) -> onnx.ModelProto:
    weights = rng.normal(size=(SIZE, SIZE, 3, DIM)).astype(np.float32) * 0.002
    for channel in range(3):
        weights[:, :, channel, channel] += 4 / SIZE**2
    return _model(
        f"""(uint8[B, {SIZE}, {SIZE}, 3] pixels) => (float[B, {DIM}] image_embeds) {{
          scaled = Cast <to = 1> (pixels)
          unit = Div (scaled, range)
          centred = Sub (unit, half)
          flat = Reshape (centred, flat_shape)
          projected = MatMul (flat, weights)
          shifted = Add (projected, shift)
          length = ReduceL2 <keepdims = 1> (shifted, last)
          image_embeds = Div (shifted, length)
        }}""",
        range=np.float32(255), half=np.float32(0.5), flat_shape=np.array([0, -1]), last=np.array([-1]),
        weights=weights.reshape(-1, DIM), shift=rng.normal(size=DIM).astype(np.float32) * 0.1,
    )  # fmt: skip


def _text_tower(rng: np.random.Generator, tokenizer: Tokenizer) -> onnx.ModelProto:
    table = rng.normal(size=(tokenizer.get_vocab_size(), DIM)).astype(np.float32) * 0.3
    table[0] = 0
    for channel, colour in enumerate(COLOURS):
        token = tokenizer.token_to_id(f"Ġ{colour}")
        table[token, :3] = -4
        table[token, channel] = 8
    positions = rng.uniform(0.8, 1.2, size=(1, LENGTH, 1)).astype(np.float32)
    return _model(
        f"""(int64[T, L] input_ids) => (float[T, {DIM}] text_embeds) {{
          rows = Gather (table, input_ids)
          placed = Mul (rows, positions)
          summed = ReduceSum <keepdims = 0> (placed, middle)
          length = ReduceL2 <keepdims = 1> (summed, last)
          text_embeds = Div (summed, length)
        }}""",
        table=table, positions=positions, middle=np.array([1]), last=np.array([-1]),
    )  # fmt: skip


def _tokenizer() -> Tokenizer:
    """Bytes, and the three colours as tokens of their own."""
    merges: list[tuple[str, str]] = []
    tokens = ["<pad>", BEGIN, END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    for colour in COLOURS:
        word = "Ġ"
        for letter in colour:
            merges.append((word, letter))
            word += letter
            tokens.append(word)
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(dict.fromkeys(tokens))}, list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, 1), (END, 2)])
    return tokenizer
