"""Pictures from a seed: photographs, as the load test sends them, and posters, which are all that a photograph is not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from loadtests.sources.photographs import encoded, photograph

__all__ = ["encoded", "photograph", "poster"]


def poster(width: int, height: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Flat shapes and a grid of lines one pixel wide, ``(height, width, 3) uint8``: all that a photograph has not."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(400):
        left, top, size = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(5, width // 8))
        shape = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        shape((left, top, left + size, top + size // 2), fill=tuple(rng.integers(0, 256, 3).tolist()))
    for column in range(0, width, 3):
        draw.line((column, 0, column, height // 4), fill="black")
    return np.asarray(image)
