"""Which pairs of attributes belong to training, validation and test.

Every pair of values of two attributes, say *red* and *heart*, belongs to exactly one part. A scene of the training part has
training pairs only; a test scene has at least one test pair, named by its suite. Pairs are dealt out in diagonals, so that
each part has each value: the model has seen red things and hearts, but no red heart.
"""

from __future__ import annotations

from typing import Literal

from optimize.data.scenes.scene import ATTRIBUTES, Scene
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
