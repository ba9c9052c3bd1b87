"""Drawing scenes at random, from the pairs that a part of the data may hold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import get_args

from optimize.data.scenes.combinations import Part, parts_of
from optimize.data.scenes.scene import Scene, Thing
from optimize.data.scenes.vocabulary import BY_NAME, COLOURS, COUNTS, MEDIUM, PLAIN, POSITIONS, RELATIONS, SIZES, SUBJECTS, TEXTURES, THINGS

PARTS: tuple[Part, ...] = get_args(Part)
KINDS = {"one": 0.55, "several": 0.2, "two": 0.25}
"""Shares of scenes with one thing, with several alike, and with two that differ."""

THING_SHARE = 0.7
"""Share of shapes and symbols among single things; the rest are letters and digits."""

MIN_CONTRAST = 105.0
"""Least distance between the colours of a thing and of the ground, in RGB units; yellow on white has 204, gray on brown 133."""

TRIES = 2000


def draw_scene(rng: random.Random, part: Part = "train", kind: str | None = None) -> Scene:
    """Draw a scene all of whose pairs belong to `part`."""
    for _ in range(TRIES):
        scene = draw_any(rng, kind)
        if all(found == part for found in parts_of(scene).values()):
            return scene
    raise RuntimeError(f"no scene of the part {part!r} in {TRIES} tries")


def draw_any(rng: random.Random, kind: str | None = None, subjects: Sequence[str] = (), **fixed: object) -> Scene:
    """Draw a scene without regard to parts.

    Parameters
    ----------
    kind
        ``one``, ``several`` or ``two``.
    subjects, fixed
        Subjects to choose from, and attributes of the first thing that are given.
    """
    kind = kind or rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
    if kind == "two":
        first, second = _pair(rng)
        return Scene(first, second, relation=rng.choice(tuple(RELATIONS)), background=ground_for(rng, first, second))
    thing = draw_thing(rng, kind, subjects, **fixed)
    return Scene(thing, background=ground_for(rng, thing))


def draw_thing(rng: random.Random, kind: str, subjects: Sequence[str] = (), **fixed: object) -> Thing:
    """Draw one thing, or several alike."""
    if subjects:
        subject = rng.choice(tuple(subjects))
    else:
        whole = SUBJECTS[len(THINGS) :] if kind == "one" and rng.random() > THING_SHARE else THINGS
        subject = rng.choice(whole).name
    drawn: dict[str, object] = {"subject": subject, "colour": rng.choice(tuple(COLOURS)), "texture": PLAIN}
    if BY_NAME[subject].kind == "shape" and rng.random() < 0.5:
        drawn["texture"] = rng.choice(tuple(TEXTURES))
    if kind == "several":
        drawn["count"] = rng.choice([count for count in COUNTS if count > 1])
    else:
        drawn |= {"count": 1, "position": rng.choice(tuple(POSITIONS)), "size": rng.choice(tuple(SIZES))}
    drawn |= fixed
    if drawn["texture"] != PLAIN and drawn.get("size") == "small":  # a texture cannot be made out on a few pixels
        drawn["size"] = MEDIUM if "size" not in fixed else drawn["size"]
    return Thing(**drawn)  # type: ignore[arg-type]


def _pair(rng: random.Random) -> tuple[Thing, Thing]:
    while True:
        one, other = (Thing(rng.choice(THINGS).name, rng.choice(tuple(COLOURS)), PLAIN, count=1) for _ in range(2))
        if one.subject != other.subject and one.colour != other.colour:
            return one, other


def ground_for(rng: random.Random, *things: Thing) -> str:
    """Draw a colour that the things stand out from."""
    free = [name for name, rgb in COLOURS.items() if all(_distance(rgb, COLOURS[str(thing.colour)]) >= MIN_CONTRAST for thing in things)]
    return rng.choice(free)


def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5)
