"""Pictures of every kind become the pixels that transformers' processors make of them."""

from __future__ import annotations

import io
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile, ImageOps

from benchmarks.photographs import encoded, photograph
from serving.clip import preprocess
from serving.clip.images import ImageReader
from serving.contract.clip import ImageSpec

Pixels = npt.NDArray[np.uint8]
CROP = ImageSpec(size=64, resize="shortest_edge", resize_to=72, resample="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
SQUASH = ImageSpec(size=64, resize="squash", resize_to=64, resample="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
BOUNDS = {"max_bytes": 10**7, "max_pixels": 10**7}
SIZES = ((100, 80), (81, 200), (300, 199), (50, 40), (30, 91), (64, 64), (72, 72), (500, 90), (91, 501), (1, 1), (1, 40), (40, 1))

# Coefficients of 16 bits instead of PIL's 22 make another number of what lies halfway between two. Pictures that are enlarged by a
# simple ratio have many such values: 9 % of 64 → 72 pixels, bilinear. They differ by 1 level, hardly ever by 2.
MOST_OFF, MOST_OFF_SHARE = 2, 0.1


def reader(spec: ImageSpec) -> ImageReader:
    return ImageReader(spec, **BOUNDS, scale_jpeg=False)


def expected(spec: ImageSpec, content: bytes) -> Pixels:
    """What transformers make of it, before scaling to 0…1."""
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip", reason="transformers is not installed")
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")
    off = {"do_normalize": False, "do_rescale": False}
    if spec.resize == "squash":
        processor = siglip.SiglipImageProcessorPil(size={"height": spec.size, "width": spec.size}, resample=_filter(spec), **off)
    else:
        processor = clip.CLIPImageProcessorPil(size={"shortest_edge": spec.resize_to}, crop_size=spec.size, resample=_filter(spec), **off)
    with Image.open(io.BytesIO(content)) as image:
        pixels = processor.preprocess(ImageOps.exif_transpose(image), return_tensors="np")["pixel_values"][0]
    return np.asarray(pixels).transpose(1, 2, 0).astype(np.uint8)


def _filter(spec: ImageSpec) -> int:
    return Image.Resampling[spec.resample.upper()]


def assert_close(found: Pixels, wanted: Pixels) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.uint8
    off = np.abs(found.astype(int) - wanted)
    assert off.max() <= MOST_OFF
    assert (off > 0).mean() <= MOST_OFF_SHARE


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = photograph(width, height, noise=20)
    image = Image.fromarray(pixels)
    if mode in {"LA", "RGBA"}:
        image = image.convert(mode.removesuffix("A"))
        image.putalpha(Image.fromarray(np.ascontiguousarray(pixels[..., 0])))
        return image
    return image.convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("spec", [CROP, SQUASH], ids=["crop", "squash"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "L"),
        ("PNG", "1"),
        ("PNG", "P"),
        ("PNG", "LA"),
        ("PNG", "RGBA"),
        ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
    ],
)
def test_a_picture_is_seen_as_transformers_see_it(spec: ImageSpec, size: tuple[int, int], form: str, mode: str) -> None:
    content = saved(picture(*size, mode), form)
    assert_close(reader(spec).read(content), expected(spec, content))


@pytest.mark.parametrize("noise", [0, 20])
@pytest.mark.parametrize(("width", "height"), [(1024, 768), (480, 640), (400, 1300)])
@pytest.mark.parametrize("spec", [CROP, SQUASH], ids=["crop", "squash"])
def test_of_a_photograph_hardly_a_value_differs_from_pil(spec: ImageSpec, width: int, height: int, noise: float) -> None:
    content = encoded(photograph(width, height, noise=noise), "JPEG")
    off = np.abs(reader(spec).read(content).astype(int) - expected(spec, content))
    assert off.max() <= 1
    assert (off > 0).mean() <= 0.01  # with the passes in the other order it is 0.15, and 3 levels


@pytest.mark.parametrize(("width", "height"), [(1, 10_000), (10_000, 1)])
def test_of_a_long_strip_only_the_middle_is_computed(width: int, height: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1] = 200
    tracemalloc.start()
    found = reader(CROP).read(encoded(pixels, "PNG"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.min() >= 200  # more, as bicubic kernels overshoot
    assert peak < 1_000_000  # resized as a whole, it would have 72 × 720,000 pixels


@pytest.mark.parametrize("resample", ["bilinear", "lanczos"])
@pytest.mark.parametrize("size", SIZES)
def test_other_filters_are_those_of_pil(resample: str, size: tuple[int, int]) -> None:
    spec = CROP.model_copy(update={"resample": resample})
    content = encoded(photograph(*size, noise=20), "PNG")
    assert_close(reader(spec).read(content), expected(spec, content))


@pytest.mark.parametrize("spec", [CROP, SQUASH], ids=["crop", "squash"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(spec: ImageSpec, form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(picture(131, 90), form, exif=exif)
    assert_close(reader(spec).read(content), expected(spec, content))


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05", b"\xff" * 60])
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    plain = picture(131, 90)
    assert np.array_equal(reader(CROP).read(saved(plain, "JPEG", exif=exif)), reader(CROP).read(saved(plain, "JPEG")))


@pytest.mark.parametrize("spec", [CROP, SQUASH], ids=["crop", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_without_simd_pil_makes_the_same_square(spec: ImageSpec, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "simd", None)
    content = encoded(photograph(*size, noise=20), "PNG")
    off = np.abs(reader(spec).read(content).astype(int) - expected(spec, content))
    # A part of the picture has other passes than the whole where PIL chooses their order: rounding between them differs.
    assert off.max() <= (MOST_OFF if spec is SQUASH else 3)


def test_grey_of_16_bits_is_scaled_not_cut_off() -> None:
    wide = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    found = reader(SQUASH).read(saved(Image.fromarray(wide), "PNG"))
    assert np.array_equal(found, np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_the_transparent_value_of_16_bit_grey_is_white() -> None:
    wide = np.full((64, 64), 300, np.uint16)
    assert reader(SQUASH).read(saved(Image.fromarray(wide), "PNG", transparency=300)).min() == 255
    assert reader(SQUASH).read(saved(Image.fromarray(wide), "PNG", transparency=301)).max() == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    options = {"transparency": 0} if mode == "P" else {}
    assert reader(CROP).read(saved(Image.new(mode, (80, 80)), "PNG", **options)).min() == 255


def test_every_value_at_every_transparency_is_laid_on_white_exactly() -> None:
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    content = encoded(np.stack([value, value, value, alpha], axis=-1).astype(np.uint8), "PNG")
    spec = ImageSpec(size=256, resize="squash", resize_to=256, resample="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    assert np.array_equal(reader(spec).read(content), expected(spec, content))


@pytest.mark.parametrize(("form", "options"), [("WEBP", {"lossless": True}), ("PNG", {})])
def test_of_an_animation_the_first_frame_is_taken(form: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "green", "blue")]
    content = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=100, **options)
    assert np.array_equal(reader(CROP).read(content), np.full((64, 64, 3), (255, 0, 0)))


def test_a_picture_with_metadata_is_the_picture_without() -> None:
    image = picture(131, 90)
    loaded = saved(image, "JPEG", icc_profile=b"\1" * 200_000, comment=b"hello", dpi=(72, 72), xmp=b"<x/>")
    assert np.array_equal(reader(CROP).read(loaded), reader(CROP).read(saved(image, "JPEG")))


@pytest.mark.parametrize("noise", [0, 20])
@pytest.mark.parametrize(("width", "height"), [(1001, 747), (747, 1001), (641, 480)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_decoded_at_reduced_scale_stays_close(noise: float, width: int, height: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photograph(width, height, noise=noise), "JPEG", quality=90, exif=exif)
    scaled = ImageReader(CROP, **BOUNDS).read(content).astype(int)
    off = np.abs(scaled - reader(CROP).read(content))
    # Measured: up to 0.4 levels in the mean, 4 at most. A shift by one pixel of the decoded picture would be 1.7 and 30.
    assert off.mean() < 0.8
    assert off.max() < 10


def test_threads_share_a_reader() -> None:
    shared = ImageReader(CROP, **BOUNDS)
    files = [encoded(photograph(150 + n, 120, seed=n), form) for n in range(6) for form in ("JPEG", "PNG", "WEBP")]
    alone = [shared.read(file) for file in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(shared.read, files * 4))
    assert all(np.array_equal(found, alone[n % len(files)]) for n, found in enumerate(together))


def test_pil_is_left_as_it_was() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, Image.OPEN["JPEG"], Image.OPEN["PNG"], Image.OPEN["WEBP"])
    reader(CROP).read(encoded(photograph(80, 80), "WEBP"))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, Image.OPEN["JPEG"], Image.OPEN["PNG"], Image.OPEN["WEBP"])
