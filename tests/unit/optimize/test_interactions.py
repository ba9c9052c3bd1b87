"""Interactions: what they hold, how they are saved, and how a data set is recognized."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimize.data.interactions import DataError, Interactions, Split, load, pad, require_columns, save
from optimize.models.registry import DcnV2Settings
from optimize.training.loop import TrainingSettings
from optimize.training.recipe import DataSettings, Recipe, load_recipe, shipped
from optimize.training.run import Source, _target, run
from serving.contract.errors import PilotageError
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, FeatureSpec, parse_spec


@pytest.fixture
def data() -> Interactions:
    columns = {
        "id": np.array(["a", MISSING_STRING, "ü☃", "b"], object),
        "tags": np.array([[1, 2], [MISSING_INTEGER] * 2, [2**62, -3], [0, 0]], np.int64),
        "words": np.array([["x", MISSING_STRING]] * 4, object),
        "price": np.array([1.5, np.nan, -0.0, 3e38], np.float32),
    }
    return Interactions(
        columns, np.array([1, 0, 0, 1], np.float32), np.array(["u", "v", "u", "v"], object), np.arange(4), np.linspace(0, 1, 4)
    )


@pytest.fixture
def spec() -> FeatureSpec:
    fields = [
        {"name": "id", "kind": "categorical", "part": "candidate", "buckets": 8, "dim": 2},
        {"name": "tags", "kind": "categorical", "part": "candidate", "dtype": "int64", "buckets": 8, "dim": 2, "max_values": 2},
        {"name": "price", "kind": "numeric", "part": "candidate"},
    ]
    return parse_spec({"schema_version": 1, "name": "four", "fields": fields}, "test")


@pytest.mark.parametrize("with_truth", [True, False])
def test_saved_interactions_come_back_as_they_were(with_truth: bool, data: Interactions, tmp_path: Path) -> None:
    original = data if with_truth else replace(data, truth=None)
    save(original, tmp_path / "part.arrow")
    back = load(tmp_path / "part.arrow")
    assert back.fingerprint() == original.fingerprint()
    for name, column in original.columns.items():
        assert back.columns[name].dtype == column.dtype
        np.testing.assert_array_equal(back.columns[name], column)
    for name in ("label", "group", "timestamp", "truth"):
        np.testing.assert_array_equal(getattr(back, name), getattr(original, name))


@pytest.mark.parametrize("content", [None, b"", b"not arrow at all"])
def test_what_is_no_such_file_is_refused_by_name(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "part.arrow"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"part\.arrow is not a file of interactions"):
        load(path)


def test_fingerprint_sees_every_value_and_the_order(data: Interactions) -> None:
    others = [
        data.take(np.array([1, 0, 2, 3])),
        replace(data, label=1 - data.label),
        data.with_columns({"price": data.columns["price"] + 1}),
        data.with_columns({"id": np.array(["a", MISSING_STRING, "ü☃", "c"], object)}),
        data.with_columns({"more": data.columns["price"]}),
    ]
    assert len({other.fingerprint() for other in [data, *others]}) == 6


def test_padding_cuts_and_fills() -> None:
    np.testing.assert_array_equal(pad([[1, 2, 3], [], [4]], np.int64, 2), [[1, 2], [MISSING_INTEGER] * 2, [4, MISSING_INTEGER]])
    np.testing.assert_array_equal(pad([[], []], object, 3), [[MISSING_STRING], [MISSING_STRING]])


def test_columns_that_do_not_fit_are_refused_by_name(data: Interactions, spec: FeatureSpec) -> None:
    require_columns(spec, data)
    cases = [
        ({"id": np.arange(4)}, "column 'id' is int64 with 1 axes, the specification wants object"),
        ({"tags": np.zeros(4, np.int64)}, "column 'tags' is int64 with 1 axes"),
        ({"tags": np.zeros((4, 3), np.int64)}, "column 'tags' has up to 3 values a row, the specification allows 2"),
        ({"price": np.zeros(4)}, "column 'price' is float64"),
    ]
    for columns, message in cases:
        with pytest.raises(DataError, match=message):
            require_columns(spec, data.with_columns(columns))
    del data.columns["price"]
    with pytest.raises(DataError, match="no column for field 'price'; it has id, tags, words"):
        require_columns(spec, data)


def _recipe(grade_weight: float = 0.0) -> Recipe:
    return Recipe(data=DataSettings(source="clicks"), model=DcnV2Settings(), training=TrainingSettings(grade_weight=grade_weight))


def test_grade_weight_mixes_label_and_grade() -> None:
    label, grade = np.array([1, 0, 1], np.float32), np.array([0.75, 0.35, 1.0], np.float32)
    np.testing.assert_allclose(_target(_recipe(0.5), label, grade), [0.875, 0.175, 1.0])
    np.testing.assert_array_equal(_target(_recipe(0.0), label, grade), label)
    np.testing.assert_array_equal(_target(_recipe(1.0), label, grade), grade)
    np.testing.assert_array_equal(_target(_recipe(0.5), label, None), label)


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_a_part_with_one_class_is_refused_before_training(part: str, data: Interactions, spec: FeatureSpec, tmp_path: Path) -> None:
    """The AUC would be no number, no epoch the best, and the weights those that training began with."""
    dull = replace(data, label=np.zeros(4, np.float32))
    split = Split(*(dull if name == part else data for name in ("training", "validation", "test")))
    with pytest.raises(DataError, match=f"all 4 {part} interactions have the label 0"):
        run(_recipe(), spec, Source(split, "four", {}), tmp_path / "run", seed=0, threads=1, progress=lambda *_: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "architecture"), [("movielens", "dcn_v2"), ("movielens", "wide_deep"), ("clicks", "dcn_v2"), ("clicks", "wide_deep")]
)
def test_shipped_recipes_can_be_read(source: str, architecture: str) -> None:
    recipe = load_recipe(shipped(source, architecture))
    assert (recipe.data.source, recipe.model.architecture) == (source, architecture)


def test_a_recipe_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(PilotageError, match=r"there is no recipe clicks/resnet; there are .*clicks/dcn_v2.*movielens/wide_deep"):
        shipped("clicks", "resnet")
