"""A small CLIP for pictures of 64×64: convolutions and a transformer over 8×8 places, and a transformer over words.

Letters: ``B`` pictures, ``T`` texts, ``L`` tokens, ``D`` embedding size, ``W`` width.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

SIDE = 64
MEAN, STD = 0.5, 0.25
"""Of pixels in [0, 1], for every channel."""
MAX_SCALE = 100.0
"""Radford et al. 2021, section 2.5: a larger scale made training unstable."""


class ClipSmallSettings(BaseModel):
    """Sizes of the two towers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stem: tuple[int, ...] = (24, 48)
    """Channels of the convolutions before the last one; each halves the picture, together with the last to 8×8."""
    width: Annotated[int, Field(ge=8, le=1024)] = 96
    residuals: Annotated[int, Field(ge=0)] = 1
    """Pairs of convolutions at 8×8."""
    heads: Annotated[int, Field(ge=1)] = 4
    image_layers: Annotated[int, Field(ge=1)] = 1
    text_layers: Annotated[int, Field(ge=1)] = 2
    hidden: Annotated[int, Field(ge=8)] = 192
    """Width inside the feed-forward layers."""
    embedding_size: Annotated[int, Field(ge=8)] = 128
    context_length: Annotated[int, Field(ge=8)] = 40


class Block(nn.Module):
    """A transformer layer, normalized first (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Take ``(B, L, W)``; `keep` ``(B, 1, 1, L) bool`` says which tokens may be looked at."""
        batch, length, width = x.shape
        query, key, value = (
            self.mix(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=keep)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(torch.relu(self.up(self.before_hidden(x))))
        return x


class Residual(nn.Module):
    """Two convolutions beside the identity (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Take and give ``(B, W, 8, 8)``."""
        return torch.relu(x + self.body(x))


class ImageTower(nn.Module):
    """Pixels ``(B, 64, 64, 3) uint8`` → embeddings ``(B, D) float32`` of length 1."""

    def __init__(self, settings: ClipSmallSettings) -> None:
        super().__init__()
        channels = (3, *settings.stem, settings.width)
        self.stem = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(channels)
            ),
            *(Residual(settings.width) for _ in range(settings.residuals)),
        )
        places = (SIDE >> len(channels[1:])) ** 2
        self.places = nn.Parameter(torch.randn(places, settings.width) * 0.02)
        self.blocks = nn.ModuleList(Block(settings.width, settings.heads, settings.hidden) for _ in range(settings.image_layers))
        self.norm = nn.LayerNorm(settings.width)
        self.query = nn.Linear(settings.width, settings.heads)
        self.head = nn.Linear(settings.heads * settings.width, settings.embedding_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed; rescaling and normalization happen here."""
        x = (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - MEAN) / STD
        x = self.stem(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        share = self.query(x).softmax(dim=1)  # one pooling over places a head: things lie anywhere
        pooled = (share.transpose(1, 2) @ x).flatten(1)
        return functional.normalize(self.head(pooled), dim=-1)


class TextTower(nn.Module):
    """Token ids ``(T, L) int64``, padded with 0 → embeddings ``(T, D) float32`` of length 1."""

    def __init__(self, settings: ClipSmallSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, settings.width)
        nn.init.normal_(self.words.weight, std=0.02 * math.sqrt(settings.width) / 4)
        self.places = nn.Parameter(torch.randn(settings.context_length, settings.width) * 0.02)
        self.blocks = nn.ModuleList(Block(settings.width, settings.heads, settings.hidden) for _ in range(settings.text_layers))
        self.norm = nn.LayerNorm(settings.width)
        self.head = nn.Linear(settings.width, settings.embedding_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed; the first token, which begins every text, gathers it."""
        x = self.words(input_ids) + self.places[: input_ids.shape[1]]
        keep = (input_ids != 0)[:, None, None, :]
        for block in self.blocks:
            x = block(x, keep)
        return functional.normalize(self.head(self.norm(x[:, 0])), dim=-1)


class ClipSmall(nn.Module):
    """Both towers and the learned scale of their products."""

    def __init__(self, settings: ClipSmallSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.image, self.text = ImageTower(settings), TextTower(settings, vocabulary_size)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def logit_scale(self) -> Tensor:
        """The factor of cosines, at most `MAX_SCALE`."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)
