"""Scenes and claims: what is in a picture, and what a caption says of one.

Both are the same type. In a scene ``None`` means that the attribute is not settled (several small stars are neither
small nor not small); in a claim it means that the caption does not speak of it.

Letters: ``S`` scenes, ``C`` claims, ``A`` attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optimize.data.scenes import vocabulary

Codes = npt.NDArray[np.int16]

ATTRIBUTES: dict[str, tuple[object, ...]] = {
    "subject": tuple(subject.name for subject in vocabulary.SUBJECTS),
    "colour": tuple(vocabulary.COLOURS),
    "texture": tuple(vocabulary.TEXTURES),
    "size": tuple(vocabulary.SIZES),
    "count": tuple(vocabulary.COUNTS),
    "position": tuple(vocabulary.POSITIONS),
}
_RELATIONS = tuple(vocabulary.RELATIONS)
_COLOURS = ATTRIBUTES["colour"]
UNSETTLED = -1
UNSAID = 0


@dataclass(frozen=True)
class Thing:
    """One subject of a scene, or what a claim says of it."""

    subject: str | None = None
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    count: int | None = None
    position: str | None = None


@dataclass(frozen=True)
class Scene:
    """One thing, or two; with a relation, the first lies `relation` of the second."""

    first: Thing
    second: Thing | None = None
    relation: str | None = None
    background: str | None = None


def encode(scenes: Sequence[Scene], none: int) -> Codes:
    """Write scenes or claims as numbers ``(S, A) int16``: first thing, second thing, relation, background.

    Parameters
    ----------
    none
        `UNSETTLED` for scenes, `UNSAID` for claims.
    """
    width = len(ATTRIBUTES)
    codes = np.zeros((len(scenes), 2 * width + 2), np.int16)
    for row, scene in zip(codes, scenes, strict=True):
        row[:width] = _thing(scene.first, none)
        if scene.second is not None:
            row[width : 2 * width] = _thing(scene.second, none)
        row[-2] = _RELATIONS.index(scene.relation) + 1 if scene.relation else 0
        row[-1] = _COLOURS.index(scene.background) + 1 if scene.background else none
    return codes


def _thing(thing: Thing, none: int) -> list[int]:
    values = (thing.subject, thing.colour, thing.texture, thing.size, thing.count, thing.position)
    return [none if value is None else known.index(value) + 1 for value, known in zip(values, ATTRIBUTES.values(), strict=True)]


def truth(claims: Codes, scenes: Codes) -> npt.NDArray[np.bool_]:
    """Say which claim may be true of which scene ``(C, S) bool``; what a scene leaves unsettled may be true.

    A claim about one thing holds when either thing of the scene fits; a claim about two without a relation holds in either order.
    """
    width = len(ATTRIBUTES)
    first, second, relation, ground = np.split(claims, (width, 2 * width, 2 * width + 1), axis=1)
    one, other, lies, behind = np.split(scenes, (width, 2 * width, 2 * width + 1), axis=1)
    straight = _fits(first, one) & _fits(second, other)
    crossed = _fits(first, other) & _fits(second, one) & (relation == UNSAID)
    related = (relation == UNSAID) | (relation == lies.T)
    found: npt.NDArray[np.bool_] = (straight & related | crossed) & _fits(ground, behind)
    return found


def _fits(said: Codes, is_: Codes) -> npt.NDArray[np.bool_]:
    said, is_ = said[:, None, :], is_[None, :, :]
    found: npt.NDArray[np.bool_] = ((said == UNSAID) | (is_ == UNSETTLED) | (said == is_)).all(axis=2)
    return found
