"""Calls from a pool: round and round, one answer in so many checked in full, good answers that come late no success."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import pytest

from loadtests.calls import LATE, Call
from loadtests.sources.envelope import Envelope
from loadtests.sources.payloads import Body
from loadtests.sources.pool import FULL_CHECK_EVERY, PERIOD, Mix, Pool, Source
from loadtests.sources.rank_json import json_call
from serving.contract.errors import SettingsError

BODIES = [Body(data=b"a", candidates=1, ids=frozenset({"x"}), top_k=1), Body(data=b"b", candidates=1, ids=frozenset({"y"}), top_k=1)]
CALLS = [json_call(body, Envelope("rank", "/v1/rank")) for body in BODIES]
ANSWER_X = b'{"ranking": [{"id": "x", "probability": 0.5}]}'


def test_calls_come_by_number_round_and_round() -> None:
    pool = Pool(CALLS)
    assert [pool.call(index).body for index in (0, 1, 2, 1001)] == [b"a", b"b", b"a", b"b"]


def test_a_pool_without_calls_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Pool([])


def test_the_first_answer_and_then_one_in_so_many_is_held_against_its_request() -> None:
    asked: list[bool] = []

    def check(status: int, headers: Mapping[str, str], body: bytes, *, in_full: bool) -> str | None:
        asked.append(in_full)
        return None

    pool = Pool([Call("rank", "/", {}, b"", 1, check)])
    for index in range(FULL_CHECK_EVERY + 2):
        pool.failure(pool.call(index), 200, {}, b"", 1.0)
    assert [number for number, in_full in enumerate(asked) if in_full] == [0, FULL_CHECK_EVERY]


def test_an_answer_to_another_request_is_a_failure() -> None:
    pool = Pool(CALLS)
    assert Pool(CALLS).failure(pool.call(0), 200, {}, ANSWER_X, 1.0) is None
    assert Pool(CALLS).failure(pool.call(1), 200, {}, ANSWER_X, 1.0) == "answer with ids that were not sent"


def test_a_good_answer_after_the_deadline_is_late_and_a_bad_one_keeps_its_kind() -> None:
    pool = Pool([replace(CALLS[0], deadline_ms=50.0)])
    assert pool.failure(pool.call(0), 200, {}, ANSWER_X, 50.0) is None
    assert pool.failure(pool.call(1), 200, {}, ANSWER_X, 50.1) == LATE
    assert pool.failure(pool.call(2), 503, {}, b"", 50.1) == "HTTP 503"


def test_bodies_that_take_too_much_memory_are_refused_before_all_are_made() -> None:
    made = []

    def calls() -> Iterator[Call]:
        for number in range(1000):
            made.append(number)
            yield replace(CALLS[0], body=b"x" * 100)

    with pytest.raises(SettingsError, match="4 bodies of 100 bytes each take more than the 350 bytes"):
        Pool(calls(), max_bytes=350)
    assert len(made) == 4


def _named(*names: str) -> Pool:
    return Pool([replace(CALLS[0], endpoint=name) for name in names])


def test_a_mix_keeps_its_weights_exactly_and_sends_every_call_of_a_part_in_turn() -> None:
    mix = Mix([(_named("a", "b", "c"), 3.0), (_named("d"), 1.0)], seed=1)
    sent = [mix.call(index).endpoint for index in range(2 * PERIOD)]
    assert sent[:PERIOD].count("d") == PERIOD // 4
    of_first = [name for name in sent if name != "d"]
    assert of_first == [("a", "b", "c")[number % 3] for number in range(len(of_first))]


def test_numbers_of_a_mix_can_be_asked_for_in_any_order_and_a_seed_gives_one_order() -> None:
    parts: list[tuple[Source, float]] = [(_named("a", "b"), 1.0), (_named("c"), 1.0)]
    first, again, other = (Mix(parts, seed) for seed in (1, 1, 2))
    forward = [first.call(index).endpoint for index in range(200)]
    assert [again.call(index).endpoint for index in reversed(range(200))] == forward[::-1]
    assert [other.call(index).endpoint for index in range(200)] != forward
    assert any(before == after for before, after in pairwise(forward))


def test_a_rare_part_of_a_mix_is_sent_all_the_same() -> None:
    mix = Mix([(_named("often"), 1e6), (_named("rare"), 1.0)], seed=0)
    assert sum(mix.call(index).endpoint == "rare" for index in range(PERIOD)) == 1


def test_every_endpoint_of_a_mix_has_its_first_answer_checked_in_full() -> None:
    mix = Mix([(Pool(CALLS), 1.0), (Pool([replace(CALLS[1], endpoint="other")]), 1.0)], seed=0)
    kinds = {}
    for index in range(100):
        call = mix.call(index)
        kinds.setdefault(call.endpoint, mix.failure(call, 200, {}, b'{"ranking": [{"id": "z", "probability": 0.5}]}', 1.0))
    assert kinds == {"rank": "answer with ids that were not sent", "other": "answer with ids that were not sent"}
