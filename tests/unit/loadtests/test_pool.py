"""Calls from a pool: round and round, one answer in so many checked in full, good answers that come late no success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from loadtests.calls import LATE, Call
from loadtests.sources.envelope import Envelope
from loadtests.sources.payloads import Body
from loadtests.sources.pool import FULL_CHECK_EVERY, Pool
from loadtests.sources.rank_json import json_call

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
