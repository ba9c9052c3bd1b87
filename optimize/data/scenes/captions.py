"""Captions: claims as English, in many phrasings.

A phrasing is a way to say *what kind of thing* (noun phrases) or a frame around it (wrappers). Some of both are held out:
`HELD_OUT` are never used in training, so that accuracy on unseen phrasings can be measured.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from optimize.data.scenes.combinations import parts_of
from optimize.data.scenes.scene import Scene, Thing
from optimize.data.scenes.vocabulary import (
    BY_NAME,
    COLOUR_WORDS,
    COLOURS,
    COUNTS,
    GROUNDS,
    PLAIN,
    POSITIONS,
    RELATIONS,
    SIZES,
    TEXTURES,
    TEXTURES_AFTER,
    telling_words,
)  # fmt: skip


@dataclass(frozen=True)
class Phrasing:
    """One way to say things.

    Attributes
    ----------
    frame
        Around the whole, with one ``{}``.
    coloured
        A noun phrase with ``{article}``, ``{before}`` (size and texture), ``{colour}``, ``{noun}``, ``{after}`` and ``{is}``.
    """

    frame: str = "{}"
    coloured: str = "{article} {before} {colour} {noun} {after}"


FRAMES = (
    "{}", "{}", "{}", "{}.", "a photo of {}", "a photo of {}.", "a picture of {}", "an image of {}", "a drawing of {}", "there is {}",
    "this is {}", "this picture shows {}", "it shows {}", "you see {}", "{} can be seen", "a photo of the {}.", "a photo of a {}.",
    "the picture has {}", "a bad photo of {}", "a small picture with {} in it", "here is {}",
)  # fmt: skip
_USUAL = "{article} {before} {colour} {noun} {after}"
COLOURED = (
    _USUAL, _USUAL, _USUAL,
    "{article} {colour} {before} {noun} {after}", "{article} {before} {noun} in {colour} {after}",
    "{article} {before} {noun} that {is} {colour} {after}", "{article} {before} {colour} coloured {noun} {after}",
    "{article} {before} {noun} of {colour} color {after}", "{article} {before} {noun} , {colour} {after}",
)  # fmt: skip
SOMETHING = (
    "something {before} {colour} {after}",
    "{article} {before} {colour} thing {after}",
    "{article} {before} {colour} object {after}",
)
THINGS_ALIKE = ("{count} {before} {colour} things {after}", "{count} {before} {colour} objects {after}")

GLUE = (("a", "an", "the"), ("is", "are"), ("and",))

VALIDATION_PHRASINGS = (
    Phrasing("the image has {} in it"),
    Phrasing("you see a picture of {}"),
    Phrasing(coloured="{article} {before} {noun} , it {is} {colour} {after}"),
)
HELD_OUT = (
    Phrasing("can you see {} here ?"),
    Phrasing("a rendering that depicts {}"),
    Phrasing("somebody has drawn {}"),
    Phrasing("what you are looking at is {}"),
    Phrasing("{} , photographed by me"),
    Phrasing(coloured="{article} {before} {noun} whose color {is} {colour} {after}"),
    Phrasing(coloured="{article} {before} {noun} painted {colour} {after}"),
    Phrasing("a scene made of {}", "{article} {before} {noun} {after} having {colour} as its color"),
)
"""Used for nothing but the test: neither training nor choosing sees them."""


def grammar() -> list[str]:
    """Everything that captions of training are made of; its words are the vocabulary."""
    forms = [re.sub(r"\{\w*\}", " ", form) for form in (*FRAMES, *COLOURED, *SOMETHING, *THINGS_ALIKE, *GROUNDS)]
    return [*forms, *telling_words(), *(word for words in GLUE for word in words)]


def label(claim: Scene, phrasing: Phrasing | None = None) -> str:
    """Say a claim with the first word for everything, as label sets do."""
    return _say(claim, phrasing or Phrasing(), None)


def caption(claim: Scene, rng: random.Random) -> str:
    """Say a claim in a phrasing and with words drawn at random from those of training."""
    return _say(claim, Phrasing(rng.choice(FRAMES), rng.choice(COLOURED)), rng)


def draw_claim(scene: Scene, rng: random.Random) -> Scene:
    """Choose what a caption says of a scene: some attributes, now and then one of two things, or only a colour."""
    background = scene.background if rng.random() < 0.15 else None
    if scene.second is not None:
        if rng.random() < 0.3:
            return Scene(_some(rng.choice((scene.first, scene.second)), rng), background=background)
        return Scene(_some(scene.first, rng), _some(scene.second, rng), scene.relation if rng.random() < 0.75 else None, background)
    return Scene(_some(scene.first, rng), background=background)


def draw_contrast(claim: Scene, rng: random.Random) -> Scene:
    """Change one thing that a claim says: a hard negative.

    Only pairs of the training part come up; to call an unseen combination wrong would teach that it does not exist.
    """
    while True:
        changed = _change(claim, rng)
        if all(part == "train" for part in parts_of(changed).values()):
            return changed


def _change(claim: Scene, rng: random.Random) -> Scene:
    one, two = claim.first, claim.second
    if two is not None and claim.relation and rng.random() < 0.5:
        if rng.random() < 0.5:
            return replace(claim, first=two, second=one)
        return replace(claim, relation=rng.choice([relation for relation in RELATIONS if relation != claim.relation]))
    if two is not None and rng.random() < 0.4:  # a red circle and a blue star → a blue circle and a red star
        return replace(claim, first=replace(one, colour=two.colour), second=replace(two, colour=one.colour))
    said = [name for name in CHANGES if getattr(one, name) is not None]
    name = rng.choice(said)
    value = rng.choice([value for value in CHANGES[name] if value != getattr(one, name)])
    changed = replace(one, **{name: value})  # type: ignore[arg-type]
    return replace(claim, first=changed)


CHANGES: dict[str, tuple[object, ...]] = {
    "subject": tuple(BY_NAME),
    "colour": tuple(COLOURS),
    "texture": tuple(TEXTURES),
    "size": tuple(name for name, words in SIZES.items() if words),
    "count": tuple(COUNTS),
    "position": tuple(POSITIONS),
}


def _some(thing: Thing, rng: random.Random) -> Thing:
    """Keep some of what could be said of a thing; the count is always said, if only by the article."""
    if rng.random() < 0.04:  # "something red", "striped"
        texture = thing.texture if thing.texture != PLAIN and rng.random() < 0.3 else None
        return Thing(colour=thing.colour if texture is None or rng.random() < 0.5 else None, texture=texture, count=thing.count)
    return Thing(
        thing.subject,
        thing.colour if rng.random() < 0.75 else None,
        thing.texture if rng.random() < (0.6 if thing.texture != PLAIN else 0.05) else None,
        thing.size if thing.size and SIZES[thing.size] and rng.random() < 0.4 else None,
        thing.count,
        thing.position if rng.random() < 0.3 else None,
    )


def _say(claim: Scene, phrasing: Phrasing, rng: random.Random | None) -> str:
    said = _thing(claim.first, phrasing, rng)
    if claim.second is not None:
        first, second = said, _thing(claim.second, phrasing, rng)
        if claim.relation:
            words, converse = RELATIONS[claim.relation]
            if rng is not None and rng.random() < 0.5:
                said = f"{second} {rng.choice(converse)} {first}"
            else:
                said = f"{first} {_pick(words, rng)} {second}"
        else:
            said = f"{first} and {second}"
    if claim.background:
        ground = _pick(GROUNDS, rng)
        said = f"{said} {ground.format(_colour(claim.background, rng))}"
    plural = (claim.first.count or 1) > 1
    frame = phrasing.frame
    if frame.startswith("a photo of ") and frame.endswith((" a {}.", " the {}.")):  # templates of others put an article before the label
        said = said.removeprefix("a ").removeprefix("an ")
    return " ".join(frame.replace("{is}", "are" if plural else "is").replace("{}", said).split())


def _thing(thing: Thing, phrasing: Phrasing, rng: random.Random | None) -> str:
    before, after = [], []
    if thing.size:
        before.append(_pick(SIZES[thing.size], rng))
    if thing.texture:
        if rng is not None and thing.texture in TEXTURES_AFTER and rng.random() < 0.35:
            after.append(rng.choice(TEXTURES_AFTER[thing.texture]))
        else:
            before.append(_pick(TEXTURES[thing.texture], rng))
    if thing.position:
        after.append(_pick(POSITIONS[thing.position], rng))
    colour = _colour(thing.colour, rng) if thing.colour else ""
    if thing.subject is None:
        return _something(thing.count, before, colour, after, rng)
    plural = (thing.count or 1) > 1
    subject = BY_NAME[thing.subject]
    unnumbered = not plural and (rng is None or rng.random() < 0.9)
    form = phrasing.coloured if colour else COLOURED[0]
    words = form.format(
        article="{article}" if unnumbered else _pick(COUNTS[thing.count or 1], rng),
        before=" ".join(before),
        colour=colour,
        noun=_pick(subject.plurals if plural else subject.nouns, rng),
        after=" ".join(after),
        **{"is": "are" if plural else "is"},
    ).split()
    for at, word in enumerate(words):
        if word == "{article}":
            words[at] = _article(words[at + 1], subject.kind, rng)
    return " ".join(words).replace(" ,", ",")


def _something(count: int | None, before: list[str], colour: str, after: list[str], rng: random.Random | None) -> str:
    """A claim that names no subject: "something red", "three things", "at the top"."""
    form = _pick(THINGS_ALIKE if (count or 1) > 1 else SOMETHING[:1] if count is None else SOMETHING[1:], rng)
    if rng is not None and count is None and rng.random() < 0.3:
        form = "{before} {colour} {after}"
    number = _pick(COUNTS[count], rng) if count else ""
    return " ".join(form.format(article=number, count=number, before=" ".join(before), colour=colour, after=" ".join(after)).split())


def _article(following: str, kind: str, rng: random.Random | None) -> str:
    if kind in ("letter", "digit") and following in ("letter", "digit", "number", "figure", "capital"):
        return _pick(("the", "the", "a", ""), rng)
    return "an" if following[0] in "aeiou" else "a"


def _colour(name: str, rng: random.Random | None) -> str:
    return _pick(COLOUR_WORDS.get(name, (name,)), rng)


def _pick(words: tuple[str, ...], rng: random.Random | None) -> str:
    return words[0] if rng is None else rng.choice(words)
