"""From the bytes of an image file to the pixels that the image tower takes.

As transformers' processors see a picture, so it is seen here: Exif orientation applied, transparency laid on white, colour profiles
ignored, the first frame of an animation. One thing differs on purpose: grey of 16 bits is scaled to 8, where PIL's conversion cuts it off
at 255 and leaves a white picture.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin

from serving.clip.image_files import ImageFile, read_file
from serving.clip.preprocess import frame, prepare, stored, turned
from serving.contract.clip import ImageSpec
from serving.contract.errors import ImageTooLarge, RequestError, SettingsError, UnreadableImage

FORMATS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
"""Registered with PIL by being imported; left out, PIL would look for a decoder by importing all that it has."""

SCALED_GAP = 2
"""A JPEG is decoded at ½, ¼ or ⅛ of its size where still this many times the resized picture is left. Embeddings of a seeded ViT-B/32
then keep a cosine of 0.9999 to those of the whole picture, hard edges included (``docs/benchmarks/images.md``)."""

MOST_PIXELS = 2**26
"""Bound of `max_pixels`: PIL warns from 89 million on, and a decoded picture takes 4 to 12 bytes a pixel."""


class ImageReader:
    """Reads image files for one model. Several threads may use it at once; most of the work is done outside the interpreter's lock.

    Parameters
    ----------
    spec
        What the model's processor does with a picture.
    max_bytes
        Of one file.
    max_pixels
        Width × height of one picture, by its header; at most `MOST_PIXELS`.
    scale_jpeg
        Whether large JPEGs may be decoded at reduced scale, see `SCALED_GAP`.
    """

    def __init__(self, spec: ImageSpec, *, max_bytes: int, max_pixels: int, scale_jpeg: bool = True) -> None:
        if not 1 <= max_pixels <= MOST_PIXELS:
            raise SettingsError(f"max_pixels must be between 1 and {MOST_PIXELS}, not {max_pixels}")
        self._spec = spec
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._scale_jpeg = scale_jpeg

    def read(self, content: bytes) -> npt.NDArray[np.uint8]:
        """Decode one file.

        Parameters
        ----------
        content
            A JPEG, PNG or WebP file.

        Returns
        -------
        ``(S, S, 3) uint8``, red, green, blue; read-only.

        Raises
        ------
        ImageTooLarge
            More bytes, pixels, chunks or scans than allowed; nothing was decoded.
        UnsupportedImage
            Another format, or no image.
        UnreadableImage
            A damaged file, or one that is cut off.
        """
        if len(content) > self._max_bytes:
            raise ImageTooLarge(f"the image has {len(content)} bytes, over the limit of {self._max_bytes}")
        file = read_file(content)
        if file.width * file.height > self._max_pixels:
            pixels = f"{file.width}×{file.height} = {file.width * file.height} pixels"
            raise ImageTooLarge(f"the image has {pixels}, over the limit of {self._max_pixels}; scale it down before sending")
        if len(file.drawing) < file.least_bytes:
            claim = f"its header says {file.width}×{file.height} pixels, which take {file.least_bytes} bytes or more"
            raise UnreadableImage(f"the {file.format} is cut off, or lies: {claim}, and it has {len(file.drawing)} that draw")
        try:
            return self._pixels(file)
        except (RequestError, MemoryError):
            raise
        except Exception as error:  # decoders fail in many ways on damaged data
            reason = "its header makes no sense" if isinstance(error, UnidentifiedImageError) else error
            raise UnreadableImage(f"the {file.format} cannot be decoded: {reason}") from error

    def _pixels(self, file: ImageFile) -> npt.NDArray[np.uint8]:
        image = Image.open(io.BytesIO(file.drawing), formats=(file.format,))
        image.decodermaxblock = len(file.drawing)  # all at once: in blocks of 64 KiB a JPEG of 250 kB takes 8 % longer
        if image.size != (file.width, file.height):
            raise UnreadableImage(
                f"the {file.format} says that it has {file.width}×{file.height} pixels, and has {image.width}×{image.height}"
            )
        extent = self._extent(image, file.orientation)
        square = np.asarray(prepare(_plain(image), self._spec, extent, file.orientation))
        return square if square.ndim == 3 else np.repeat(square[..., None], 3, axis=2)

    def _extent(self, image: Image.Image, orientation: int) -> tuple[float, float]:
        """Width and height that the pixels to be decoded stand for; a JPEG is told to decode no more of them than needed."""
        if not self._scale_jpeg or not isinstance(image, JpegImagePlugin.JpegImageFile):
            return image.size
        columns, rows = stored(*frame(self._spec, *turned(image.size, orientation)), orientation)
        scaled = image.draft(None, (SCALED_GAP * columns.target, SCALED_GAP * rows.target))
        return scaled[1][2:] if scaled else image.size


def _plain(image: Image.Image) -> Image.Image:
    """Of mode ``L`` or ``RGB``, opaque."""
    if image.mode == "I;16":
        return _grey_of_16_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (255, 255):  # as in most screenshots
            return image.convert("RGB")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))  # the same values as of `alpha_composite`, in less than half the time
        return white
    if image.mode in {"L", "RGB"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)  # as PIL's decoder does with colours of 16 bits
    grey[values == image.info.get("transparency", -1)] = 255  # the one value that is transparent
    return Image.fromarray(grey)
