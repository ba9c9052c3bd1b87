"""How many candidates a request has: sizes with weights, written ``"20:20,100:60,500:20"``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from serving.contract.errors import SettingsError

DEFAULT_SIZES = "20:20,100:60,500:20"
"""An assumption, not a measurement of your traffic: most requests rank the hundred or so that retrieval
left over, some a short page, and one in five a long list, which is what decides the tail. Give your own
mix, or replay recorded requests, before you believe a p99."""

MAX_SIZES = 32
"""Sizes in one mix: with a pool of 256 bodies, more would be represented by too few bodies each."""


def parse_sizes(text: str) -> Mapping[int, float]:
    """Parse ``SIZE`` or ``SIZE:WEIGHT,SIZE:WEIGHT,…`` into weights by size; the weights need not sum to anything.

    Raises
    ------
    SettingsError
        When it is not written like that, a size is given twice or below 1, or a weight is not above 0.
    """
    weights: dict[int, float] = {}
    for part in text.split(","):
        size_text, _, weight_text = part.partition(":")
        try:
            size, weight = int(size_text), float(weight_text or 1)
        except ValueError as error:
            raise SettingsError(f"candidates {text!r}: {part!r} is not SIZE or SIZE:WEIGHT, for example 20:20,100:60,500:20") from error
        if size < 1:
            raise SettingsError(f"candidates {text!r}: a request has at least 1 candidate, got {size}")
        if not 0 < weight < float("inf"):
            raise SettingsError(f"candidates {text!r}: the weight of {size} is {weight}, it must be a finite number above 0")
        if size in weights:
            raise SettingsError(f"candidates {text!r}: the size {size} is given twice")
        weights[size] = weight
    if len(weights) > MAX_SIZES:
        raise SettingsError(f"candidates {text!r}: {len(weights)} sizes, at most {MAX_SIZES} are allowed")
    return MappingProxyType(weights)


def capped(sizes: Mapping[int, float], max_candidates: int) -> Mapping[int, float]:
    """Cut sizes to what the service accepts; weights of sizes that meet there add up."""
    result: dict[int, float] = {}
    for size, weight in sizes.items():
        size_sent = min(size, max_candidates)
        result[size_sent] = result.get(size_sent, 0.0) + weight
    return MappingProxyType(result)


def allot(sizes: Mapping[int, float], total: int) -> list[int]:
    """Share `total` bodies out among the sizes by largest remainder, so that a pool has the mix exactly, not by luck.

    Every size gets at least one body while `total` lasts, however small its weight.
    """
    sum_of_weights = sum(sizes.values())
    exact = {size: total * weight / sum_of_weights for size, weight in sizes.items()}
    counts = {size: max(1, int(share)) for size, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda size: (counts[size] - exact[size], size))
    while sum(counts.values()) < total:
        counts[by_remainder[0]] += 1
        by_remainder = sorted(sizes, key=lambda size: (counts[size] - exact[size], size))
    while sum(counts.values()) > total:
        largest = max(counts, key=lambda size: (counts[size], size))
        counts[largest] -= 1
    return [size for size in sorted(counts) for _ in range(counts[size])]
