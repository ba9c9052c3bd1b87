"""Scenes as pictures ``(64, 64, 3) uint8``: drawn at twice the size, with jitter, clutter, occlusion, blur and noise."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from optimize.data.scenes.outlines import faces_of, mask_of
from optimize.data.scenes.scene import Scene, Thing
from optimize.data.scenes.vocabulary import COLOURS, COLUMNS, MEDIUM, PLAIN, RGB, ROWS

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float]
"""Centre x, centre y and half the longer side, as shares of the picture's side."""

SIDE = 64
CANVAS = 128
RADII = {"small": (0.105, 0.125), MEDIUM: (0.165, 0.19), "large": (0.25, 0.3)}
RADII_OF_SEVERAL = (0.1, 0.13)
RADII_OF_TWO = (0.14, 0.19)
SMALLEST_LETTER = 1.25
"""Letters are drawn larger by this factor when small: five pixels of stroke and counter do not tell B from 8."""
MAX_TILT_DEGREES = 14.0


def render(scene: Scene, seed: int) -> Pixels:
    """Draw a scene; the same seed gives the same picture, to the bit, on one version of Pillow and its FreeType."""
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    canvas = _ground(COLOURS[str(scene.background)], rng, noise)
    for box, thing in _layout(scene, rng):
        _put(canvas, thing, box, str(scene.background), rng)
    if rng.random() < 0.15:
        _occlude(canvas, _layout(scene, random.Random(seed))[0][0], rng)
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    if rng.random() < 0.2:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    pixels = np.asarray(small, np.float32)
    gain, bias = rng.uniform(0.9, 1.08), rng.uniform(-10, 10)
    pixels = pixels * gain + bias + noise.standard_normal(pixels.shape, np.float32) * rng.choice((0.0, 3.0, 6.0, 10.0))
    return pixels.clip(0, 255).astype(np.uint8)


def render_all(scenes: Sequence[Scene], seeds: Sequence[int]) -> Pixels:
    """Draw scenes ``(S, 64, 64, 3) uint8``."""
    return np.stack([render(scene, seed) for scene, seed in zip(scenes, seeds, strict=True)])


def _jitter(rgb: RGB, rng: random.Random, most: int = 14) -> RGB:
    red, green, blue = (max(0, min(255, channel + rng.randint(-most, most))) for channel in rgb)
    return red, green, blue


