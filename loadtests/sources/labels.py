"""Labels to classify by: made up of common words, all different within a list."""

from __future__ import annotations

from loadtests.sources.zipf import Draw

ADJECTIVES = (
    "red", "blue", "green", "yellow", "black", "white", "small", "large", "old", "new", "wooden", "metal", "plastic", "glass",
    "broken", "shiny", "dirty", "wet", "striped", "round",
)  # fmt: skip
NOUNS = (
    "bicycle", "car", "dog", "cat", "chair", "table", "lamp", "bottle", "cup", "shoe", "hat", "bag", "book", "phone", "clock",
    "key", "flower", "tree", "boat", "train", "horse", "bird", "fish", "house", "door", "window", "ball", "guitar", "camera",
    "umbrella",
)  # fmt: skip
PLACES = (
    "", " on a street", " in a kitchen", " on a beach", " in a garden", " at night", " in the snow", " on a table",
    " beside a person", " in a shop", " on a white background", " in the rain", " in a park", " on a shelf", " in a box",
    " at a station", " under a bridge",
)  # fmt: skip

COUNT = len(ADJECTIVES) * len(NOUNS) * len(PLACES)
"""10,200: more than the 10,000 labels that a service takes by default in one request."""

_STEP = 3571
"""Prime, and so no divisor of `COUNT`: steps of it visit every label before the first comes again."""


def label_list(length: int, draw: Draw) -> tuple[str, ...]:
    """Make one list, of at most `COUNT` labels; where it begins is drawn."""
    start = int(draw() * COUNT)
    return tuple(_label((start + number * _STEP) % COUNT) for number in range(length))


def _label(number: int) -> str:
    number, adjective = divmod(number, len(ADJECTIVES))
    place, noun = divmod(number, len(NOUNS))
    return f"a {ADJECTIVES[adjective]} {NOUNS[noun]}{PLACES[place]}"
