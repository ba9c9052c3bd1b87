"""Outlines of subjects as masks, drawn large once and scaled for every scene.

Letters, digits and symbols are glyphs of the DejaVu fonts, which matplotlib ships under a licence that allows it.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from optimize.data.scenes.vocabulary import BY_NAME

MASK_SIZE = 160
"""Side of a mask; some four times what a large thing takes on the canvas."""

FACES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono-Bold.ttf",
)
SYMBOL_FACE = "DejaVuSans.ttf"


def faces_of(subject: str) -> tuple[str, ...]:
    """Fonts that `subject` is drawn in; shapes have none."""
    kind = BY_NAME[subject].kind
    return ("",) if kind == "shape" else (SYMBOL_FACE,) if kind == "symbol" else FACES


@cache
def mask_of(subject: str, face: str) -> Image.Image:
    """Mask ``L`` whose longer side is `MASK_SIZE`, cut to the outline."""
    found = BY_NAME[subject]
    picture = _glyph(found.glyph, face) if found.glyph else _shape(subject)
    picture = picture.crop(picture.getbbox())
    scale = MASK_SIZE / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)


def _glyph(text: str, face: str) -> Image.Image:
    import matplotlib

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", face)), 2 * MASK_SIZE)
    picture = Image.new("L", (5 * MASK_SIZE, 5 * MASK_SIZE))
    ImageDraw.Draw(picture).text((2.5 * MASK_SIZE, 2.5 * MASK_SIZE), text, fill=255, font=font, anchor="mm")
    return picture


def _shape(name: str) -> Image.Image:
    side = 4 * MASK_SIZE
    picture = Image.new("L", (side, side))
    draw = ImageDraw.Draw(picture)
    if name == "circle":
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
    elif name == "moon":
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
        draw.ellipse((0.32 * side, -0.08 * side, 1.28 * side, 0.88 * side), fill=0)
    elif name == "heart":
        points = [
            (16 * math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))) for t in _turn(200)
        ]
        draw.polygon([((x + 17) / 34 * side, (y + 15) / 34 * side) for x, y in points], fill=255)
    else:
        draw.polygon([(x * side, y * side) for x, y in _POLYGONS[name]], fill=255)
    return picture


def _turn(steps: int, start: float = 0.0) -> list[float]:
    return [start + 2 * math.pi * i / steps for i in range(steps)]


def _regular(corners: int, inner: float = 1.0, start: float = -math.pi / 2) -> list[tuple[float, float]]:
    """Corners of a regular polygon in the unit square; with `inner` below 1, of a star."""
    points = []
    for i, angle in enumerate(_turn(corners if inner == 1.0 else 2 * corners, start)):
        radius = 0.5 if inner == 1.0 or i % 2 == 0 else 0.5 * inner
        points.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    return points


_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0.05), (1, 0.95), (0, 0.95)],
    "star": _regular(5, 0.42),
    "cross": [(x / 3, y / 3) for x, y in ((1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1))],
    "diamond": [(0.5, 0), (0.88, 0.5), (0.5, 1), (0.12, 0.5)],
    "hexagon": _regular(6, start=0.0),
    "house": [(0.5, 0), (1, 0.45), (0.86, 0.45), (0.86, 1), (0.14, 1), (0.14, 0.45), (0, 0.45)],
    "arrow": [(0, 0.36), (0.55, 0.36), (0.55, 0.1), (1, 0.5), (0.55, 0.9), (0.55, 0.64), (0, 0.64)],
    "bolt": [(0.55, 0), (0.15, 0.56), (0.44, 0.56), (0.3, 1), (0.85, 0.38), (0.52, 0.38), (0.72, 0)],
}
