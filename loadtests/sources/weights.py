"""Weighted mixes written in one word: ``20:20,100:60,500:20``, ``640x480:3,1024x768``, ``rank:70,classify:30``."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import TypeVar

from serving.contract.errors import SettingsError

MAX_ITEMS = 32
"""Items in one mix: with a pool of 256 bodies, more would be represented by too few bodies each."""

T = TypeVar("T", bound=Hashable)


def parse_weights(text: str, what: str, example: str, parse: Callable[[str], T]) -> Mapping[T, float]:
    """Parse ``ITEM`` or ``ITEM:WEIGHT,ITEM:WEIGHT,…``; the weights need not sum to anything, one that is left out is 1.

    Parameters
    ----------
    what
        Name of the setting, for messages.
    example
        How it is written, for messages.
    parse
        Makes an item of its text; raises `ValueError` with the rule that was broken, or without a message.

    Raises
    ------
    SettingsError
        When it is not written like that, an item is given twice, or a weight is not above 0.
    """
    weights: dict[T, float] = {}
    for part in text.split(","):
        item_text, colon, weight_text = part.strip().partition(":")
        try:
            item = parse(item_text.strip())
        except ValueError as error:
            raise SettingsError(f"{what} {text!r}: {part!r}: {error}, for example {example}") from error
        try:
            weight = float(weight_text) if colon else 1.0
        except ValueError as error:
            raise SettingsError(f"{what} {text!r}: the weight {weight_text!r} is no number, for example {example}") from error
        if not (weight > 0 and math.isfinite(weight)):
            raise SettingsError(f"{what} {text!r}: the weight of {item_text} is {weight:g}, it must be a finite number above 0")
        if item in weights:
            raise SettingsError(f"{what} {text!r}: {item_text} is given twice")
        weights[item] = weight
    if len(weights) > MAX_ITEMS:
        raise SettingsError(f"{what} {text!r}: {len(weights)} items, at most {MAX_ITEMS} are allowed")
    return MappingProxyType(weights)


def allot(weights: Mapping[T, float], total: int) -> list[T]:
    """Share `total` places out by largest remainder, so that a pool has the mix exactly, not by luck.

    Every item gets at least one place while `total` lasts, however small its weight. Items stand together, in the order of `weights`.
    """
    sum_of_weights = sum(weights.values())
    exact = {item: total * weight / sum_of_weights for item, weight in weights.items()}
    counts = {item: max(1, int(share)) for item, share in exact.items()}
    order = list(weights)
    while sum(counts.values()) < total:
        counts[min(order, key=lambda item: counts[item] - exact[item])] += 1
    while sum(counts.values()) > total:
        counts[max(order, key=lambda item: counts[item])] -= 1
    return [item for item in order for _ in range(counts[item])]
