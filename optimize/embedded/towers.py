"""The two towers as graphs: exported, checked against torch, quantized, and run as they will be served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from optimize.data.scenes.render import SIDE, Pixels
from optimize.export.files import load_graph, save_graph
from optimize.export.inputs import example_of
from optimize.export.module import export_module
from optimize.export.module_parity import check_module
from optimize.models.clip_small import ClipSmall
from optimize.passes.int8_dynamic import Int8Dynamic
from optimize.training.zero_shot import Embeddings
from serving.contract.clip import IMAGE_EMBEDS, INPUT_IDS, PIXELS, TEXT_EMBEDS
from serving.runtime.session import open_session

RUN_PICTURES = 64
REFERENCE, INT8 = "fp32", "int8_dynamic"


def export_towers(model: ClipSmall, folder: Path, seed: int) -> float:
    """Write ``fp32/image.onnx`` and ``fp32/text.onnx``; return the largest difference to torch.

    Raises
    ------
    ExportError
        A tower cannot be exported, or its graph answers otherwise.
    """
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, SIDE, SIDE, 3), dtype=torch.uint8, generator=rng)
    words = model.text.words.num_embeddings
    tokens = torch.randint(2, words, (3, 9), generator=rng)
    tokens[0, 5:] = 0  # padding has to be without effect
    worst = 0.0
    image = example_of(model.image, {PIXELS: pixels})
    text = example_of(model.text, {INPUT_IDS: tokens}, dynamic={INPUT_IDS: {1: "L"}})
    (folder / REFERENCE).mkdir(parents=True, exist_ok=True)
    for module, example, output, path in (
        (model.image, image, IMAGE_EMBEDS, folder / REFERENCE / "image.onnx"),
        (model.text, text, TEXT_EMBEDS, folder / REFERENCE / "text.onnx"),
    ):
        save_graph(export_module(module, example, outputs=(output,)), path)
        worst = max(worst, *(check.difference for check in check_module(module, example, path)))
    return worst


def quantize_towers(folder: Path) -> None:
    """Write ``int8_dynamic/image.onnx`` and ``int8_dynamic/text.onnx`` from the float32 ones."""
    (folder / INT8).mkdir(exist_ok=True)
    for name in ("image.onnx", "text.onnx"):
        save_graph(Int8Dynamic().apply(load_graph(folder / REFERENCE / name)), folder / INT8 / name)


class GraphTowers:
    """Graphs of one variant, as `zero_shot.Towers`."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, threads: int) -> None:
        self._image = open_session(folder / "image.onnx", threads=threads)
        self._text = open_session(folder / "text.onnx", threads=threads)
        self._tokenizer = tokenizer

    def images(self, pixels: Pixels) -> Embeddings:
        """Embed pictures."""
        parts = [pixels[at : at + RUN_PICTURES] for at in range(0, len(pixels), RUN_PICTURES)]
        return np.concatenate([np.asarray(self._image.run([IMAGE_EMBEDS], {PIXELS: part})[0]) for part in parts])

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts."""
        tokens = np.array([encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))], np.int64)
        return np.asarray(self._text.run([TEXT_EMBEDS], {INPUT_IDS: tokens})[0])
