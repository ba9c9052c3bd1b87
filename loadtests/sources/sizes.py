"""How many candidates a request has: sizes with weights, written ``"20:20,100:60,500:20"``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from loadtests.sources.weights import parse_weights

DEFAULT_SIZES = "20:20,100:60,500:20"
"""An assumption, not a measurement of your traffic: most requests rank the hundred or so that retrieval
left over, some a short page, and one in five a long list, which is what decides the tail. Give your own
mix, or replay recorded requests, before you believe a p99."""


def parse_sizes(text: str, *, what: str = "candidates") -> Mapping[int, float]:
    """Parse ``SIZE`` or ``SIZE:WEIGHT,SIZE:WEIGHT,…`` into weights by size, in rising order.

    Raises
    ------
    SettingsError
        When it is not written like that, a size is given twice or below 1, or a weight is not above 0.
    """
    weights = parse_weights(text, what, DEFAULT_SIZES, lambda word: _size(word, what))
    return MappingProxyType(dict(sorted(weights.items())))


def _size(word: str, what: str) -> int:
    try:
        size = int(word)
    except ValueError:
        raise ValueError("write SIZE or SIZE:WEIGHT") from None
    if size < 1:
        raise ValueError(f"a request has at least 1 of {what}, got {size}")
    return size


def capped(sizes: Mapping[int, float], most: int) -> Mapping[int, float]:
    """Cut sizes to what the service accepts; weights of sizes that meet there add up."""
    result: dict[int, float] = {}
    for size, weight in sizes.items():
        size_sent = min(size, most)
        result[size_sent] = result.get(size_sent, 0.0) + weight
    return MappingProxyType(result)
