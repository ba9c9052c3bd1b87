"""Made-up requests: reproducible, valid for the service's own decoder, and shaped as the module says."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from loadtests.sources.payloads import TOP_K, generate
from loadtests.sources.sizes import DEFAULT_SIZES, capped, parse_sizes
from loadtests.sources.weights import allot
from serving.contract.errors import SettingsError
from serving.contract.fields import FeatureSpec, parse_spec
from serving.features.requests import RequestDecoder


def _spec(*extra: dict[str, object]) -> FeatureSpec:
    fields = [
        {"kind": "categorical", "name": "user", "part": "user", "buckets": 1000, "dim": 4, "missing": "reject"},
        {"kind": "categorical", "name": "seen", "part": "user", "buckets": 500, "dim": 4, "max_values": 20, "dtype": "int64"},
        {"kind": "numeric", "name": "hour", "part": "context", "min": 0, "max": 23, "missing": "reject"},
        {"kind": "categorical", "name": "brand", "part": "candidate", "buckets": 100, "dim": 4},
        {"kind": "categorical", "name": "tags", "part": "candidate", "buckets": 50, "dim": 4, "max_values": 5, "missing": "reject"},
        {"kind": "numeric", "name": "clicks", "part": "candidate", "min": 0, "transform": "log1p", "center": 3, "scale": 2},
        {"kind": "numeric", "name": "balance", "part": "candidate", "transform": "asinh", "scale": 1e6},
        {"kind": "numeric", "name": "price", "part": "candidate", "min": 0.5, "max": 999, "transform": "log1p"},
    ]
    return parse_spec({"name": "ads", "fields": [*fields, *extra]}, "test")


ID_FIELD = {"kind": "categorical", "name": "id", "part": "candidate", "buckets": 1000, "dim": 4, "dtype": "int64"}
SHORT_NAMES = {"kind": "categorical", "name": "id", "part": "candidate", "buckets": 2, "dim": 1, "max_length": 1}
WIDE = {"kind": "numeric", "name": "wide", "part": "candidate", "min": -3.4e38, "max": 3.4e38}
SIZES = parse_sizes(DEFAULT_SIZES)


@pytest.mark.parametrize("extra", [(), (ID_FIELD,), (SHORT_NAMES,), (WIDE,)], ids=["plain", "id field", "one-letter ids", "all of float32"])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_body_is_accepted_by_the_decoder_of_the_service(extra: tuple[dict[str, object], ...], seed: int) -> None:
    spec = _spec(*extra)
    decoder = RequestDecoder(spec, max_candidates=500)
    for body in generate(spec, sizes=SIZES, max_candidates=500, seed=seed, count=12):
        request = decoder.decode(body.data)
        assert len(request.candidates) == body.candidates
        assert request.top_k == TOP_K == body.top_k
        assert {candidate.id for candidate in request.candidates} == body.ids


def test_same_seed_gives_the_same_bytes_and_another_seed_gives_others() -> None:
    first, again, other = (generate(_spec(), sizes=SIZES, max_candidates=100, seed=seed, count=8) for seed in (1, 1, 2))
    assert first == again
    assert {body.data for body in first}.isdisjoint(body.data for body in other)


def test_bytes_of_a_seed_are_pinned() -> None:
    brand = {"kind": "categorical", "name": "brand", "part": "candidate", "buckets": 10, "dim": 1}
    spec = parse_spec({"name": "pin", "fields": [brand]}, "test")
    (body,) = generate(spec, sizes={2: 1.0}, max_candidates=10, seed=3, count=1)
    assert body.data == PINNED


def test_candidate_ids_differ_within_a_request() -> None:
    for body in generate(_spec(ID_FIELD), sizes={500: 1.0}, max_candidates=500, seed=0, count=3):
        assert len(body.ids) == 500


def test_ids_are_heavy_tailed_lists_mostly_short_and_some_values_missing() -> None:
    bodies = generate(_spec(), sizes={100: 1.0}, max_candidates=100, seed=0, count=20)
    candidates = [candidate for body in bodies for candidate in json.loads(body.data)["candidates"]]
    brands = Counter(candidate["brand"] for candidate in candidates if candidate.get("brand"))
    commonest = [number for _, number in brands.most_common()]
    assert commonest[0] > 10 * commonest[len(commonest) // 2]
    lengths = Counter(len(candidate["tags"]) for candidate in candidates)
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert lengths[1] > lengths[5]
    left_out = sum("clicks" not in candidate for candidate in candidates)
    null = sum(candidate.get("clicks", 0) is None for candidate in candidates)
    assert 0 < left_out < 0.1 * len(candidates)
    assert 0 < null < 0.1 * len(candidates)


def test_numbers_lie_inside_their_bounds() -> None:
    bodies = generate(_spec(), sizes={100: 1.0}, max_candidates=100, seed=0, count=10)
    for candidate in (candidate for body in bodies for candidate in json.loads(body.data)["candidates"]):
        assert candidate.get("price") is None or 0.5 <= candidate["price"] <= 999
        assert candidate.get("clicks") is None or candidate["clicks"] >= 0


def test_the_pool_has_the_mix_exactly_and_never_more_than_the_service_takes() -> None:
    bodies = generate(_spec(), sizes=parse_sizes("10:20,100:60,5000:20"), max_candidates=50, seed=0, count=10)
    assert Counter(body.candidates for body in bodies) == {10: 2, 50: 8}


def test_a_size_of_small_weight_is_in_the_pool_all_the_same() -> None:
    assert Counter(allot(parse_sizes("100:999,500:1"), 64)) == {100: 63, 500: 1}


def test_weights_of_sizes_cut_to_the_same_bound_add_up() -> None:
    assert capped({10: 1.0, 200: 2.0, 300: 3.0}, 100) == {10: 1.0, 100: 5.0}


TOO_MANY = ",".join(map(str, range(1, 40)))


@pytest.mark.parametrize("text", ["", "a", "0", "10:0", "10:-1", "10:nan", "10:inf", "10:1,10:2", "10;20", TOO_MANY])
def test_a_mix_of_sizes_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="candidates"):
        parse_sizes(text)


def test_one_size_needs_no_weight() -> None:
    assert parse_sizes("100") == {100: 1.0}


PINNED = b'{"user":{},"context":{},"candidates":[{"brand":"brand-3","id":"item-4202"},{"brand":"brand-1","id":"item-1"}],"top_k":10}'
