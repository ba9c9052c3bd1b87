"""Pictures with the spectrum of photographs, from a seed: no file to ship, no licence to heed."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

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
