"""The rivals: what the trees are given, and how it is decided whether lists are among it."""

from __future__ import annotations

import numpy as np
import pytest

from optimize.data.interactions import Interactions
from optimize.training import baselines
from optimize.training.baselines import BaselineResult, boosted_trees
from serving.contract.fields import FeatureSpec, parse_spec


@pytest.fixture(scope="module")
def spec() -> FeatureSpec:
    fields = [
        {"name": "brand", "kind": "categorical", "part": "candidate", "buckets": 16, "dim": 2},
        {"name": "tags", "kind": "categorical", "part": "candidate", "dtype": "int64", "buckets": 16, "dim": 2, "max_values": 3},
        {"name": "price", "kind": "numeric", "part": "candidate", "min": 0.0, "max": 9.0},
    ]
    return parse_spec({"schema_version": 1, "name": "shop", "fields": fields}, "shop")


def _part(brands: list[str], tags: list[list[int]], prices: list[float], label: list[int] | None = None) -> Interactions:
    rows = len(brands)
    columns = {"brand": np.array(brands, object), "tags": np.array(tags), "price": np.array(prices, np.float32)}
    labels = np.array(label or [0] * rows, np.float32)
    return Interactions(columns, labels, np.full(rows, "u", object), np.zeros(rows, np.int64))


def test_trees_see_codes_by_frequency_numbers_and_counts_of_the_most_frequent_values(
    spec: FeatureSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines._TreeColumns, "MOST_LIST_VALUES", 2)
    columns = baselines._TreeColumns(spec, _part(["b", "a", "b"], [[7, 7, 5], [7, 5, 5], [9, 10, 7]], [1, 2, 3]))
    found = columns.matrix(_part(["a", "b", "c"], [[5, 7, 7], [9, 9, 10], [5, 5, 5]], [4, np.nan, 0]))
    np.testing.assert_array_equal(found, np.array([[2, 4, 2, 1], [1, np.nan, 0, 0], [0, 0, 0, 3]], np.float32))
    assert found.dtype == np.float32
    assert (columns.categories, columns.without_lists) == ([0], 2)


def test_values_as_frequent_as_one_another_are_taken_in_the_order_of_their_text(spec: FeatureSpec) -> None:
    columns = baselines._TreeColumns(spec, _part(["b", "a"], [[9, 9, 10], [10, 5, 5]], [0, 0]))
    np.testing.assert_array_equal(columns.matrix(_part(["a", "b"], [[9, 5, 5], [10, 1, 1]], [0, 0])), [[1, 0, 0, 2, 1], [2, 0, 1, 0, 0]])


def _drawn(spec: FeatureSpec, seed: int, *, from_tags: bool) -> Interactions:
    """Clicks that follow the tags, or the brand; what they do not follow is noise."""
    rng = np.random.default_rng(seed)
    brand, tags = rng.integers(0, 4, 1500), rng.integers(0, 20, (1500, 3))
    truth = (tags < 7).sum(axis=1) > 1 if from_tags else brand > 1
    label = np.where(rng.random(1500) < 0.1, ~truth, truth)
    return _part([f"b{i}" for i in brand], tags.tolist(), rng.random(1500).tolist(), label.astype(int).tolist())


def _fit(spec: FeatureSpec, parts: tuple[Interactions, Interactions, Interactions]) -> BaselineResult:
    return boosted_trees(spec, parts, parts[0].label, 0)


@pytest.mark.parametrize("from_tags", [True, False])
def test_lists_are_among_it_where_the_validation_part_says_so(spec: FeatureSpec, from_tags: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_TREES", 60)
    parts = _drawn(spec, 0, from_tags=from_tags), _drawn(spec, 1, from_tags=from_tags), _drawn(spec, 2, from_tags=from_tags)
    found = _fit(spec, parts)
    assert found.chosen.endswith("with lists" if from_tags else "without lists")
    assert baselines.auc(parts[2].label, found.test_logit) > 0.8


def test_a_specification_without_lists_needs_no_trial(spec: FeatureSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightgbm

    rounds = []
    train = lightgbm.train

    def counted(settings: object, data: object, trees: int, **more: object) -> object:
        rounds.append(trees)
        return train(settings, data, trees, **more)

    monkeypatch.setattr(lightgbm, "train", counted)
    plain = spec.model_copy(update={"fields": tuple(field for field in spec.fields if field.name != "tags")})
    parts = _drawn(spec, 0, from_tags=False), _drawn(spec, 1, from_tags=False), _drawn(spec, 2, from_tags=False)
    assert _fit(plain, parts).chosen.endswith("without lists")
    assert rounds == [baselines.MAX_TREES]
    _fit(spec, parts)
    assert sorted(rounds[1:]) == [baselines.TRIAL_TREES] * 2 + [baselines.MAX_TREES]
