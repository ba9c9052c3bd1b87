"""Zipf's law: how often the ids of users, items and queries are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable

Draw = Callable[[], float]
"""Gives numbers of [0, 1)."""


def zipf(largest: int, exponent: float, draw: Draw) -> int:
    """Draw a rank from 1 to `largest`, with P(rank) close to ``rank ** -exponent``.

    The integral of the continuous density is inverted and rounded down: one draw and one power, however many ranks there are. The first
    ranks get less than by the discrete law (of a million ids at exponent 1 the first has 5.0 % of the draws where it would have 6.9 %),
    all others together the more.

    Parameters
    ----------
    largest
        At least 1.
    exponent
        0 draws all ranks alike; the larger, the heavier the head.

    References
    ----------
    Breslau et al., "Web Caching and Zipf-like Distributions: Evidence and Implications", INFOCOM 1999: exponents of 0.64 to 0.83 for pages.
    """
    if exponent == 1:
        rank = math.exp(draw() * math.log(largest + 1))
    else:
        power = 1 - exponent
        rank = (1 + draw() * ((largest + 1) ** power - 1)) ** (1 / power)
    return min(largest, int(rank))
