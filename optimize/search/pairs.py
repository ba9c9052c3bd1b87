"""Which of two variants is faster, from the ratio of their times in the same rounds.

A machine that slows down for a while slows both of a round alike: their ratio stays, where their medians, taken over rounds that
are fast and slow in other shares, do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

from optimize.search.budget import CONFIDENCE

TIE_PCT = 3.0
"""A variant that takes up to 3 % longer is as fast: repeated searches on one machine differed by that much."""

Rounds = Mapping[str, Sequence[float]]
"""Variant → milliseconds, one a round; who left early has the first rounds only."""


@dataclass(frozen=True)
class Ratio:
    """Median of the rounds' ratios of two times.

    Attributes
    ----------
    low, high
        Ends of the interval of the median.
    """

    value: float
    low: float
    high: float
    rounds: int


def ratio(above: Sequence[float], below: Sequence[float], *, looks: int = 1) -> Ratio:
    """Compare the times of two variants in the rounds that both have.

    The interval is that of the sign test: between two of the sorted ratios, which holds for whatever distribution they have. A round
    that another process fell into is one vote, however slow it was.

    Parameters
    ----------
    looks
        Comparisons made together; each is so wide that all of them hold. With too few rounds for that, the interval goes from the
        least to the largest ratio, which holds for one comparison from five rounds on.
    """
    ratios = sorted(a / b for a, b in zip(above, below, strict=False))
    n, tail = len(ratios), (1 - CONFIDENCE) / max(1, looks)
    outside, below_end = 0, 1 / 2**n
    while outside < (n - 1) // 2 and below_end + comb(n, outside + 1) / 2**n <= tail:
        outside += 1
        below_end += comb(n, outside) / 2**n
    return Ratio(median(ratios), ratios[outside], ratios[-1 - outside], n)


def is_slower(than: Ratio) -> bool:
    """Whether a variant takes longer than another one, given the ratio of its times to the other's: by more than a tie, and surely."""
    return than.value > 1 + TIE_PCT / 100 and than.low > 1


def fastest(rounds: Rounds, reference: str) -> str:
    """The variant with the largest speed-up over the reference."""
    return max(rounds, key=lambda name: ratio(rounds[reference], rounds[name]).value)
