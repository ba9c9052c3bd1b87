"""Decoded requests → columns → probabilities: stacking, order and unseen ids change nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving.contract.bundle import Bundle
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, REQUEST_INDEX, FeatureSpec, parse_spec
from serving.features.columns import ColumnEncoder, Encoded, stack
from serving.features.requests import RankRequest, RequestDecoder
from serving.ranking.ranker import Ranker, blank_feeds, order

SAME = 1e-6
"""Sixteen units in the last place of a float32 below 1: a matrix product of another height adds up in another order."""

FULL: dict[str, Any] = {
    "user": {"user_id": "ann", "segment": 3, "history": ["a", "b", "c"], "age": 41.5},
    "context": {"device": "phone"},
    "candidates": [
        {"id": "a", "price": 12.5, "tags": [1, 2, 3]},
        {"id": "b"},
        {"id": "c", "price": 0.0, "tags": []},
        {"id": "never seen anywhere 日本", "tags": [2**63 - 1, -(2**63) + 1]},
    ],
}
BARE: dict[str, Any] = {"context": {"device": ""}, "candidates": [{"id": "a"}]}
OTHER: dict[str, Any] = {
    "user": {"user_id": "", "history": ["z"]},
    "context": {"device": "tv"},
    "candidates": [{"id": f"item-{i}", "price": float(i), "tags": [i]} for i in range(7)],
}


@pytest.fixture(scope="module")
def ranker(tiny_bundle: Bundle) -> Ranker:
    return Ranker(tiny_bundle, threads=1, max_candidates=50)


@pytest.fixture(scope="module")
def decoder(tiny_spec: FeatureSpec) -> RequestDecoder:
    return RequestDecoder(tiny_spec, 50)


def _decode(decoder: RequestDecoder, *documents: dict[str, Any]) -> list[RankRequest]:
    return [decoder.decode(json.dumps(document).encode()) for document in documents]


def test_null_and_left_out_are_the_sentinel(tiny_spec: FeatureSpec, decoder: RequestDecoder) -> None:
    null = {
        "user": {"user_id": None, "segment": None, "history": None, "age": None},
        "context": {"device": "d"},
        "candidates": [{"id": "a", "price": None, "tags": None}],
        "top_k": None,
    }
    absent = {"context": {"device": "d"}, "candidates": [{"id": "a"}]}
    empty = {"user": {"history": []}, "context": {"device": "d"}, "candidates": [{"id": "a", "tags": []}]}
    sentinel = {"user": {"user_id": MISSING_STRING, "history": [MISSING_STRING]}, "context": {"device": "d"}, "candidates": [{"id": "a"}]}
    encoder = ColumnEncoder(tiny_spec)
    for request in _decode(decoder, null, absent, empty, sentinel):
        feeds = encoder.encode([request])
        assert feeds["user_id"].tolist() == [MISSING_STRING]
        assert feeds["segment"].tolist() == [MISSING_INTEGER]
        assert feeds["history"].tolist() == [[MISSING_STRING]]
        assert feeds["tags"].tolist() == [[MISSING_INTEGER]]
        assert math.isnan(feeds["age"][0])
        assert math.isnan(feeds["price"][0])
        assert request.top_k is None


def test_columns_have_the_documented_shapes_and_types(tiny_spec: FeatureSpec, decoder: RequestDecoder) -> None:
    feeds = ColumnEncoder(tiny_spec).encode(_decode(decoder, FULL, BARE, OTHER))
    assert {name: (array.shape, array.dtype.name) for name, array in feeds.items()} == {
        "user_id": ((3,), "object"),
        "segment": ((3,), "int64"),
        "history": ((3, 3), "object"),
        "age": ((3,), "float32"),
        "device": ((3,), "object"),
        "id": ((12,), "object"),
        "price": ((12,), "float32"),
        "tags": ((12, 3), "int64"),
        REQUEST_INDEX: ((12,), "int64"),
    }
    assert feeds[REQUEST_INDEX].tolist() == [0] * 4 + [1] + [2] * 7
    assert feeds["history"].tolist() == [["a", "b", "c"], [MISSING_STRING] * 3, ["z", MISSING_STRING, MISSING_STRING]]
    assert feeds["tags"][:3].tolist() == [[1, 2, 3], [MISSING_INTEGER] * 3, [MISSING_INTEGER] * 3]
    assert feeds["id"][:5].tolist() == ["a", "b", "c", "never seen anywhere 日本", "a"]
    assert feeds["device"].tolist() == ["phone", "", "tv"]


def test_the_largest_numbers_become_float32_without_overflow(tiny_spec: FeatureSpec, decoder: RequestDecoder) -> None:
    largest = float(np.finfo(np.float32).max)
    (request,) = _decode(decoder, {**BARE, "user": {"age": largest}, "candidates": [{"id": "a", "price": -largest}]})
    feeds = ColumnEncoder(tiny_spec).encode([request])
    assert (feeds["age"][0], feeds["price"][0]) == (largest, -largest)


def test_a_specification_without_an_id_field_takes_text_and_integers_as_ids() -> None:
    spec = parse_spec({"name": "t", "fields": [{"name": "price", "kind": "numeric", "part": "candidate"}]}, "t")
    request = RequestDecoder(spec, 5).decode(b'{"candidates":[{"id":7,"price":1},{"id":"seven"}]}')
    assert [candidate.id for candidate in request.candidates] == [7, "seven"]
    assert set(ColumnEncoder(spec).encode([request])) == {"price", REQUEST_INDEX}


def _score(ranker: Ranker, request: RankRequest) -> npt.NDArray[np.float32]:
    (probabilities,) = ranker.score([ranker.encode(request)])
    assert not isinstance(probabilities, Exception)
    return probabilities


def test_stacked_parts_are_what_the_requests_encoded_together_are(ranker: Ranker, decoder: RequestDecoder) -> None:
    requests = _decode(decoder, FULL, BARE, OTHER)
    together = ranker.encoder.encode(requests)
    parts = stack([ranker.encode(request) for request in requests], ranker.encoder.sentinels)
    assert parts.keys() == together.keys()
    for name, feed in together.items():
        assert parts[name].dtype == feed.dtype
        np.testing.assert_array_equal(parts[name], feed)


@pytest.mark.parametrize("order_of", [(0, 1, 2), (2, 0, 1), (1, 1, 0, 2)])
def test_stacked_requests_score_like_each_alone(ranker: Ranker, decoder: RequestDecoder, order_of: tuple[int, ...]) -> None:
    requests = _decode(decoder, FULL, BARE, OTHER)
    parts = ranker.score([ranker.encode(requests[i]) for i in order_of])
    assert [len(part) for part in parts] == [len(requests[i].candidates) for i in order_of]  # type: ignore[arg-type]
    stacked = np.concatenate(parts)  # type: ignore[arg-type]
    alone = np.concatenate([_score(ranker, requests[i]) for i in order_of])
    np.testing.assert_allclose(stacked, alone, rtol=0, atol=SAME)
    assert len(np.unique(np.round(stacked, 5))) > 5  # the model does tell candidates apart


def test_one_candidate_scores_as_among_many(ranker: Ranker, decoder: RequestDecoder) -> None:
    (whole,) = _decode(decoder, OTHER)
    together = _score(ranker, whole)
    singles = _decode(decoder, *[{**OTHER, "candidates": [candidate]} for candidate in OTHER["candidates"]])
    one_by_one = [float(_score(ranker, single)[0]) for single in singles]
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=SAME)


def test_shuffled_candidates_give_the_same_ranking(ranker: Ranker, decoder: RequestDecoder) -> None:
    places = [5, 2, 6, 0, 3, 1, 4]
    plain, shuffled = _decode(decoder, OTHER, {**OTHER, "candidates": [OTHER["candidates"][i] for i in places]})
    expected = _score(ranker, plain)[places]
    np.testing.assert_allclose(_score(ranker, shuffled), expected, rtol=0, atol=SAME)
    assert ranker.rank(shuffled).ids == ranker.rank(plain).ids


def test_shuffled_fields_and_list_values_change_nothing(ranker: Ranker, decoder: RequestDecoder) -> None:
    turned = {part: FULL[part] for part in reversed(FULL)}
    turned["user"] = dict(reversed(FULL["user"].items())) | {"history": ["c", "a", "b"]}
    plain, other = _decode(decoder, FULL, turned)
    np.testing.assert_allclose(ranker.rank(plain).probabilities, ranker.rank(other).probabilities, rtol=0, atol=SAME)


def test_candidates_come_best_first_and_top_k_cuts(ranker: Ranker, decoder: RequestDecoder) -> None:
    whole, cut, more = (ranker.rank(request) for request in _decode(decoder, OTHER, {**OTHER, "top_k": 3}, {**OTHER, "top_k": 99}))
    assert (np.diff(whole.probabilities) <= 0).all()
    assert (cut.ids, cut.probabilities.tolist()) == (whole.ids[:3], whole.probabilities[:3].tolist())
    assert more.ids == whole.ids
    assert sorted(whole.ids, key=str) == [f"item-{i}" for i in range(7)]


def test_equal_candidates_keep_the_order_of_the_request(tiny_spec: FeatureSpec) -> None:
    many = {**BARE, "candidates": [{"id": f"{i}"} for i in range(600)]}
    (request,) = _decode(RequestDecoder(tiny_spec, 600), many)
    probabilities = np.random.default_rng(3).choice(np.array([0.25, 0.5, 0.75], np.float32), 600)
    expected = sorted(range(600), key=lambda i: -probabilities[i])  # Python's sort is stable
    assert order(request, probabilities).ids == [f"{i}" for i in expected]


def test_warm_up_feeds_fit_the_graph_at_every_size(ranker: Ranker, tiny_spec: FeatureSpec) -> None:
    for size in (1, 2, 33):
        (probabilities,) = ranker.score([Encoded(blank_feeds(tiny_spec, size), 1, size)])
        assert len(probabilities) == size  # type: ignore[arg-type]
    cost = ranker.warm_up((1, 10_000))  # larger than a request may be: cut, not refused
    assert 0 < cost.predict(1) <= cost.predict(ranker.max_candidates) < cost.predict(10_000)