def _mix(one: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _tone(rgb: RGB, share: float) -> RGB:
    """The colour, lighter if it is dark and darker if it is light."""
    light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 127
    return _mix(rgb, (0, 0, 0) if light else (255, 255, 255), share)


def _ground(rgb: RGB, rng: random.Random, noise: np.random.Generator) -> Image.Image:
    one = _jitter(rgb, rng)
    canvas = Image.new("RGB", (CANVAS, CANVAS), one)
    if rng.random() < 0.4:
        ramp = Image.linear_gradient("L").resize((CANVAS, CANVAS)).rotate(rng.choice((0, 90, 180, 270)))
        canvas.paste(_tone(one, rng.uniform(0.06, 0.16)), mask=ramp)
    if rng.random() < 0.3:
        cells = rng.choice((4, 8, 16))
        clouds = Image.fromarray(noise.integers(0, 90, (cells, cells), np.uint8)).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
        canvas.paste(_tone(one, 0.3), mask=clouds)
    if rng.random() < 0.35:
        draw = ImageDraw.Draw(canvas)
        for _ in range(rng.randint(1, 4)):
            ends = [rng.randint(0, CANVAS) for _ in range(4)]
            draw.line(ends, fill=_tone(one, rng.uniform(0.08, 0.18)), width=rng.randint(1, 3))
    return canvas


def _layout(scene: Scene, rng: random.Random) -> list[tuple[Box, Thing]]:
    first, second = scene.first, scene.second
    if second is not None:
        gap = rng.uniform(0.21, 0.27)
        near, far, across = 0.5 - gap, 0.5 + gap, (0.5 + rng.uniform(-0.1, 0.1), 0.5 + rng.uniform(-0.1, 0.1))
        radii = [rng.uniform(*RADII_OF_TWO) for _ in range(2)]
        if scene.relation == "left":
            return [((near, across[0], radii[0]), first), ((far, across[1], radii[1]), second)]
        return [((across[0], near, radii[0]), first), ((across[1], far, radii[1]), second)]
    if (first.count or 1) > 1:
        return [((x, y, radius), first) for x, y, radius in _scatter(int(first.count or 1), rng)]
    radius = rng.uniform(*RADII[str(first.size)])
    row, column = str(first.position).split()
    return [((_place(COLUMNS.index(column), radius, rng), _place(ROWS.index(row), radius, rng), radius), first)]


def _place(third: int, radius: float, rng: random.Random) -> float:
    """Centre on one axis: near the low edge, in the middle, or near the high edge."""
    edge = radius + 0.02 + rng.uniform(0, 0.045)
    return (edge, 0.5 + rng.uniform(-0.045, 0.045), 1 - edge)[third]


def _scatter(count: int, rng: random.Random) -> list[Box]:
    """Places that do not touch; tried anew when they run out of room."""
    while True:
        radius = rng.uniform(*RADII_OF_SEVERAL)
        found: list[Box] = []
        for _ in range(60):
            x, y = (rng.uniform(radius + 0.02, 0.98 - radius) for _ in range(2))
            if all((x - a) ** 2 + (y - b) ** 2 > (2.25 * radius) ** 2 for a, b, _ in found):
                found.append((x, y, radius))
            if len(found) == count:
                return found


def _put(canvas: Image.Image, thing: Thing, box: Box, ground: str, rng: random.Random) -> None:
    subject = str(thing.subject)
    faces = faces_of(subject)
    x, y, radius = box
    if len(faces) > 1 and thing.size == "small":
        radius *= SMALLEST_LETTER
    mask = mask_of(subject, rng.choice(faces))
    squeeze = rng.uniform(0.88, 1.0)
    wide, high = (1.0, squeeze) if rng.random() < 0.5 else (squeeze, 1.0)
    scale = 2 * radius * CANVAS / max(mask.size)
    mask = mask.resize(
        (max(2, round(mask.width * scale * wide)), max(2, round(mask.height * scale * high))), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    mask = mask.rotate(rng.uniform(-MAX_TILT_DEGREES, MAX_TILT_DEGREES), Image.Resampling.BILINEAR, expand=True)
    colour = _jitter(COLOURS[str(thing.colour)], rng)
    corner = round(x * CANVAS - mask.width / 2), round(y * CANVAS - mask.height / 2)
    if thing.texture == "outlined":
        width = 2 * max(2, round(radius * CANVAS * 0.13)) + 1
        padded = Image.new("L", (mask.width + 2, mask.height + 2))
        padded.paste(mask, (1, 1))
        inside = padded.filter(ImageFilter.MinFilter(width)).crop((1, 1, mask.width + 1, mask.height + 1))
        mask = Image.fromarray(np.asarray(mask) - np.minimum(np.asarray(inside), np.asarray(mask)))
    fill = Image.new("RGB", mask.size, colour)
    if thing.texture not in (PLAIN, "outlined", None):
        fill.paste(_tone(colour, rng.uniform(0.5, 0.65)), mask=_pattern(str(thing.texture), mask.size, radius * CANVAS, rng))
    canvas.paste(fill, corner, mask)


def _pattern(texture: str, size: tuple[int, int], radius: float, rng: random.Random) -> Image.Image:
    """Where the second tone goes, as a mask of `size`."""
    pattern = Image.new("L", size)
    draw = ImageDraw.Draw(pattern)
    step = max(5.0, radius * rng.uniform(0.4, 0.55))
    start_x, start_y = rng.uniform(-step, 0), rng.uniform(-step, 0)
    columns, rows = int(size[0] / step) + 3, int(size[1] / step) + 3
    if texture == "striped":
        upright = rng.random() < 0.5
        for i in range(0, 2 * max(columns, rows), 2):
            low = (start_x if upright else start_y) + i * step * 0.6
            draw.rectangle((low, 0, low + step * 0.6, size[1]) if upright else (0, low, size[0], low + step * 0.6), fill=255)
        return pattern
    for i in range(columns):
        for j in range(rows):
            left, top = start_x + i * step, start_y + j * step
            if texture == "dotted":
                draw.ellipse((left, top, left + 0.6 * step, top + 0.6 * step), fill=255)
            elif (i + j) % 2 == 0:
                draw.rectangle((left, top, left + step, top + step), fill=255)
    return pattern


def _occlude(canvas: Image.Image, box: Box, rng: random.Random) -> None:
    """Lay a thin bar over a part of the first thing."""
    x, y, radius = (value * CANVAS for value in box)
    shift = rng.uniform(-0.6, 0.6) * radius
    tone = (rng.randint(60, 200),) * 3
    ends = (
        (x + shift, 0, x + shift + rng.uniform(-20, 20), CANVAS)
        if rng.random() < 0.5
        else (0, y + shift, CANVAS, y + shift + rng.uniform(-20, 20))
    )
    ImageDraw.Draw(canvas).line(ends, fill=tone, width=max(2, round(radius * 0.16)))
