"""Buckets are a promise: the numbers in ``hash_vectors.json`` are pinned, and the feature graph must give exactly these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmh3
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from optimize.features.collisions import count_collisions, expected_collisions
from optimize.features.encode import encode
from optimize.features.graph import FeatureGraph, murmur3_of, number_output, row_output
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, REQUEST_INDEX, FeatureSpec, parse_spec

VECTORS = json.loads((Path(__file__).parent / "hash_vectors.json").read_text(encoding="utf-8"))["vectors"]
MOST_BUCKETS = 2**31 - 2
FLOAT32_ULPS = 1e-6  # eight units in the last place of a float32: two maths libraries may round a logarithm differently


def _hash(value: str | int, seed: int) -> int:
    """Hash as the docstring of `serving.contract.fields` says, with nothing but mmh3."""
    data = value.encode() if isinstance(value, str) else value.to_bytes(8, "little", signed=True)
    return mmh3.hash(data, seed, signed=False)


def _cross_row(spec: FeatureSpec, cross_name: str, values: Sequence[str | int]) -> int:
    cross = next(cross for cross in spec.crosses if cross.name == cross_name)
    if any(value in (MISSING_STRING, MISSING_INTEGER) for value in values):
        return 0
    hashes = [_hash(value, spec.field(name).seed) for name, value in zip(cross.fields, values, strict=True)]  # type: ignore[union-attr]
    digest = hashes[0]
    for other in hashes[1:]:
        digest = _hash((digest - 2**31) * 2**32 + other, cross.seed)
    return 1 + digest % cross.buckets


def _run(spec: FeatureSpec, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    session = ort.InferenceSession(FeatureGraph(spec).build().SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _spec(*fields: dict[str, Any], crosses: Sequence[dict[str, Any]] = ()) -> FeatureSpec:
    return parse_spec({"name": "hashing", "fields": list(fields), "crosses": list(crosses)}, "test")


def _ids(name: str, part: str = "candidate", **settings: Any) -> dict[str, Any]:
    return {"name": name, "kind": "categorical", "part": part, "buckets": 97, "dim": 1, **settings}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"seed-{vector['seed']}")
def test_pinned_hashes_are_murmur3_as_an_independent_library_computes_it(vector: dict[str, Any]) -> None:
    for value, pinned in (*vector["strings"], *vector["integers"]):
        assert _hash(value, vector["seed"]) == pinned, value


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"seed-{vector['seed']}")
@pytest.mark.parametrize("buckets", [2, 97, 2**20, MOST_BUCKETS])
def test_graph_puts_pinned_values_into_their_rows(vector: dict[str, Any], buckets: int) -> None:
    seed = vector["seed"]
    spec = _spec(_ids("text", "candidate", seed=seed, buckets=buckets), _ids("number", "user", dtype="int64", seed=seed, buckets=buckets))
    texts, numbers = [pair[0] for pair in vector["strings"]], [pair[0] for pair in vector["integers"]]
    feeds = {
        "text": np.array(texts, object),
        "number": np.array(numbers, np.int64),
        REQUEST_INDEX: np.zeros(len(texts), np.int64),
    }
    rows = _run(spec, feeds)
    assert rows[row_output("text")].tolist() == [1 + pinned % buckets for _, pinned in vector["strings"]]
    assert rows[row_output("number")].tolist() == [1 + pinned % buckets for _, pinned in vector["integers"]]


def test_the_runtimes_own_murmur3_is_the_pinned_one() -> None:
    assert murmur3_of(MISSING_STRING, 7) == _hash(MISSING_STRING, 7)
    assert murmur3_of("abcde", 2**32 - 1) == _hash("abcde", 2**32 - 1)


def test_missing_values_take_row_zero_and_an_empty_string_does_not() -> None:
    spec = _spec(_ids("text"), _ids("number", dtype="int64"), _ids("texts", max_values=3), _ids("numbers", dtype="int64", max_values=3))
    rows = _run(
        spec,
        {
            "text": np.array([MISSING_STRING, "", "a"], object),
            "number": np.array([MISSING_INTEGER, 0, MISSING_INTEGER + 1], np.int64),
            "texts": np.array([["", MISSING_STRING], [MISSING_STRING, MISSING_STRING], ["a", "a"]], object),
            "numbers": np.array([[0, MISSING_INTEGER], [MISSING_INTEGER] * 2, [-1, 1]], np.int64),
            REQUEST_INDEX: np.zeros(3, np.int64),
        },
    )
    for name, present in {
        "text": [False, True, True],
        "number": [False, True, True],
        "texts": [[True, False], [False, False], [True, True]],
        "numbers": [[True, False], [False, False], [True, True]],
    }.items():
        assert (rows[row_output(name)] > 0).tolist() == present, name
    assert rows[row_output("text")][1] == 1 + _hash("", spec.field("text").seed) % 97  # type: ignore[union-attr]


def test_the_same_id_falls_into_unrelated_buckets_in_two_fields() -> None:
    spec = _spec(_ids("first", buckets=MOST_BUCKETS), _ids("second", buckets=MOST_BUCKETS))
    same = np.array([f"id-{i}" for i in range(50)], object)
    rows = _run(spec, {"first": same, "second": same, REQUEST_INDEX: np.zeros(50, np.int64)})
    assert not (rows[row_output("first")] == rows[row_output("second")]).any()


CROSSED = _spec(
    _ids("user", "user"),
    _ids("age", "user", dtype="int64"),
    _ids("seen", "user", max_values=3),
    _ids("id"),
    _ids("tags", dtype="int64", max_values=3),
    crosses=[
        {"name": "pair", "fields": ["user", "age"], "buckets": MOST_BUCKETS, "dim": 1},
        {"name": "reversed", "fields": ["age", "user"], "buckets": MOST_BUCKETS, "dim": 1},
        {"name": "mixed", "fields": ["user", "id"], "buckets": 1009, "dim": 1, "seed": 0},
        {"name": "triple", "fields": ["id", "user", "age"], "buckets": MOST_BUCKETS, "dim": 1, "seed": 2**32 - 1},
        {"name": "list_of_user", "fields": ["seen", "age"], "buckets": MOST_BUCKETS, "dim": 1},
        {"name": "list_by_candidate", "fields": ["seen", "id"], "buckets": MOST_BUCKETS, "dim": 1},
        {"name": "list_of_candidate", "fields": ["user", "tags", "id"], "buckets": 1009, "dim": 1},
    ],
)
USERS = ["ann", "", MISSING_STRING]
AGES = [2**63 - 1, -5, 31]
SEEN = [["a", "b", MISSING_STRING], [MISSING_STRING] * 3, ["c", "", "a"]]
IDS = ["x", "y", MISSING_STRING, "x", "日本"]
TAGS = [[1, 2], [MISSING_INTEGER] * 2, [0, 3], [-1, MISSING_INTEGER], [7, 7]]
REQUEST_OF = [0, 2, 1, 1, 0]  # not sorted: each candidate must find its own request


@pytest.fixture(scope="module")
def crossed() -> dict[str, list[Any]]:
    feeds = {
        "user": np.array(USERS, object),
        "age": np.array(AGES, np.int64),
        "seen": np.array(SEEN, object),
        "id": np.array(IDS, object),
        "tags": np.array(TAGS, np.int64),
        REQUEST_INDEX: np.array(REQUEST_OF, np.int64),
    }
    return {name: array.tolist() for name, array in _run(CROSSED, feeds).items()}


def test_pairs_of_request_fields_follow_the_documented_formula(crossed: dict[str, list[Any]]) -> None:
    assert crossed[row_output("pair")] == [_cross_row(CROSSED, "pair", [u, a]) for u, a in zip(USERS, AGES, strict=True)]
    assert crossed[row_output("reversed")] == [_cross_row(CROSSED, "reversed", [a, u]) for u, a in zip(USERS, AGES, strict=True)]
    assert crossed[row_output("pair")][2] == 0


def test_crosses_with_candidates_take_each_candidates_own_request(crossed: dict[str, list[Any]]) -> None:
    pairs = [(IDS[n], USERS[r], AGES[r]) for n, r in enumerate(REQUEST_OF)]
    assert crossed[row_output("mixed")] == [_cross_row(CROSSED, "mixed", [user, id_]) for id_, user, _ in pairs]
    assert crossed[row_output("triple")] == [_cross_row(CROSSED, "triple", list(members)) for members in pairs]
    assert crossed[row_output("triple")][1] == 0  # its request has no user
    assert crossed[row_output("triple")][2] == 0  # it has no id
    assert all(crossed[row_output("triple")][n] > 0 for n in (0, 3, 4))


def test_crosses_of_a_list_have_one_row_a_value(crossed: dict[str, list[Any]]) -> None:
    by_request = [[_cross_row(CROSSED, "list_of_user", [v, AGES[r]]) for v in SEEN[r]] for r in range(3)]
    assert crossed[row_output("list_of_user")] == by_request
    gathered = [[_cross_row(CROSSED, "list_by_candidate", [v, IDS[n]]) for v in SEEN[r]] for n, r in enumerate(REQUEST_OF)]
    assert crossed[row_output("list_by_candidate")] == gathered
    own = [[_cross_row(CROSSED, "list_of_candidate", [USERS[r], v, IDS[n]]) for v in TAGS[n]] for n, r in enumerate(REQUEST_OF)]
    assert crossed[row_output("list_of_candidate")] == own


NUMBERS = [np.nan, -1e30, -3.5, -0.0, 0.0, 0.5, 7.0, 119.5, 121.0, 3.4e38, np.inf, -np.inf]


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({}, True),
        ({"missing_value": 30.0, "center": 30.0, "scale": 10.0}, True),
        ({"missing_value": 500.0, "min": -2.0, "max": 120.0}, True),
        ({"min": 0.0}, True),
        ({"max": 7.0}, True),
        ({"min": -0.5, "max": 1e6, "transform": "log1p", "center": 1.5, "scale": 0.25, "missing_value": 3.0}, False),
        ({"min": -1e6, "max": 1e6, "transform": "asinh", "missing_value": -4.0, "center": -1.0, "scale": 3.0}, False),
    ],
    ids=["as-is", "scaled", "filled-before-clipping", "floor", "ceiling", "log1p", "asinh"],
)
def test_numbers_are_filled_clipped_transformed_and_scaled(settings: dict[str, Any], exact: bool) -> None:
    spec = _spec({"name": "number", "kind": "numeric", "part": "candidate", **settings})
    raw = np.array(NUMBERS, np.float32)
    given = _run(spec, {"number": raw, REQUEST_INDEX: np.zeros(len(raw), np.int64)})[number_output("number")]
    value = np.where(np.isnan(raw), np.float32(settings.get("missing_value", 0.0)), raw)
    value = np.clip(value, np.float32(settings.get("min", -np.inf)), np.float32(settings.get("max", np.inf)))
    value = {"log1p": np.log1p, "asinh": np.arcsinh}.get(settings.get("transform", ""), np.asarray)(value)
    expected = (value - np.float32(settings.get("center", 0.0))) / np.float32(settings.get("scale", 1.0))
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected, rtol=0 if exact else FLOAT32_ULPS, atol=0 if exact else FLOAT32_ULPS)
    assert not np.isnan(given).any()


@pytest.mark.parametrize(("ids", "buckets"), [(1, 2), (50, 64), (700, 300), (20, 5000)])
def test_expected_collisions_agree_with_throwing_ids_at_random(ids: int, buckets: int) -> None:
    thrown = np.random.default_rng(5).integers(0, buckets, (2000, ids))
    collisions = np.array([ids - len(np.unique(row)) for row in thrown])
    error = collisions.std() / np.sqrt(len(collisions))
    assert abs(expected_collisions(ids, buckets) - collisions.mean()) <= 5 * error + 1e-9


def test_collisions_are_counted_over_different_ids_without_the_missing_ones() -> None:
    crosses = [{"name": "both", "fields": ["crowded", "tags"], "buckets": MOST_BUCKETS, "dim": 2}]
    spec = _spec(_ids("crowded", buckets=2), _ids("tags", dtype="int64", max_values=2, buckets=MOST_BUCKETS, dim=3), crosses=crosses)
    columns = {
        "crowded": np.array(["a", "b", "c", "d", "a", MISSING_STRING], object),
        "tags": np.array([[1, 2], [1, 1], [3, MISSING_INTEGER], [MISSING_INTEGER] * 2, [2, 1], [9, 9]], np.int64),
    }
    crowded, tags, both = count_collisions(spec, columns, encode(spec, columns))
    hit = len({_hash(value, spec.field("crowded").seed) % 2 for value in "abcd"})  # type: ignore[union-attr]
    assert (crowded.ids_seen, crowded.buckets_hit, crowded.collisions) == (4, hit, 4 - hit)
    assert crowded.expected_collisions == pytest.approx(4 - 2 * (1 - 0.5**4), abs=0.005)  # the report has two decimals
    assert (tags.ids_seen, tags.buckets_hit, tags.collisions, tags.table_bytes) == (4, 4, 0, (MOST_BUCKETS + 1) * 3 * 4)
    # (a,1) (a,2) (b,1) (c,3): the order within a list and repeats do not count, nor does anything with a member missing
    assert (both.ids_seen, both.buckets_hit, both.collisions) == (4, 4, 0)
