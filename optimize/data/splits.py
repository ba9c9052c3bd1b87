"""Cutting a data set into training, validation and test parts."""

from __future__ import annotations

import math

import numpy as np

from optimize.data.interactions import DataError, Index, Interactions


def split_index(
    data: Interactions, how: str, seed: int, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> tuple[Index, Index, Index]:
    """Draw the rows of the three parts.

    Parameters
    ----------
    how
        ``random`` shuffles; ``chronological`` puts the earliest interactions into training and the latest into test.
    shares
        Training, validation, test; they sum to 1.

    Raises
    ------
    DataError
        An unknown `how`, or so few rows that a part would be empty.
    """
    if how == "random":
        order = np.random.default_rng(seed).permutation(len(data))
    elif how == "chronological":
        order = np.argsort(data.timestamp, kind="stable")
    else:
        raise DataError(f"split {how!r} is not known; choose 'random' or 'chronological'")
    if not math.isclose(sum(shares), 1.0):
        raise DataError(f"the shares of a split must sum to 1, {shares} sum to {sum(shares)}")
    first = round(shares[0] * len(data))
    second = round((shares[0] + shares[1]) * len(data))
    parts = order[:first], order[first:second], order[second:]
    if any(len(part) == 0 for part in parts):
        raise DataError(f"{len(data)} interactions are too few to split into {shares}")
    return parts
