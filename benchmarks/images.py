"""From an image file to the pixels of a tower, beside PIL and transformers: ``python -m benchmarks.images [--quick] [--json]``.

For each file, to 224×224 as CLIP's processor does (shortest edge, middle):

* ``ours_ms``: `serving.clip.images.ImageReader` as it serves;
* ``ours_whole_ms``: the same, decoding every JPEG at its full size;
* ``ours_without_simd_ms``: the same as ``ours``, resampling by PIL as on platforms without a wheel;
* ``pil_ms``: what a careful person writes with PIL: open, orientation, transparency on white, resize, crop;
* ``transformers_ms``: ``CLIPImageProcessorPil`` on the opened file, as in transformers' pipelines: with the conversion to normalized
  floats, which here is the graph's work.

``…_over_ours`` are ratios of the same round. ``ours_mean_levels``, ``ours_max_levels``, ``ours_differing_pct`` compare the pixels with
those of PIL, in levels of 255; ``…_whole_…`` those of the full-size decode. ``cosine`` is the least cosine, over ``files`` and files
with hard edges of the same sizes, between the embeddings of ours and of PIL's pixels, by a seeded ViT-B/32; ``centred_cosine`` the same
after subtracting the mean embedding, without which those of a seeded tower are all alike. ``scenes_…`` and ``lined_scenes_…`` are of a
trained tower, the embedded CLIP (`benchmarks.large_scenes`).

Files are drawn from a seed (`benchmarks.photographs`). A round visits all pairs of arm and file in random order, each visit with
one call that is not counted and one that is. One thread does everything, and milliseconds are its CPU time: what else runs on the
machine costs caches, but no turns.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from benchmarks.command import Tell, report
from benchmarks.large_scenes import scene_figures
from benchmarks.photographs import encoded, photograph, poster
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of
from serving.clip import preprocess
from serving.clip.images import MOST_PIXELS, ImageReader
from serving.contract.clip import ImageSpec

Pixels = npt.NDArray[np.uint8]
Samples = Mapping[tuple[str, str], Sequence[float]]

SIZE = 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SPEC = ImageSpec(size=SIZE, resize="shortest_edge", resize_to=SIZE, resample="bicubic", mean=MEAN, std=STD)
ROUNDS, QUICK_ROUNDS = 40, 8
SCENES_A_LABEL, QUICK_SCENES_A_LABEL = 10, 1
PACKAGES = ("numpy", "pillow", "cykooz-resizer", "transformers", "torch")
HEADLINE = "photo_noisy"


def draw_files() -> dict[str, bytes]:
    """Name → file."""
    clear = photograph(1024, 768, noise=8)
    faded = np.dstack([clear, photograph(1024, 768, seed=1)[..., 0]])
    return {
        HEADLINE: encoded(photograph(1024, 768, noise=20), "JPEG", quality=90),
        "photo_smooth": encoded(photograph(1024, 768), "JPEG", quality=90),
        "photo_12_megapixels": encoded(photograph(4000, 3000, noise=8), "JPEG", quality=90),
        "png": encoded(clear, "PNG"),
        "png_transparent": encoded(faded, "PNG"),
        "webp": encoded(clear, "WEBP", quality=80),
    }


def draw_hard_files() -> dict[str, bytes]:
    """Files whose edges no photograph has: the worst case of decoding at reduced scale."""
    sizes = ((1024, 768), (1600, 1200), (4000, 3000))
    return {f"poster_{width}": encoded(poster(width, height), "JPEG", quality=90) for width, height in sizes}


def with_pil(content: bytes) -> Pixels:
    """The pixels that all others are compared with."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    shortest = min(image.size)
    width, height = (SIZE if side == shortest else int(SIZE * side / shortest) for side in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)))


def make_arms() -> dict[str, Callable[[bytes], object]]:
    """Name → from a file to pixels."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    reader, whole = (ImageReader(SPEC, max_bytes=2**26, max_pixels=MOST_PIXELS, scale_jpeg=scale) for scale in (True, False))
    processor = CLIPImageProcessorPil()

    def without_simd(content: bytes) -> Pixels:
        with mock.patch.object(preprocess, "simd", None):
            return reader.read(content)

    def with_transformers(content: bytes) -> object:
        return processor(ImageOps.exif_transpose(Image.open(io.BytesIO(content))), return_tensors="np")["pixel_values"]

    return {
        "ours": reader.read,
        "ours_whole": whole.read,
        "ours_without_simd": without_simd,
        "pil": with_pil,
        "transformers": with_transformers,
    }


def measure(
    arms: Mapping[str, Callable[[bytes], object]], files: Mapping[str, bytes], rounds: int, tell: Tell
) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of CPU time of each pair of file and arm, one a round."""
    pairs = [(file, arm) for file in files for arm in arms]
    samples: dict[tuple[str, str], list[float]] = {pair: [] for pair in pairs}
    order = random.Random(0)
    for done in range(rounds):
        tell("measuring", done / rounds)
        for file, arm in order.sample(pairs, len(pairs)):
            arms[arm](files[file])
            start = time.thread_time()
            arms[arm](files[file])
            samples[file, arm].append(1000 * (time.thread_time() - start))
    return samples


