"""What scenes are made of, and the words for it.

A name stands for one thing; its first word is the one that label sets use, the others are synonyms of the captions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RGB = tuple[int, int, int]
Kind = Literal["shape", "symbol", "letter", "digit"]


@dataclass(frozen=True)
class Subject:
    """Something that can be drawn.

    Attributes
    ----------
    kind
        ``shape`` is a filled outline and takes textures; ``symbol`` is a glyph of DejaVu Sans; ``letter`` and ``digit`` are
        glyphs in several faces.
    nouns
        Singular forms; an ``s`` makes the plural unless `plurals` says otherwise.
    """

    name: str
    kind: Kind
    nouns: tuple[str, ...]
    plurals: tuple[str, ...]
    glyph: str = ""


def _subject(name: str, kind: Kind, *more: str, glyph: str = "", plurals: tuple[str, ...] = ()) -> Subject:
    nouns = (name, *more)
    return Subject(name, kind, nouns, plurals or tuple(f"{noun}s" for noun in nouns), glyph)


SHAPES = (
    _subject("circle", "shape", "disc", "disk", "ball"),
    _subject("square", "shape", "box", plurals=("squares", "boxes")),
    _subject("triangle", "shape"),
    _subject("star", "shape"),
    _subject("heart", "shape"),
    _subject("cross", "shape", "plus sign", plurals=("crosses", "plus signs")),
    _subject("diamond", "shape", "rhombus", plurals=("diamonds", "rhombuses")),
    _subject("hexagon", "shape"),
    _subject("house", "shape", "hut"),
    _subject("arrow", "shape"),
    _subject("moon", "shape", "crescent"),
    _subject("bolt", "shape", "lightning bolt", "flash", plurals=("bolts", "lightning bolts", "flashes")),
)
SYMBOLS = (
    _subject("sun", "symbol", glyph="☀"),
    _subject("cloud", "symbol", glyph="☁"),
    _subject("umbrella", "symbol", glyph="☂"),
    _subject("telephone", "symbol", "phone", glyph="☎"),
    _subject("flower", "symbol", "blossom", glyph="✿"),
    _subject("snowflake", "symbol", glyph="❄"),
    _subject("anchor", "symbol", glyph="⚓"),
    _subject("airplane", "symbol", "plane", "aeroplane", glyph="✈"),
    _subject("pair of scissors", "symbol", plurals=("pairs of scissors",), glyph="✂"),
    _subject("gear", "symbol", "cogwheel", glyph="⚙"),
    _subject("flag", "symbol", glyph="⚑"),
    _subject("music note", "symbol", "musical note", glyph="♫"),
    _subject("crown", "symbol", glyph="♛"),
    _subject("envelope", "symbol", "letter envelope", glyph="✉"),
    _subject("spade", "symbol", glyph="♠"),
    _subject("horse", "symbol", "knight", plurals=("horses", "knights"), glyph="♞"),
)
_NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = tuple(
    _subject(f"digit {d}", "digit", f"number {d}", f"figure {d}", f"digit {_NUMERALS[d]}", f"number {_NUMERALS[d]}", glyph=str(d))
    for d in range(10)
)
LETTERS = tuple(
    _subject(f"letter {c.lower()}", "letter", f"capital {c.lower()}", f"capital letter {c.lower()}", glyph=c)
    for c in "ABCDEFGHJKLMNPQRSTUVWXYZ"  # I and O are drawn like 1 and 0
)
SUBJECTS: tuple[Subject, ...] = (*SHAPES, *SYMBOLS, *DIGITS, *LETTERS)
THINGS: tuple[Subject, ...] = (*SHAPES, *SYMBOLS)
BY_NAME = {subject.name: subject for subject in SUBJECTS}

COLOURS: dict[str, RGB] = {
    "red": (214, 34, 38),
    "orange": (246, 134, 22),
    "yellow": (246, 218, 40),
    "green": (40, 150, 56),
    "turquoise": (56, 204, 204),
    "blue": (36, 70, 200),
    "purple": (124, 44, 160),
    "pink": (250, 142, 190),
    "brown": (116, 68, 34),
    "black": (22, 22, 24),
    "gray": (132, 134, 138),
    "white": (244, 244, 242),
}
COLOUR_WORDS = {
    "turquoise": ("turquoise", "cyan", "teal"),
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
}
"""Colours with more words than their name."""

PLAIN = "plain"
TEXTURES: dict[str, tuple[str, ...]] = {
    PLAIN: ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "checked", "chequered"),
    "outlined": ("outlined", "hollow"),
}
TEXTURES_AFTER = {
    "striped": ("with stripes", "covered in stripes"),
    "dotted": ("with dots", "with spots", "covered in dots"),
    "checkered": ("with a checkered pattern", "with checks"),
    "outlined": ("drawn as an outline", "with an empty inside"),
}

MEDIUM = "medium"
SIZES: dict[str, tuple[str, ...]] = {"small": ("small", "little", "tiny"), MEDIUM: (), "large": ("large", "big", "huge")}
"""Medium is what nobody remarks on."""

COUNTS: dict[int, tuple[str, ...]] = {
    1: ("one", "1", "a single", "exactly one"),
    2: ("two", "2", "exactly two", "a pair of"),
    3: ("three", "3", "exactly three"),
    4: ("four", "4", "exactly four"),
    5: ("five", "5", "exactly five"),
    6: ("six", "6", "exactly six"),
}

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
POSITIONS: dict[str, tuple[str, ...]] = {
    "top left": ("in the top left corner", "at the top left", "in the upper left"),
    "top center": ("at the top", "at the top center", "near the top edge"),
    "top right": ("in the top right corner", "at the top right", "in the upper right"),
    "middle left": ("on the left", "at the left edge", "on the left side"),
    "middle center": ("in the middle", "in the center", "in the centre"),
    "middle right": ("on the right", "at the right edge", "on the right side"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left"),
    "bottom center": ("at the bottom", "at the bottom center", "near the bottom edge"),
    "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right"),
}

GROUNDS = ("on a {} background", "on {}", "against {}", "in front of a {} backdrop")
"""Ways to speak of the colour behind things."""

RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left": (("to the left of", "left of"), ("to the right of", "right of")),
    "above": (("above", "over"), ("below", "under")),
}
"""How the first thing lies to the second: words for it, and words for its converse."""


def telling_words() -> frozenset[str]:
    """All words that say something of a thing, prepositions of places included."""
    phrases = [noun for subject in SUBJECTS for noun in subject.nouns]
    phrases += [plural for thing in THINGS for plural in thing.plurals]  # letters and digits come singly
    phrases += COLOURS
    for table in (COLOUR_WORDS, TEXTURES, TEXTURES_AFTER, SIZES, COUNTS, POSITIONS):
        phrases += [phrase for words in table.values() for phrase in words]
    phrases += [phrase for both in RELATIONS.values() for words in both for phrase in words]
    return frozenset(word for phrase in (*phrases, *GROUNDS) for word in phrase.split() if word != "{}")
