"""What an image file says of itself before it is decoded, and what of it a decoder needs to see.

Decoders parse metadata eagerly, and metadata is where bombs hide: compressed profiles and texts, thousands of chunks, headers that
promise gigabytes. So the few chunks that draw pixels are picked out here, and nothing else reaches a decoder. Colour profiles and gamma
are dropped with the rest: the processors of CLIP and SigLIP in transformers do not look at them either.

References
----------
ITU-T T.81 (JPEG), annex B; W3C PNG, third edition, section 5; RFC 9649 (WebP), section 2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from serving.clip.orientation import UPRIGHT, orientation_of
from serving.contract.errors import ImageTooLarge, UnreadableImage, UnsupportedImage

TAKEN = "JPEG, PNG and WebP"

MAX_CHUNKS = 16_384
"""Chunks or segments of one file. libpng cuts pixels into chunks of 8 KiB: 128 MiB of them are still read."""

MAX_SCANS = 32
"""Scans of one JPEG: each goes over the whole picture again. libjpeg's own progressive script makes 10."""

HEAD = 2048
"""Bytes in which a foreign format is looked for: it is named as a courtesy, and megabytes of spaces must not be searched."""

OTHERS = (
    (re.compile(rb"GIF8"), "a GIF"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF"),
    (re.compile(rb"BM"), "a BMP"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000"),
    (re.compile(rb".{4}ftyp(avif|avis)", re.DOTALL), "an AVIF"),
    (re.compile(rb".{4}ftyp(hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL), "a HEIF"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"\s*(<\?xml.{0,500})?(<!--.{0,500})?(<!DOCTYPE svg.{0,500})?<svg", re.DOTALL | re.IGNORECASE), "an SVG"),
    (re.compile(rb"\s*https?://", re.IGNORECASE), "a URL, and URLs are not fetched"),
    (re.compile(rb"data:image/", re.IGNORECASE), "a data URL: send the bytes that its base64 stands for"),
)

_FILL = re.compile(rb"\xff+")
_MARKER, _START_OF_SCAN, _END_OF_IMAGE = 0xFF, 0xDA, 0xD9
_FRAMES = {0xC0, 0xC1, 0xC2}
"""Start-of-frame markers of what is read: baseline, extended sequential and progressive, all Huffman-coded."""
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_ALONE = {0x01, *range(0xD0, 0xD8)}
_TABLES = {0xC4, 0xDB, 0xDD}
_JFIF, _EXIF, _ADOBE = 0xE0, 0xE1, 0xEE
"""Application segments: the first and the last say which colours the components are."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_DRAWING = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_WEBP_EXIF_FLAG = 0x08


@dataclass(frozen=True)
class ImageFile:
    """One file.

    Attributes
    ----------
    format
        ``JPEG``, ``PNG`` or ``WEBP``, as PIL calls them; told from the content, not from a name or a content type.
    width, height
        In pixels, as stored: before `orientation` is applied.
    orientation
        Of Exif, 1 to 8.
    drawing
        The file without what draws nothing.
    least_bytes
        Fewest that so many pixels take, as far as the header tells that.
    """

    format: str
    width: int
    height: int
    orientation: int
    drawing: bytes
    least_bytes: int = 0


def read_file(content: bytes) -> ImageFile:
    """Take a file apart; decodes no pixel.

    Raises
    ------
    UnsupportedImage
        It is none of `TAKEN`.
    UnreadableImage
        It is empty, cut off, or contradicts itself.
    ImageTooLarge
        It has more chunks or scans than a picture needs.
    """
    if not content:
        raise UnreadableImage("the image is empty: no bytes were sent")
    if content.startswith(b"\xff\xd8"):
        found = _jpeg(content)
    elif content.startswith(_PNG_SIGNATURE):
        found = _png(content)
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        found = _webp(content)
    else:
        what = next((name for pattern, name in OTHERS if pattern.match(content[:HEAD])), "none of the formats that are read here")
        raise UnsupportedImage(f"the image is {what}; {TAKEN} are taken")
    if not found.width or not found.height:
        raise UnreadableImage(f"the image's header says {found.width}×{found.height} pixels")
    return found


def _jpeg(content: bytes) -> ImageFile:
    kept, size, orientation = [content[:2]], None, UPRIGHT
    position, least_bytes = 2, 0
    for marker, start, end in _segments(content):
        if marker in _FRAMES:
            if size is not None:
                raise UnreadableImage("the JPEG has more than one frame header")
            height, width = struct.unpack_from(">HH", _whole(content[start:end], 9, "JPEG"), 5)
            size, least_bytes = (width, height), _least_bytes(content[start:end], width, height)
        elif marker in _OTHER_FRAMES:
            raise UnsupportedImage(
                "the image is an arithmetic-coded, lossless or hierarchical JPEG; baseline and progressive ones are taken"
            )
        if marker == _EXIF and content[start + 4 : start + 10] == b"Exif\0\0":
            orientation = orientation_of(content[start + 4 : end])
        elif marker in _FRAMES | _TABLES or marker in {_JFIF, _ADOBE}:
            kept.append(content[start:end])
        position = end
    if size is None:
        raise UnreadableImage("the JPEG has no frame header before its first scan")
    scans = _scans(content, position)
    if scans > MAX_SCANS:
        raise ImageTooLarge(f"the JPEG has {scans} scans, over the limit of {MAX_SCANS}; save it with fewer")
    return ImageFile("JPEG", *size, orientation, b"".join([*kept, content[position:]]), least_bytes)


def _least_bytes(frame: bytes, width: int, height: int) -> int:
    """Fewest bytes for so many pixels: each block of 8×8 of each component takes at least the one bit of the code for its mean.

    A decoder paints what is missing grey and says nothing. Real pictures take some fifty times as much, so that only coarse lies are found.
    """
    sides = [(factors >> 4, factors & 15) for factors in frame[11::3]]  # how finely each component is sampled, columns and rows
    finest = max((columns for columns, _ in sides), default=0) * max((rows for _, rows in sides), default=0)
    if not finest:
        return 0  # the decoder refuses it
    return sum(columns * rows for columns, rows in sides) * width * height // (finest * 64 * 8)


def _scans(content: bytes, position: int) -> int:
    """Count the starts of scans. ``bytes.count`` takes five times as long: 0.2 ms of a photograph of 250 kB."""
    data = np.frombuffer(content, np.uint8, offset=position)
    return int(np.count_nonzero((data[:-1] == _MARKER) & (data[1:] == _START_OF_SCAN)))


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment before the first scan."""
    position = 2
    for _ in range(MAX_CHUNKS):
        fill = _FILL.match(content, position)
        if fill is None:
            raise UnreadableImage(f"the JPEG is damaged or cut off: there is no marker at byte {position}")
        start = fill.end() - 1  # any number of 0xFF may stand before a marker
        (marker,) = _whole(content[start + 1 : start + 2], 1, "JPEG")
        if marker == _START_OF_SCAN:
            return
        if marker == _END_OF_IMAGE:
            raise UnreadableImage("the JPEG ends before its first scan")
        end = start + 2
        if marker not in _ALONE:
            (length,) = struct.unpack(">H", _whole(content[end : end + 2], 2, "JPEG"))
            end += length
            if length < 2 or end > len(content):
                raise UnreadableImage(f"the JPEG is damaged or cut off: the segment at byte {start} says that it has {length} bytes")
            yield marker, start, end
        position = end
    raise ImageTooLarge(f"the JPEG has over {MAX_CHUNKS} segments")


def _png(content: bytes) -> ImageFile:
    kept, orientation = [_PNG_SIGNATURE], UPRIGHT
    position = len(_PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        length, name = struct.unpack_from(">I4s", _whole(content[position : position + 8], 8, "PNG"))
        end = position + 12 + length
        if end > len(content):
            raise UnreadableImage(f"the PNG is cut off: it has {len(content)} bytes, and a chunk that ends at byte {end}")
        if len(kept) == 1 and (name, length) != (b"IHDR", 13):
            raise UnreadableImage("the PNG does not start with its header")
        if name in _PNG_DRAWING and not (name == b"IHDR" and len(kept) > 1):
            kept.append(content[position:end])
        elif name == b"eXIf":
            orientation = orientation_of(content[position + 8 : end - 4])
        if name == b"IEND":
            width, height = struct.unpack_from(">II", content, 16)
            return ImageFile("PNG", width, height, orientation, b"".join(kept))
        position = end
    raise ImageTooLarge(f"the PNG has over {MAX_CHUNKS} chunks")


def _webp(content: bytes) -> ImageFile:
    head = _whole(content[:30], 30, "WebP")
    end = struct.unpack_from("<I", head, 4)[0] + 8
    if end > len(content):
        raise UnreadableImage(f"the WebP is cut off: it has {len(content)} bytes of {end}")
    kind, orientation = head[12:16], UPRIGHT
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        if head[20] & _WEBP_EXIF_FLAG:
            orientation = _webp_orientation(content, end)
    elif kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 26))
    else:
        raise UnreadableImage("the WebP does not start with a picture or its header")
    return ImageFile("WEBP", width, height, orientation, content)


def _webp_orientation(content: bytes, end: int) -> int:
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > end:
            return UPRIGHT
        name, length = struct.unpack_from("<4sI", content, position)
        if name == b"EXIF":
            return orientation_of(content[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise ImageTooLarge(f"the WebP has over {MAX_CHUNKS} chunks")


def _whole(part: bytes, size: int, name: str) -> bytes:
    if len(part) < size:
        raise UnreadableImage(f"the {name} is cut off")
    return part