def time_figures(samples: Samples) -> list[Figure]:
    """Medians, and medians of the rounds' ratios to ours."""
    figures = []
    for (file, arm), values in samples.items():
        figures.append(Figure(f"{file}_{arm}_ms", median(values), "ms", len(values)))
        if arm != "ours":
            ratio = median(theirs / ours for theirs, ours in zip(values, samples[file, "ours"], strict=True))
            figures.append(Figure(f"{file}_{arm}_over_ours", ratio, "x", len(values)))
    return figures


def error_figures(name: str, found: Pixels, wanted: Pixels) -> list[Figure]:
    """How far pixels are from PIL's."""
    off = np.abs(found.astype(int) - wanted)
    return [
        Figure(f"{name}_mean_levels", float(off.mean()), "of 255", 1),
        Figure(f"{name}_max_levels", float(off.max()), "of 255", 1),
        Figure(f"{name}_differing_pct", float(100 * (off > 0).mean()), "%", 1),
    ]


def cosines(found: Sequence[Pixels], wanted: Sequence[Pixels]) -> tuple[float, float]:
    """Least cosine between embeddings of pairs of pictures, plain and centred, by a seeded ViT-B/32."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=32)).train(False)

    def embed(pictures: Sequence[Pixels]) -> npt.NDArray[np.float64]:
        normalized = (np.stack(pictures) / 255 - MEAN) / STD
        with torch.no_grad():
            vectors = tower(torch.from_numpy(normalized.transpose(0, 3, 1, 2).astype(np.float32))).image_embeds.double().numpy()
        out: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return out

    ours, theirs = embed(found), embed(wanted)
    return _least_cosine(ours, theirs), _least_cosine(ours - theirs.mean(axis=0), theirs - theirs.mean(axis=0))


def _least_cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def run(*, quick: bool, tell: Tell) -> Record:
    """Measure everything."""
    tell("drawing pictures", 0.0)
    files, arms = draw_files(), make_arms()
    rounds = QUICK_ROUNDS if quick else ROUNDS
    figures = time_figures(measure(arms, files, rounds, tell))
    tell("comparing pixels and embeddings", 1.0)
    hard = files | draw_hard_files()
    wanted = {name: with_pil(content) for name, content in hard.items()}
    reader = {arm: {name: np.asarray(arms[arm](content)) for name, content in hard.items()} for arm in ("ours", "ours_whole")}
    for name in hard:
        for arm, pixels in reader.items():
            figures += error_figures(f"{name}_{arm}", pixels[name], wanted[name])
    for arm, pixels in reader.items():
        plain, centred = cosines(list(pixels.values()), list(wanted.values()))
        figures += [Figure(f"{arm}_cosine", plain, "", len(hard)), Figure(f"{arm}_centred_cosine", centred, "", len(hard))]
    tell("classifying large scenes", 1.0)
    figures += scene_figures(QUICK_SCENES_A_LABEL if quick else SCENES_A_LABEL)
    return Record(machine_of(1), versions_of(PACKAGES), tuple(figures), aims_of(figures))


def aims_of(figures: Sequence[Figure]) -> tuple[Aim, ...]:
    """What was wanted of the noisy photograph, and of embeddings."""
    values = {figure.name: figure.value for figure in figures}
    whole = max(value for name, value in values.items() if name.endswith("_ours_whole_max_levels"))
    return (
        Aim("photo_noisy_pil_over_ours", values[f"{HEADLINE}_pil_over_ours"], "x", 1.5),
        Aim("most_levels_off_when_decoded_whole", whole, "of 255", 1, at_most=True),
        Aim("ours_cosine", values["ours_cosine"], "", 0.999),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aims are met, 3 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description="From an image file to the pixels of a tower.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}: ends within 60 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    return report(lambda tell: run(quick=options.quick, tell=tell), "from an image file to 224×224 pixels", as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
