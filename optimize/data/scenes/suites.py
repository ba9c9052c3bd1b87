"""Suites: what a model is asked, with pictures of combinations that it has not seen.

Letters: ``S`` pictures, ``L`` labels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from optimize.data.scenes.combinations import Part, part_of_pair, parts_of
from optimize.data.scenes.render import Pixels, render_all
from optimize.data.scenes.sampling import draw_any
from optimize.data.scenes.scene import Scene, Thing
from optimize.data.scenes.vocabulary import (
    COLOURS,
    COUNTS,
    DIGITS,
    LETTERS,
    MEDIUM,
    PLAIN,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    THINGS,
    Subject,
)

SEEDS = {"validation": 1 << 60, "test": 2 << 60}
"""Where the seeds of a part's pictures begin, far behind those of training."""
SEED_STRIDE = 1 << 32
"""Between the seeds of two suites."""


@dataclass(frozen=True)
class Suite:
    """Pictures, labels and which is right.

    Attributes
    ----------
    question
        For the report: what is asked.
    target
        ``(S,) int64``, the right label.
    options
        ``(S, K) int64``, the labels that a picture is compared with; without it, all of them.
    """

    name: str
    question: str
    scenes: tuple[Scene, ...]
    labels: tuple[Scene, ...]
    target: npt.NDArray[np.int64]
    options: npt.NDArray[np.int64] | None = None
    seed: int = 0

    @property
    def choices(self) -> int:
        """How many labels a picture is compared with; guessing is right once in so many times."""
        return len(self.labels) if self.options is None else self.options.shape[1]

    def pictures(self) -> Pixels:
        """Draw the pictures ``(S, 64, 64, 3) uint8``."""
        return render_all(self.scenes, range(self.seed, self.seed + len(self.scenes)))


def suites(part: Literal["validation", "test"], per_label: int) -> list[Suite]:
    """All suites of a part.

    Parameters
    ----------
    per_label
        Pictures for each unseen combination.
    """
    builders = (_colours, _all_colours, _textures, _counts, _positions, _sizes, _characters, _relations, _bindings)
    return [replace(build(part, per_label), seed=SEEDS[part] + at * SEED_STRIDE) for at, build in enumerate(builders)]


def colour_pairs(part: Part | None) -> list[tuple[str, str]]:
    """Subject and colour of all pairs of a part, or of all parts; letters and digits aside."""
    return [(subject, str(colour)) for subject, colour in _pairs(part, THINGS, "colour", tuple(COLOURS))]


def _pairs(part: Part | None, subjects: Sequence[Subject], attribute: str, values: Sequence[object]) -> list[tuple[str, object]]:
    return [(s.name, value) for s in subjects for value in values if part is None or part_of_pair(s.name, attribute, value) == part]


def _of_pairs(
    name: str,
    question: str,
    attribute: str,
    asked: Sequence[tuple[str, object]],
    among: Sequence[tuple[str, object]],
    per_label: int,
    kind: str,
    **fixed: object,
) -> Suite:
    rng = random.Random(name)
    scenes = tuple(draw_any(rng, kind, (subject,), **{**fixed, attribute: value}) for subject, value in asked for _ in range(per_label))
    labels = tuple(Scene(Thing(**{"subject": subject, "count": 1, attribute: value})) for subject, value in among)  # type: ignore[arg-type]
    target = np.repeat([among.index(pair) for pair in asked], per_label)
    return Suite(name, question, scenes, labels, target)


def _colours(part: Part, per_label: int) -> Suite:
    pairs = _pairs(part, THINGS, "colour", tuple(COLOURS))
    return _of_pairs("colours", "which thing of which colour, among the unseen combinations", "colour", pairs, pairs, per_label, "one")


def _all_colours(part: Part, per_label: int) -> Suite:
    asked, among = (_pairs(p, THINGS, "colour", tuple(COLOURS)) for p in (part, None))
    return _of_pairs("colours, all labels", "the same among all combinations, seen ones too", "colour", asked, among, per_label, "one")


def _textures(part: Part, per_label: int) -> Suite:
    values = [texture for texture in TEXTURES if texture != PLAIN]
    asked, among = (_pairs(p, SHAPES, "texture", values) for p in (part, None))
    return _of_pairs("textures", "which shape with which texture, among all", "texture", asked, among, per_label, "one", size="large")


def _counts(part: Part, per_label: int) -> Suite:
    asked, among = (_pairs(p, THINGS, "count", tuple(COUNTS)[1:]) for p in (part, None))
    return _of_pairs(
        "counts", "how many of what, among two to six of everything", "count", asked, among, per_label, "several", texture=PLAIN
    )


def _positions(part: Part, per_label: int) -> Suite:
    pairs = _pairs(part, THINGS, "position", tuple(POSITIONS))
    return _of_pairs("positions", "which thing in which of nine places", "position", pairs, pairs, per_label, "one")


def _sizes(part: Part, per_label: int) -> Suite:
    values = [size for size in SIZES if size != MEDIUM]
    asked, among = (_pairs(p, THINGS, "size", values) for p in (part, None))
    return _of_pairs("sizes", "small or large, and which thing, among all", "size", asked, among, per_label, "one", texture=PLAIN)


def _characters(part: Part, per_label: int) -> Suite:
    pairs = _pairs(part, (*DIGITS, *LETTERS), "colour", tuple(COLOURS))
    return _of_pairs("characters", "which letter or digit of which colour", "colour", pairs, pairs, max(1, per_label // 2), "one")


def _relations(part: Part, per_label: int) -> Suite:
    def options(scene: Scene) -> list[Scene]:
        one, two = Thing(scene.first.subject, count=1), Thing(str(scene.second and scene.second.subject), count=1)
        others = [Scene(*order, relation) for relation in RELATIONS for order in ((one, two), (two, one))]
        return sorted(others, key=lambda other: (other.relation, other.first) != (scene.relation, one))

    return _of_options("relations", "which of two things lies where: four sentences", part, per_label * 20, options)


def _bindings(part: Part, per_label: int) -> Suite:
    def options(scene: Scene) -> list[Scene]:
        two = scene.second
        assert two is not None
        one = scene.first
        right = Scene(Thing(one.subject, one.colour, count=1), Thing(two.subject, two.colour, count=1))
        return [right, Scene(Thing(one.subject, two.colour, count=1), Thing(two.subject, one.colour, count=1))]

    return _of_options("bindings", "which of two things has which of two colours: two sentences", part, per_label * 20, options)


def _of_options(name: str, question: str, part: Part, count: int, options: Callable[[Scene], list[Scene]]) -> Suite:
    rng = random.Random(name)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = draw_any(rng, "two")
        if parts_of(scene)["relation"] == part:
            scenes.append(scene)
    labels: dict[Scene, int] = {}
    table = np.array([[labels.setdefault(option, len(labels)) for option in options(scene)] for scene in scenes], np.int64)
    return Suite(name, question, tuple(scenes), tuple(labels), table[:, 0].copy(), table)
