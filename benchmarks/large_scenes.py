"""What decoding JPEGs at reduced scale does to a trained CLIP: scenes of the embedded one, enlarged to 1600×1600.

The embedded CLIP sees 64×64, so that such a file is decoded at a quarter or an eighth: further than any model of 224 would go. Scenes are
enlarged with hard edges, once as they are and once under a grid of black lines one pixel wide, the worst case that was found.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.photographs import encoded
from benchmarks.record import Figure
from optimize.data.scenes.captions import label
from optimize.data.scenes.suites import suites
from optimize.search.clip_towers import PICTURES_A_RUN, chunks, embed
from serving.clip.images import MOST_PIXELS, ImageReader
from serving.clip.tokenize import TextEncoder
from serving.contract.bundle import ClipBundle, open_bundle
from serving.contract.clip import PIXELS
from serving.runtime.session import GraphSession

BUNDLE = Path(__file__).parents[1] / "models" / "clip-scenes"
SIDE = 1600
LINE_EVERY = 12
"""Pixels between lines: 8 % of the picture is black, and what it shows is still seen."""

Floats = npt.NDArray[np.float32]


def enlarged(scene: npt.NDArray[np.uint8], *, lined: bool) -> bytes:
    """JPEG of a scene, each pixel of it a square."""
    pixels = np.array(Image.fromarray(scene).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    if lined:
        pixels[::LINE_EVERY] = pixels[:, ::LINE_EVERY] = 0
    return encoded(pixels, "JPEG", quality=90)


def scene_figures(per_label: int) -> list[Figure]:
    """Cosine between embeddings of a file decoded at reduced scale and decoded whole, and the accuracy of each.

    Parameters
    ----------
    per_label
        Pictures for each combination of a thing and a colour that training never saw.
    """
    bundle = open_bundle(BUNDLE)
    assert isinstance(bundle, ClipBundle)
    spec = bundle.manifest.clip
    scaled, whole = (ImageReader(spec.image, max_bytes=2**26, max_pixels=MOST_PIXELS, scale_jpeg=scale) for scale in (True, False))
    image, text = (GraphSession(path, threads=1) for path in (bundle.image_path, bundle.text_path))
    suite = next(each for each in suites("test", per_label) if each.name == "colours")
    labels = embed(text, [TextEncoder(bundle.tokenizer_path, spec.text).encode([label(claim) for claim in suite.labels])])
    scenes, figures = suite.pictures(), []

    def embeddings(pixels: list[npt.NDArray[np.uint8]]) -> Floats:
        return embed(image, chunks({PIXELS: np.stack(pixels)}, PICTURES_A_RUN))

    def accuracy_pct(pictures: Floats) -> float:
        return float(100 * ((pictures @ labels.T).argmax(axis=1) == suite.target).mean())

    for name, lined in (("scenes", False), ("lined_scenes", True)):
        files = [enlarged(scene, lined=lined) for scene in scenes]
        reduced, full = embeddings([scaled.read(file) for file in files]), embeddings([whole.read(file) for file in files])
        cosine = (reduced * full).sum(axis=1)
        figures += [
            Figure(f"{name}_mean_cosine", float(cosine.mean()), "", len(files)),
            Figure(f"{name}_least_cosine", float(cosine.min()), "", len(files)),
            Figure(f"{name}_accuracy_pct", accuracy_pct(reduced), "%", len(files)),
            Figure(f"{name}_whole_accuracy_pct", accuracy_pct(full), "%", len(files)),
        ]
    return figures
