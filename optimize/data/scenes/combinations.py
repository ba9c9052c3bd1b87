"""Which pairs of attributes belong to training, validation and test.

Every pair of values of two attributes, say *red* and *heart*, belongs to exactly one part. A scene of the training part has
training pairs only; a test scene has at least one test pair, named by its suite. Pairs are dealt out in diagonals, so that
each part has each value: the model has seen red things and hearts, but no red heart.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from optimize.data.scenes.scene import ATTRIBUTES, UNSAID, Codes, Scene
from optimize.data.scenes.vocabulary import MEDIUM, PLAIN, RELATIONS

Part = Literal["train", "validation", "test"]
DIAGONALS = 6
"""One of six is a test pair, one a validation pair, four are training pairs."""

DEALT = {"colour": (1, 0), "texture": (5, 1), "size": (1, 2), "count": (5, 3), "position": (1, 4)}
"""Attribute → factor and start of its diagonals. The factor has no divisor in common with `DIAGONALS`, or a value would miss a part;
they differ so that a subject's unseen colour and its unseen texture are not the same row of the table."""

USUAL = {"texture": PLAIN, "size": MEDIUM, "count": 1}
"""What goes without saying belongs to training with every subject."""


def part_of_pair(subject: str, attribute: str, value: object) -> Part:
    """Part of the pair of a subject and one of its attributes."""
    if USUAL.get(attribute) == value:
        return "train"
    factor, start = DEALT[attribute]
    return _part(factor * ATTRIBUTES["subject"].index(subject) + ATTRIBUTES[attribute].index(value) + start)


def part_of_relation(first: str, relation: str, second: str) -> Part:
    """Part of a pair of subjects in a relation."""
    subjects = ATTRIBUTES["subject"]
    return _part(subjects.index(first) + 2 * subjects.index(second) + 3 * tuple(RELATIONS).index(relation))


def shown_together(claims: Codes, scenes: Codes) -> npt.NDArray[np.bool_]:
    """Say whether training could show a scene of which a claim is true and that is else as the given one ``(C, S) bool``.

    Where it could not, that the claim was never true of such scenes says nothing: a model that is taught otherwise learns that red
    things are no hearts. Claims and scenes are those of `optimize.data.scenes.scene.encode`.
    """
    width = len(ATTRIBUTES)
    first, second = claims[:, None, :width], claims[:, None, width : 2 * width]
    one, other = scenes[None, :, :width], scenes[None, :, width : 2 * width]
    return _shown(first, one) & _shown(second, other) & _shown(first, other) & _shown(second, one)


def _shown(said: Codes, is_: Codes) -> npt.NDArray[np.bool_]:
    merged = np.where(said != UNSAID, said, is_.clip(min=UNSAID))
    names = tuple(ATTRIBUTES)
    found = np.ones(merged.shape[:2], np.bool_)
    for attribute, table in _tables().items():
        found &= table[merged[..., 0], merged[..., names.index(attribute)]]
    return found


@cache
def _tables() -> dict[str, npt.NDArray[np.bool_]]:
    """For each attribute whether a subject and a value are a training pair, by their codes; what is not said goes with everything."""
    tables = {}
    for attribute in DEALT:
        table = np.ones((len(ATTRIBUTES["subject"]) + 1, len(ATTRIBUTES[attribute]) + 1), np.bool_)
        for row, subject in enumerate(ATTRIBUTES["subject"], 1):
            for column, value in enumerate(ATTRIBUTES[attribute], 1):
                table[row, column] = part_of_pair(str(subject), attribute, value) == "train"
        tables[attribute] = table
    return tables


def parts_of(scene: Scene) -> dict[str, Part]:
    """Part of every pair in a scene, by attribute; the worse one where two things differ in it."""
    found: dict[str, Part] = {}
    order: tuple[Part, ...] = ("train", "validation", "test")
    for thing in (scene.first, scene.second):
        if thing is None:
            continue
        for attribute in DEALT:
            value = getattr(thing, attribute)
            if value is not None and thing.subject is not None:
                part = part_of_pair(thing.subject, attribute, value)
                found[attribute] = max(found.get(attribute, "train"), part, key=order.index)
    if scene.relation and scene.second is not None and scene.first.subject and scene.second.subject:
        found["relation"] = part_of_relation(scene.first.subject, scene.relation, scene.second.subject)
    return found


def _part(diagonal: int) -> Part:
    return ("test", "validation", "train", "train", "train", "train")[diagonal % DIAGONALS]
