"""No file is a crash, and no small file is a large job: damaged, lying, hostile and foreign ones are refused with a reason."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from benchmarks.photographs import encoded, photograph
from serving.clip.image_files import MAX_CHUNKS, MAX_SCANS
from serving.clip.images import MOST_PIXELS, ImageReader
from serving.contract.clip import ImageSpec
from serving.contract.errors import ImageTooLarge, RequestError, SettingsError, UnreadableImage, UnsupportedImage
from serving.services.settings import ServiceSettings

SPEC = ImageSpec(size=32, resize="shortest_edge", resize_to=32, resample="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
READER = ImageReader(SPEC, max_bytes=2_000_000, max_pixels=1_000_000)
MUTATIONS = 400
"""Of each of 12 files: some seconds. 40 times as many, with another seed, found nothing more."""

JPEG, PNG, WEBP = (encoded(photograph(90, 70, noise=8), form) for form in ("JPEG", "PNG", "WEBP"))


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def header(width: int, height: int, bits: int = 8, colours: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))


def files() -> dict[str, bytes]:
    """One small valid file of each kind."""
    pixels = photograph(60, 44, noise=8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {
        "jpeg": encoded(pixels, "JPEG", exif=exif, icc_profile=b"\1" * 500),
        "progressive": encoded(pixels, "JPEG", progressive=True),
        "png": encoded(pixels, "PNG"),
        "webp": encoded(pixels, "WEBP"),
        "lossless": encoded(pixels, "WEBP", lossless=True, exif=exif),
    }
    others: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("grey", image.convert("L"), "JPEG", {}),
        ("cmyk", image.convert("CMYK"), "JPEG", {}),
        ("palette", image.convert("P"), "PNG", {"transparency": 3}),
        ("alpha", image.convert("RGBA"), "PNG", {"exif": exif}),
        ("wide", Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
        ("animated", image, "WEBP", {"save_all": True, "append_images": [image.rotate(90)]}),
        ("apng", image, "PNG", {"save_all": True, "append_images": [image.rotate(90)]}),
    ]
    for name, picture, form, options in others:
        file = io.BytesIO()
        picture.save(file, form, **options)
        found[name] = file.getvalue()
    return found


@pytest.mark.parametrize("content", [JPEG, PNG, WEBP])
def test_the_examples_are_valid(content: bytes) -> None:
    assert READER.read(content).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"GIF89a" + b"\0" * 50, "a GIF"),
        (b"II*\0" + b"\0" * 50, "a TIFF"),
        (b"MM\0*" + b"\0" * 50, "a TIFF"),
        (b"BM" + b"\0" * 50, "a BMP"),
        (b"\0\0\0\x20ftypavif", "an AVIF"),
        (b"\0\0\0\x20ftypheic", "a HEIF"),
        (b"\xff\x0a\0\0", "a JPEG XL"),
        (b"%PDF-1.7", "a PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg/>", "an SVG"),
        (b"https://example.com/cat.jpg", "a URL, and URLs are not fetched"),
        (b"data:image/png;base64,iVBORw0KGgo=", "a data URL"),
        (b"a cat", "none of the formats"),
        (b"\0" * 100, "none of the formats"),
        (b" " * 1_999_999, "none of the formats"),  # took a second to find out
        (b"RIFF\x04\0\0\0WAVE", "none of the formats"),
    ],
)
def test_other_formats_are_named_and_the_list_of_what_is_taken_given(content: bytes, what: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"the image is {what}.*; JPEG, PNG and WebP are taken") as refused:
        READER.read(content)
    assert refused.value.status == 415


def test_a_jpeg_of_a_kind_that_is_hardly_used_is_named() -> None:
    arithmetic = JPEG.replace(b"\xff\xc0", b"\xff\xc9")
    with pytest.raises(UnsupportedImage, match="arithmetic-coded"):
        READER.read(arithmetic)


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(UnreadableImage, match="no bytes were sent"):
        READER.read(b"")


@pytest.mark.parametrize("content", files().values(), ids=files())
def test_a_file_cut_off_anywhere_is_refused(content: bytes) -> None:
    for kept in range(1, len(content) - 2, max(len(content) // 60, 1)):
        assert outcome(content[:kept]) in ({415, 422} if kept < 12 else {422})


def test_too_many_bytes_are_refused_before_they_are_looked_at() -> None:
    with pytest.raises(ImageTooLarge, match="2000001 bytes, over the limit of 2000000") as refused:
        READER.read(bytes(2_000_001))
    assert refused.value.status == 413


def lying(content: bytes) -> bytes:
    """The same, with a header that says 60,000 × 60,000 pixels (16,000 × 16,000 where a format has no more)."""
    if content is PNG:
        return content[:8] + header(60_000, 60_000) + content[33:]
    if content is JPEG:
        at = content.index(b"\xff\xc0")
        return content[: at + 5] + struct.pack(">HH", 60_000, 60_000) + content[at + 9 :]
    return content[:26] + struct.pack("<HH", 16_000, 16_000) + content[30:]


@pytest.mark.parametrize("content", [JPEG, PNG, WEBP], ids=["jpeg", "png", "webp"])
def test_a_header_that_promises_too_many_pixels_costs_nothing(content: bytes) -> None:
    liar = lying(content)
    tracemalloc.start()
    with pytest.raises(ImageTooLarge, match="pixels, over the limit of 1000000") as refused:
        READER.read(liar)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status == 413
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("options", "least_bytes"), [({}, 1800), ({"progressive": True}, 1800), ({"optimize": True}, 1800), ({"subsampling": 0}, 3600)]
)
def test_a_jpeg_that_claims_more_pixels_than_its_bytes_can_hold_is_refused(options: dict[str, Any], least_bytes: int) -> None:
    large, small = (encoded(np.full((*size, 3), 77, np.uint8), "JPEG", **options) for size in ((640, 960), (8, 8)))
    assert READER.read(large).shape == (32, 32, 3), "one colour: no picture of this size takes fewer bytes"
    liar = small.replace(struct.pack(">HHB", 8, 8, 3), struct.pack(">HHB", 640, 960, 3))
    with pytest.raises(UnreadableImage, match=f"lies: its header says 960×640 pixels, which take {least_bytes} bytes or more"):
        READER.read(liar)


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0)])
def test_a_picture_without_pixels_is_refused(width: int, height: int) -> None:
    with pytest.raises(UnreadableImage, match=f"{width}×{height} pixels"):
        READER.read(png(header(width, height), chunk(b"IDAT"), chunk(b"IEND")))


def test_bombs_in_metadata_are_not_unpacked() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    loaded = png(PNG[8:33], chunk(b"iCCP", b"x\0\0" + bomb), *[chunk(b"zTXt", b"x\0\0" + bomb)] * 20, PNG[33:])
    tracemalloc.start()
    found = READER.read(loaded)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(found, READER.read(PNG))
    assert peak < 5_000_000


def test_pixels_that_go_on_after_the_picture_is_full_are_left_packed() -> None:
    data = zlib.compress(bytes(100_000_000), 9)
    found = READER.read(png(header(10, 10), chunk(b"IDAT", data), chunk(b"IEND")))
    assert not found.any()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (png(PNG[8:33], *[chunk(b"tEXt")] * MAX_CHUNKS, PNG[33:]), "chunks"),
        (JPEG[:2] + b"\xff\xe5\0\2" * MAX_CHUNKS + JPEG[2:], "segments"),
        (JPEG[:-2] + b"\xff\xda\0\2" * MAX_SCANS + JPEG[-2:], "scans"),
    ],
)
def test_thousands_of_chunks_are_refused(content: bytes, what: str) -> None:
    with pytest.raises(ImageTooLarge, match=what):
        READER.read(content)


def test_a_jpeg_with_two_frame_headers_is_refused() -> None:
    at = JPEG.index(b"\xff\xc0")
    end = at + 2 + int.from_bytes(JPEG[at + 2 : at + 4], "big")
    with pytest.raises(UnreadableImage, match="more than one frame header"):
        READER.read(JPEG[:end] + JPEG[at:end] + JPEG[end:])


@pytest.mark.parametrize("content", files().values(), ids=files())
def test_damage_of_any_kind_is_a_refusal_or_a_picture(content: bytes) -> None:
    rng = random.Random(zlib.crc32(content[:40]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(MUTATIONS):
            assert outcome(mutated(content, rng)) in {200, 413, 415, 422}


def outcome(content: bytes) -> int:
    try:
        return 200 if READER.read(content).shape == (32, 32, 3) else 500
    except RequestError as refused:
        return refused.status if "object at 0x" not in refused.message else 500


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to four damages: bits, bytes, runs removed, doubled, moved or zeroed, lengths blown up. Half of them near the head."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(found), 60 if rng.random() < 0.5 else len(found)))
        run = found[at : at + rng.choice((1, 2, 4, 30, 300))]
        match rng.randrange(7):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del found[at : at + len(run)]
            case 3:
                found[at:at] = run
            case 4:
                found[at : at + len(run)] = bytes(len(run))
            case 5:
                found[at : at + 4] = struct.pack(rng.choice(("<I", ">I")), rng.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)))
            case 6:
                found[at:at] = rng.randbytes(len(run))
    return bytes(found) or b"\0"


def test_the_service_allows_no_more_pixels_than_a_reader_takes() -> None:
    with pytest.raises(ValidationError, match="max_image_pixels"):
        ServiceSettings(max_image_pixels=MOST_PIXELS + 1)
    ImageReader(SPEC, max_bytes=1, max_pixels=ServiceSettings(max_image_pixels=MOST_PIXELS).max_image_pixels)


@pytest.mark.parametrize("pixels", [0, -1, MOST_PIXELS + 1])
def test_the_limit_of_pixels_has_limits(pixels: int) -> None:
    with pytest.raises(SettingsError, match=f"not {pixels}"):
        ImageReader(SPEC, max_bytes=1, max_pixels=pixels)
