"""Pictures with the spectrum of photographs, from a seed: no file to ship, no licence to heed."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

GRIDS = (4, 8, 16, 32, 64, 128)
"""Rows of the random grids that are summed, each half as strong in variance as the one before: natural pictures lose power as 1/f²."""

CONTRAST = 40.0
"""Standard deviation of the coarsest grid, of 255 levels."""


def photograph(width: int, height: int, *, noise: float = 0.0, seed: int = 0) -> npt.NDArray[np.uint8]:
    """One picture.

    Parameters
    ----------
    noise
        Standard deviation of a sensor's noise, in levels: 0 a clean studio shot, 8 a phone in daylight, 20 a phone at night.

    Returns
    -------
    ``(height, width, 3) uint8``.
    """
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 127.0, np.float32)
    for rows in GRIDS:
        strength = CONTRAST / np.sqrt(rows / GRIDS[0])
        for channel in range(3):
            grid = rng.normal(size=(rows, rows * width // height + 1)).astype(np.float32)
            picture[..., channel] += strength * np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
    if noise:
        picture += noise * rng.standard_normal(picture.shape, np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def encoded(pixels: npt.NDArray[np.uint8], form: str, **options: object) -> bytes:
    """The picture as a file; `form` and `options` are those of PIL's ``save``."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


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
