"""Zero-shot accuracy of a pair of towers on suites of questions.

Letters: ``S`` pictures, ``L`` labels, ``D`` embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from optimize.data.scenes.captions import Phrasing, label
from optimize.data.scenes.render import Pixels
from optimize.data.scenes.suites import Suite

Embeddings = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


class Towers(Protocol):
    """What embeds pictures and texts into one space."""

    def images(self, pixels: Pixels) -> Embeddings:
        """Embed ``(S, 64, 64, 3) uint8`` as ``(S, D)``, of length 1 each."""
        ...

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts as ``(L, D)``, of length 1 each."""
        ...


@dataclass(frozen=True)
class Exam:
    """A suite with its pictures drawn, so that several models see the same."""

    suite: Suite
    pixels: Pixels


def draw_exams(suites: Sequence[Suite]) -> list[Exam]:
    """Draw the pictures of suites."""
    return [Exam(suite, suite.pictures()) for suite in suites]


def predict(exam: Exam, towers: Towers, phrasing: Phrasing | None = None) -> Index:
    """Choose a label for every picture ``(S,) int64``: the one whose embedding is closest among those it is compared with."""
    suite = exam.suite
    texts = towers.texts([label(claim, phrasing) for claim in suite.labels])
    return choose(suite, towers.images(exam.pixels), texts)


def choose(suite: Suite, images: Embeddings, texts: Embeddings) -> Index:
    """Choose by cosine among the suite's options; ties go to the last, so that a model that answers the same to all gains nothing."""
    cosines = images @ texts.T
    if suite.options is None:
        return np.asarray(cosines.argmax(axis=1), np.int64)
    among = np.take_along_axis(cosines, suite.options, axis=1)[:, ::-1]
    best = suite.options.shape[1] - 1 - among.argmax(axis=1)
    return np.take_along_axis(suite.options, best[:, None], axis=1)[:, 0]


def accuracy(exam: Exam, towers: Towers, phrasings: Sequence[Phrasing | None] = (None,)) -> float:
    """Share of pictures that get the right label; over several phrasings, the mean."""
    images = towers.images(exam.pixels)
    right = []
    for phrasing in phrasings:
        texts = towers.texts([label(claim, phrasing) for claim in exam.suite.labels])
        right.append(float(np.mean(choose(exam.suite, images, texts) == exam.suite.target)))
    return float(np.mean(right))
