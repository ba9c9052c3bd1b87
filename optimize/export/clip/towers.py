"""The two towers as graphs take them: bytes of pixels in, ids of tokens in, embeddings of length 1 out.

Letters: ``B`` pictures, ``S`` side, ``T`` texts, ``L`` tokens, ``D`` embedding size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimize.export.inputs import Example, example_of
from serving.contract.clip import INPUT_IDS, PIXELS, ClipSpec, ImageSpec

PARITY_SIZES = (1, 3, 8)
EXAMPLES = max(PARITY_SIZES)
"""Rows of the examples, so that the check repeats none. Export traces with them, too: 1 would be taken for a constant."""

SHORT = 5
"""Tokens of the shortest example text."""


class ImageTower(nn.Module):
    """``pixels (B, S, S, 3) uint8`` → ``image_embeds (B, D) float32``.

    Parameters
    ----------
    model
        Has ``get_image_features``, which takes ``(B, 3, S, S) float32``.
    """

    def __init__(self, model: nn.Module, spec: ImageSpec) -> None:
        super().__init__()
        self.model = model
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (spec.mean, spec.std))
        self.scale: Tensor
        self.offset: Tensor
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, 3, 1, 1))
        self.register_buffer("offset", (-mean / std).float().view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale, normalize, embed."""
        values = pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.offset
        return functional.normalize(_features(self.model.get_image_features(pixel_values=values)), dim=-1)  # type: ignore[operator]


class TextTower(nn.Module):
    """``input_ids (T, L) int64`` → ``text_embeds (T, D) float32``.

    Parameters
    ----------
    model
        Has ``get_text_features``. It gets no mask: CLIP looks at nothing behind a text's end, SigLIP was trained with padding in view.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed."""
        return functional.normalize(_features(self.model.get_text_features(input_ids=input_ids)), dim=-1)  # type: ignore[operator]


def image_example(tower: nn.Module, spec: ClipSpec) -> Example:
    """Noise, always the same, of a batch that varies."""
    size = (EXAMPLES, spec.image.size, spec.image.size, 3)
    pixels = torch.randint(256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return example_of(tower, {PIXELS: pixels})


def text_example(tower: nn.Module, spec: ClipSpec, vocabulary: int, end_id: int | None) -> Example:
    """Texts of different lengths, always the same ones; their number varies, and their length where they are padded to the longest.

    Parameters
    ----------
    vocabulary
        Ids below this are drawn.
    end_id
        Ends each text where the model looks for it.
    """
    length = spec.text.context_length
    generator = torch.Generator().manual_seed(0)
    varies = spec.text.padding == "longest"
    longest = max(length - 1, 1) if varies else length  # one shorter, so that the check can try a longer one
    ids = torch.randint(vocabulary, (EXAMPLES, longest), generator=generator)
    if end_id is not None:
        ids[ids == end_id] = (end_id + 1) % vocabulary if end_id + 1 < vocabulary else 0
    for row, end in enumerate(torch.linspace(min(SHORT, longest), longest, EXAMPLES).long().tolist()):
        ids[row, end:] = spec.text.pad_id
        if end_id is not None:
            ids[row, end - 1] = end_id
    return example_of(tower, {INPUT_IDS: ids}, {INPUT_IDS: {1: "L"}} if varies else {})


def _features(answer: Any) -> Tensor:
    """Embeddings of transformers' answer, which was a tensor before version 5."""
    features: Tensor = answer if isinstance(answer, Tensor) else answer.pooler_output
    return features
