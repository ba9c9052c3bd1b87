"""The two towers of a bundle, loaded, guarded and warm."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePath
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.clip.labels import Matrix
from serving.clip.tokenize import TextEncoder
from serving.contract.bundle import ClipBundle
from serving.contract.clip import PIXELS
from serving.contract.errors import ModelOutputError
from serving.contract.manifest import ClipManifest
from serving.runtime.cost import CostModel
from serving.runtime.provider_names import Provider
from serving.runtime.session import GraphSession

Pixels = npt.NDArray[np.uint8]
"""``(B, S, S, 3) uint8``, RGB."""

IMAGE_SIZES = (1, 2, 4, 8)
"""Images in the runs of warm-up. Beyond 8 a picture gains little more (ViT-B/32 int8: 24 ms at 1, 15 at 8), and one run would be long."""

MAX_IMAGES_A_RUN = IMAGE_SIZES[-1]

TEXT_SIZES = (1, 8, 32)

WARM_TEXTS = [f"a photo of a thing, number {i}." for i in range(TEXT_SIZES[-1])]

WARM_RUNS = 3
"""The first run allocates and is not counted; runs take tens of milliseconds, so that two must do."""

MAX_WARM_STEPS = 4
"""Larger runs of texts are not tried once they would take so many steps' time: some text towers take 65 ms a text."""

MAX_DRIFT = 0.01
"""By how much the length of an embedding may differ from 1: half precision in the graph's last division allows some 0.001."""

_NO_PART_OF_A_TOWER = (".html", ".json", ".md")


class Towers:
    """Runs both graphs; each has an output of its own, a normalized embedding.

    Parameters
    ----------
    bundle
        A checked bundle.
    threads, provider, arena_mib
        As for `GraphSession`.

    Raises
    ------
    BundleError
        A graph or the tokenizer cannot be loaded, or does not fit the manifest.
    SettingsError
        The provider is not available.
    """

    def __init__(self, bundle: ClipBundle, *, threads: int, provider: Provider = "cpu", arena_mib: int | None = None) -> None:
        manifest = self.manifest = bundle.manifest
        self.spec = manifest.clip
        self.threads = threads
        options: dict[str, Any] = {"threads": threads, "provider": provider, "arena_mib": arena_mib}
        self.image = GraphSession(bundle.image_path, **options)
        self.image.require(manifest.signatures.image)
        self.text = GraphSession(bundle.text_path, **options)
        self.text.require(manifest.signatures.text)
        self.tokens = TextEncoder(bundle.tokenizer_path, self.spec.text)
        self.fingerprint = text_fingerprint(manifest)
        self.texts_a_run = 1

    def embed_images(self, pixels: Pixels) -> Matrix:
        """Embed images, at most `MAX_IMAGES_A_RUN` at once.

        Returns
        -------
        ndarray
            ``(B, D) float32``, of length 1 each.

        Raises
        ------
        ModelOutputError
            The run failed, or gave what is no embedding.
        """
        return self._checked(self.image.run({PIXELS: pixels})[0])

    def embed_texts(self, texts: Sequence[str]) -> Matrix:
        """Embed texts: ``(T, D) float32``, of length 1 each.

        Raises
        ------
        ModelOutputError
            As `embed_images`.
        InvalidRequest
            A text is too long for a model that cuts none.
        """
        return self._checked(self.text.run(self.tokens.encode(texts))[0])

    def warm_up(self, longest_step_s: float) -> tuple[CostModel, CostModel]:
        """Run both towers at the sizes that will be seen, so that the first caller does not pay for it.

        Parameters
        ----------
        longest_step_s
            Sets `texts_a_run`: as many texts as one run takes within it.

        Returns
        -------
        tuple
            Costs of image runs, in images, and of text runs, in texts.
        """
        images = CostModel((count, _timed(partial(self.embed_images, self._blank(count)))) for count in IMAGE_SIZES)
        measured: list[tuple[int, float]] = []
        for count in TEXT_SIZES:
            if not measured or CostModel(measured).predict(count) <= MAX_WARM_STEPS * longest_step_s:
                measured.append((count, _timed(partial(self.embed_texts, WARM_TEXTS[:count]))))
        texts = CostModel(measured)
        self.texts_a_run = max([n for n in range(1, TEXT_SIZES[-1] + 1) if texts.predict(n) <= longest_step_s], default=1)
        return images, texts

    def _blank(self, count: int) -> Pixels:
        size = self.spec.image.size
        return np.zeros((count, size, size, 3), np.uint8)

    def _checked(self, embeddings: Matrix) -> Matrix:
        lengths = np.linalg.norm(embeddings, axis=1)
        if not (np.abs(lengths - 1) <= MAX_DRIFT).all():  # NaN compares false
            raise ModelOutputError(f"model {self.manifest.name} {self.manifest.version} gave an embedding whose length is not 1")
        return embeddings


def text_fingerprint(manifest: ClipManifest) -> str:
    """SHA-256 in hex of all that a text's embedding follows from: graph, weights, tokenizer, preparation.

    Files that could be weights count, whatever they are called, unless they are the image tower's; a file too many costs speed alone.
    """
    image = PurePath(manifest.towers.image).stem
    parts = {
        name: entry.sha256
        for name, entry in manifest.files.items()
        if name == manifest.tokenizer or not (name.endswith(_NO_PART_OF_A_TOWER) or PurePath(name).stem == image)
    }
    text = f"{sorted(parts.items())}{manifest.clip.text.model_dump_json()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _timed(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(WARM_RUNS):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return median(taken[1:])
