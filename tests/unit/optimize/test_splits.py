"""Cutting a data set in three."""

from __future__ import annotations

import numpy as np
import pytest

from optimize.data.interactions import DataError, Interactions
from optimize.data.splits import split_index


def _data(n: int) -> Interactions:
    moments = np.random.default_rng(0).integers(0, n // 2 + 1, n)  # with ties
    return Interactions({"id": np.arange(n)}, np.zeros(n, np.float32), np.array(["u"] * n, object), moments)


@pytest.mark.parametrize("how", ["random", "chronological"])
@pytest.mark.parametrize("n", [10, 101, 1000])
def test_parts_are_disjoint_and_cover_everything(how: str, n: int) -> None:
    parts = split_index(_data(n), how, 0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert [len(part) for part in parts] == pytest.approx([0.8 * n, 0.1 * n, 0.1 * n], abs=1)


def test_random_split_is_a_function_of_the_seed() -> None:
    data = _data(200)
    first, again, other = (split_index(data, "random", seed) for seed in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_random_split_mixes_early_and_late() -> None:
    _, _, test = split_index(_data(1000), "random", 0)
    assert test.min() < 200
    assert test.max() > 800


def test_chronological_split_never_trains_on_the_future() -> None:
    data = _data(500)
    train, validation, test = (data.timestamp[part] for part in split_index(data, "chronological", 0))
    assert train.max() <= validation.min()
    assert validation.max() <= test.min()


def test_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'by_user' is not known; choose 'random' or 'chronological'"):
        split_index(_data(100), "by_user", 0)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="3 interactions are too few"):
        split_index(_data(3), "random", 0)


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(DataError, match="sum to"):
        split_index(_data(100), "random", 0, (0.8, 0.1, 0.2))
