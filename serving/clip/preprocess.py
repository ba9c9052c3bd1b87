"""Resize and crop as the processors of CLIP and SigLIP in transformers do: PIL's antialiased resampling, then the middle.

Only the square that the model sees is computed, not the whole resized picture of which it is the middle: a picture of 1×10,000 pixels
costs as little as any other.

Where it is installed, SIMD code does the work (`cykooz.resizer`, the crate fast_image_resize) in about a tenth of PIL's time. Its
coefficients have 16 bits, PIL's 22: about 0.4 % of the values differ, by 1 of 255. That holds only if both passes run in PIL's order,
because between them values are rounded and clipped; so each pass is a call of its own. ``docs/benchmarks/images.md`` has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from PIL import Image

from serving.contract.clip import ImageSpec

try:
    import cykooz_resizer as simd
except ImportError:  # no wheel for this platform
    simd = None

SUPPORTS = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
"""How far each kernel reaches, in pixels of the coarser of both grids."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Exif orientation → what turns a stored picture upright."""

SIDEWAYS = {5, 6, 7, 8}
MIRRORED_COLUMNS, MIRRORED_ROWS = {2, 3, 7, 8}, {3, 4, 6, 7}
"""Orientations of which a side, as stored, runs against the upright one."""

_SIMD_NAMES = {"bilinear": "bilinear", "bicubic": "catmull_rom", "lanczos": "lanczos3"}


@dataclass(frozen=True)
class Side:
    """What happens along one side of the picture.

    Attributes
    ----------
    source
        Length before, in pixels; a fraction where the decoder has already divided it.
    target
        Length after resizing and before cropping.
    offset, size
        The pixels of the resized picture that are kept.
    """

    source: float
    target: int
    offset: int
    size: int

    @property
    def start(self) -> float:
        """Where the kept part starts in the source."""
        return self.offset * self.source / self.target

    @property
    def end(self) -> float:
        """Where the kept part ends in the source."""
        return min((self.offset + self.size) * self.source / self.target, self.source)

    def mirrored(self) -> Side:
        """The same from the other end."""
        return replace(self, offset=self.target - self.offset - self.size)

    def reach(self, support: float) -> tuple[int, int]:
        """First source pixel that the kept part depends on, and the one after the last."""
        scale = self.source / self.target
        support *= max(scale, 1.0)
        first = int((self.offset + 0.5) * scale - support + 0.5)
        last = int((self.offset + self.size - 0.5) * scale + support + 0.5)
        return max(first, 0), min(last, math.ceil(self.source))


def frame(spec: ImageSpec, width: float, height: float) -> tuple[Side, Side]:
    """Columns and rows of an upright picture of `width` × `height`."""
    size = spec.size
    if spec.resize == "squash":
        return Side(width, size, 0, size), Side(height, size, 0, size)
    shortest = min(width, height)
    targets = [spec.resize_to if length == shortest else int(spec.resize_to * length / shortest) for length in (width, height)]
    columns, rows = (Side(length, target, (target - size) // 2, size) for length, target in zip((width, height), targets, strict=True))
    return columns, rows


def turned(extent: tuple[float, float], orientation: int) -> tuple[float, float]:
    """Width and height of a picture once it is upright, from those stored; or the other way round."""
    width, height = extent
    return (height, width) if orientation in SIDEWAYS else (width, height)


def stored(columns: Side, rows: Side, orientation: int) -> tuple[Side, Side]:
    """The same of the picture as it is stored, before `orientation` is applied."""
    if orientation in SIDEWAYS:
        columns, rows = rows, columns
    return columns.mirrored() if orientation in MIRRORED_COLUMNS else columns, rows.mirrored() if orientation in MIRRORED_ROWS else rows


def rows_first(columns: Side, rows: Side) -> bool:
    """Whether PIL, since version 13, makes the vertical pass of an upright picture first, the one that changes the number of rows."""
    return rows.source - rows.target > max(2 * (columns.source - columns.target), 0)


def prepare(image: Image.Image, spec: ImageSpec, extent: tuple[float, float], orientation: int) -> Image.Image:
    """The square that the model sees, upright.

    A square is turned sooner than a photograph, and each side is resampled alone: so turning comes last.

    Parameters
    ----------
    image
        As stored, of mode ``L`` or ``RGB``.
    extent
        Width and height that it stands for: those of `image`, or a fraction of a pixel less where the decoder has divided them.
    orientation
        Of Exif.
    """
    upright = frame(spec, *turned(extent, orientation))
    columns, rows = stored(*upright, orientation)
    square = resample(image, columns, rows, spec.resample, down_first=rows_first(*upright) != (orientation in SIDEWAYS))
    return square.transpose(TURNS[orientation]) if orientation in TURNS else square


def resample(image: Image.Image, columns: Side, rows: Side, kernel: str, *, down_first: bool) -> Image.Image:
    """Pixels of the kept part, in one pass along each side.

    Parameters
    ----------
    image
        Of mode ``L`` or ``RGB``.
    kernel
        One of `SUPPORTS`.
    down_first
        Whether the first pass goes along columns, from top to bottom.
    """
    box = columns.start, rows.start, columns.end, rows.end
    if simd is None:
        return image.resize((columns.size, rows.size), Image.Resampling[kernel.upper()], box=box)
    if down_first:
        first, last = columns.reach(SUPPORTS[kernel])
        middle = _convolve(image, (last - first, rows.size), (first, rows.start, last, rows.end), kernel)
        return _convolve(middle, (columns.size, rows.size), (columns.start - first, 0, columns.end - first, rows.size), kernel)
    first, last = rows.reach(SUPPORTS[kernel])
    middle = _convolve(image, (columns.size, last - first), (columns.start, first, columns.end, last), kernel)
    return _convolve(middle, (columns.size, rows.size), (0, rows.start - first, columns.size, rows.end - first), kernel)


def _convolve(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float], kernel: str) -> Image.Image:
    left, top, right, bottom = box
    found = Image.new(image.mode, size)
    algorithm = simd.ResizeAlg.convolution(simd.FilterType[_SIMD_NAMES[kernel]])
    options = simd.ResizeOptions(resize_alg=algorithm, crop_box=simd.CropBox(left, top, right - left, bottom - top))
    simd.Resizer().resize_pil(image, found, options)
    return found
