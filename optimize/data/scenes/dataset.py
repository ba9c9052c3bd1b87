"""The training scenes with their pictures, drawn by several processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from optimize.data.scenes.render import SIDE, Pixels, render_all
from optimize.data.scenes.sampling import draw_scene
from optimize.data.scenes.scene import Scene

CHUNK = 1000
"""Scenes that one process draws at a time; some two seconds."""

SEED_STRIDE = 1 << 32
"""Between the seeds of the pictures of two data sets, more than a set can have scenes."""


@dataclass(frozen=True)
class Scenes:
    """Scenes and their pictures.

    Attributes
    ----------
    pixels
        ``(S, 64, 64, 3) uint8``.
    """

    scenes: tuple[Scene, ...]
    pixels: Pixels

    def __len__(self) -> int:
        """Count the scenes."""
        return len(self.scenes)

    def fingerprint(self) -> str:
        """SHA-256 over scenes and pictures, first 16 hex digits."""
        digest = hashlib.sha256(repr(self.scenes).encode())
        digest.update(self.pixels.tobytes())
        return digest.hexdigest()[:16]


def draw_training_scenes(count: int, seed: int, processes: int = 1, progress: Callable[[float], None] = lambda share: None) -> Scenes:
    """Draw scenes of the training part with their pictures; the number of processes changes nothing in them."""
    rng = random.Random(seed)
    scenes = tuple(draw_scene(rng) for _ in range(count))
    pixels = np.empty((count, SIDE, SIDE, 3), np.uint8)
    starts = range(0, count, CHUNK)
    chunks = [(scenes[at : at + CHUNK], range(seed * SEED_STRIDE + at, seed * SEED_STRIDE + min(at + CHUNK, count))) for at in starts]
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) if processes > 1 else None
    try:
        drawn = pool.map(render_all, *zip(*chunks, strict=True)) if pool else (render_all(*chunk) for chunk in chunks)
        for at, chunk in zip(starts, drawn, strict=True):
            pixels[at : at + len(chunk)] = chunk
            progress((at + len(chunk)) / count)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return Scenes(scenes, pixels)
