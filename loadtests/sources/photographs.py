"""Pictures with the spectrum of photographs, from a seed: no file to ship, no licence to heed."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from loadtests.sources.weights import parse_weights

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


PIXELS_EXAMPLE = "640x480:60,1024x768:40"
MIN_SIDE, MAX_SIDE = 8, 16_384
"""Pixels of a side. The service refuses pictures of over 50 million of them by default; this only catches typing errors."""


def parse_pixels(text: str) -> Mapping[tuple[int, int], float]:
    """Parse ``640x480:60,1024x768:40`` into weights by width and height; raises `SettingsError`."""
    return parse_weights(text, "pixels", PIXELS_EXAMPLE, _sides)


def _sides(word: str) -> tuple[int, int]:
    width_text, _, height_text = word.lower().partition("x")
    try:
        width, height = int(width_text), int(height_text)
    except ValueError:
        raise ValueError("write WIDTHxHEIGHT") from None
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise ValueError(f"sides are {MIN_SIDE} to {MAX_SIDE} pixels long, got {width}x{height}")
    return width, height
