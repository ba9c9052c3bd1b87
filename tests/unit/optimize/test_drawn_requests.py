"""Interactions to requests: what a caller would send."""

from __future__ import annotations

import json

import numpy as np
import pytest

from optimize.data.interactions import Interactions
from optimize.data.requests import REQUEST_SIZES, draw_requests, record, write_lines
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, FeatureSpec
from serving.features.requests import RequestDecoder

MOVIES = 700


@pytest.fixture(scope="module")
def data() -> Interactions:
    """Rows of `tiny_spec`; user u knows five movies."""
    rng = np.random.default_rng(0)
    rows = 3 * MOVIES
    users = rng.integers(0, 20, rows)
    history = np.array([[f"m{(7 * u + k) % MOVIES}" for k in range(5)] for u in users], object)
    history[users == 3] = MISSING_STRING
    tags = rng.integers(-5, 5, (rows, 4))
    tags[:, 2:] = MISSING_INTEGER
    columns = {
        "user_id": np.array([f"u{u}" for u in users], object),
        "segment": np.where(users % 2 == 0, MISSING_INTEGER, users),
        "history": history,
        "age": np.where(users == 3, np.nan, 20 + users).astype(np.float32),
        "device": np.array(["phone", "tv"], object)[users % 2],
        "id": np.array([f"m{i % MOVIES}" for i in range(rows)], object),
        "price": rng.random(rows).astype(np.float32),
        "tags": tags,
    }
    return Interactions(columns, np.zeros(rows, np.float32), columns["user_id"], np.zeros(rows, np.int64))


@pytest.fixture(scope="module")
def bodies(data: Interactions, tiny_spec: FeatureSpec) -> list[str]:
    return list(draw_requests(tiny_spec, data, 60, 10, seed=1))


def test_the_service_accepts_every_request(bodies: list[str], tiny_spec: FeatureSpec) -> None:
    decoder = RequestDecoder(tiny_spec, max_candidates=max(REQUEST_SIZES))
    sizes = set()
    for body in bodies:
        request = decoder.decode(body.encode())
        assert request.top_k == 10
        sizes.add(len(request.candidates))
    assert len(bodies) == 60
    assert sizes <= set(REQUEST_SIZES)
    assert len(sizes) >= 3


def test_nobody_is_offered_what_they_know(bodies: list[str]) -> None:
    for body in bodies:
        request = json.loads(body)
        offered = [candidate["id"] for candidate in request["candidates"]]
        assert not set(offered) & set(request["user"].get("history", []))
        assert len(set(offered)) == len(offered), "no candidate twice"


def test_user_and_context_belong_together(bodies: list[str]) -> None:
    for body in bodies:
        request = json.loads(body)
        user = int(request["user"]["user_id"][1:])
        assert request["context"] == {"device": ["phone", "tv"][user % 2]}
        assert request["user"].get("segment") == (None if user % 2 == 0 else user)


def test_missing_values_are_left_out(data: Interactions, tiny_spec: FeatureSpec) -> None:
    row = int(np.flatnonzero(data.columns["user_id"] == "u3")[0])
    assert record(tiny_spec, data, row, "user") == {"user_id": "u3", "segment": 3}
    assert len(record(tiny_spec, data, row, "candidate")["tags"]) == 2, "no padding is sent"


def test_requests_are_a_function_of_the_seed(bodies: list[str], data: Interactions, tiny_spec: FeatureSpec) -> None:
    assert list(draw_requests(tiny_spec, data, 60, 10, seed=1)) == bodies
    assert list(draw_requests(tiny_spec, data, 60, 10, seed=2)) != bodies


def test_one_line_a_request(bodies: list[str]) -> None:
    assert [json.loads(line) for line in write_lines(bodies).splitlines()] == [json.loads(body) for body in bodies]
