"""Rankings in three forms: each read by the service's own decoder, of one seed the same values, and answers judged by what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from loadtests.calls import Call
from loadtests.sources.envelope import Envelope
from loadtests.sources.ranking import ranking_calls
from loadtests.sources.rows import Values
from loadtests.sources.service import Ranker
from loadtests.sources.traffic import RankRequests
from serving.contract.errors import SettingsError
from serving.contract.fields import FeatureSpec, parse_spec
from serving.features.arrow_columns import ArrowEncoder
from serving.features.columns import ColumnEncoder
from serving.features.requests import RequestDecoder
from serving.features.tensors import TensorEncoder
from serving.protocol.answers import Model
from serving.protocol.arrow import rank_answer_arrow, read_batch
from serving.protocol.open_inference import InferReader, InferRequest, infer_answer

MOST = 40
MODEL = Model("tiny", "1")


def _calls(spec: FeatureSpec, endpoint: Any, values: Values | None = None, **more: Any) -> list[Call]:
    entry = RankRequests(endpoint=endpoint, candidates="1,5,100", bodies=6, **more)
    return list(ranking_calls(entry, Ranker("tiny", "1", spec, MOST), Envelope(endpoint, "/"), values or Values(), seed=3))


def _feeds(spec: FeatureSpec, call: Call) -> Mapping[str, Any]:
    """What the service would give to the graph."""
    if call.endpoint == "rank":
        return ColumnEncoder(spec).encode([RequestDecoder(spec, MOST).decode(call.body)])
    if call.endpoint == "rank-arrow":
        return ArrowEncoder(spec, MOST).encode(read_batch(call.body)).feeds
    header = call.headers["Inference-Header-Content-Length"].encode()
    return TensorEncoder(spec, MOST).encode(InferReader(MOST * 10).read(call.body, header).inputs).feeds


@pytest.mark.parametrize("endpoint", ["rank-arrow", "infer"])
def test_the_forms_of_one_seed_hold_the_same_values(tiny_spec: FeatureSpec, endpoint: str) -> None:
    pairs = list(zip(_calls(tiny_spec, "rank"), _calls(tiny_spec, endpoint), strict=True))
    assert {call.size for call, _ in pairs} == {1, 5, MOST}
    for in_json, other in pairs:
        expected, found = _feeds(tiny_spec, in_json), _feeds(tiny_spec, other)
        assert expected.keys() == found.keys()
        assert in_json.size == other.size
        for name in expected:
            # Lists may be padded to another width; where one ends, only padding follows in the other.
            wide, narrow = sorted((expected[name], found[name]), key=lambda array: array.shape[-1], reverse=True)
            cut = wide[..., : narrow.shape[-1]] if wide.ndim > 1 else wide
            np.testing.assert_array_equal(cut, narrow, err_msg=name)


@pytest.mark.parametrize("endpoint", ["rank-arrow", "infer"])
def test_recorded_requests_can_be_sent_in_another_form(tiny_spec: FeatureSpec, tmp_path: Path, endpoint: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"\n".join(call.body for call in _calls(tiny_spec, "rank")))
    again, made = _calls(tiny_spec, endpoint, recorded=path), _calls(tiny_spec, endpoint)
    assert [call.body for call in again] == [call.body for call in made]
    path.write_text('{"context": {"device": "x"}, "candidates": [{"id": "a", "colour": "red"}]}')
    with pytest.raises(SettingsError, match="candidate field 'colour'"):
        _calls(tiny_spec, endpoint, recorded=path)
    path.write_text('{"context": {"device": "x"}, "candidates": [{"id": "a", "tags": "red"}]}')
    with pytest.raises(SettingsError, match="cannot be written as"):
        _calls(tiny_spec, endpoint, recorded=path)


@pytest.mark.parametrize("id_of", ["item-{}", 7])
def test_ids_without_a_field_of_their_own_are_sent_as_they_are(tmp_path: Path, id_of: Any) -> None:
    spec = parse_spec(
        {"name": "bare", "fields": [{"kind": "categorical", "name": "brand", "part": "candidate", "buckets": 9, "dim": 1}]}, "test"
    )
    path = tmp_path / "requests.jsonl"
    path.write_bytes(msgspec.json.encode({"candidates": [{"id": id_of, "brand": "a"}]}))
    (call,) = _calls(spec, "rank-arrow", recorded=path)
    assert ArrowEncoder(spec, MOST).encode(read_batch(call.body)).ids.tolist() == [id_of]
    (call,) = _calls(spec, "infer", recorded=path)
    assert "id" not in _feeds(spec, call)


def test_a_steeper_exponent_asks_for_fewer_ids_and_distinct_ids_bound_them(tiny_spec: FeatureSpec) -> None:
    entry = RankRequests(endpoint="rank", candidates="1", bodies=400)
    model = Ranker("tiny", "1", tiny_spec, MOST)

    def distinct(values: Values) -> int:
        calls = ranking_calls(entry, model, Envelope("rank", "/"), values, seed=0)
        return len({msgspec.json.decode(call.body)["user"].get("user_id") for call in calls})

    flat, usual, steep = (distinct(Values(zipf_exponent=exponent, missing_pct=0)) for exponent in (0, 1, 2))
    assert flat > usual > steep > 1
    assert distinct(Values(missing_pct=0, distinct_ids={"user_id": 3})) == 3
    with pytest.raises(SettingsError, match=r"distinct_ids names 'age'.* it has .*user_id"):
        distinct(Values(distinct_ids={"age": 3}))


def test_nothing_is_missing_where_nothing_shall_be(tiny_spec: FeatureSpec) -> None:
    for call in _calls(tiny_spec, "rank", values=Values(missing_pct=0)):
        assert msgspec.json.decode(call.body)["user"].keys() == {"user_id", "segment", "history", "age"}


ASKED_ALL = {"top_k": 0}


def test_arrow_answers_are_read_when_they_are_checked_in_full(tiny_spec: FeatureSpec) -> None:
    call = next(call for call in _calls(tiny_spec, "rank-arrow", **ASKED_ALL) if call.size == 5)
    ids = ArrowEncoder(tiny_spec, MOST).encode(read_batch(call.body)).ids.tolist()
    falling = np.linspace(0.9, 0.1, 5, dtype=np.float32)
    headers = {"content-type": "application/vnd.apache.arrow.stream"}

    def judged(ids: list[str], probabilities: Any, *, in_full: bool = True, headers: Mapping[str, str] = headers) -> str | None:
        return call.check(200, headers, rank_answer_arrow(MODEL, "r", ids, np.asarray(probabilities, np.float32)), in_full=in_full)

    assert judged(ids, falling) is None
    assert judged(["?", *ids[1:]], falling) == "answer with ids that were not sent"
    assert judged(["?", *ids[1:]], falling, in_full=False) is None
    assert judged(ids, falling[::-1]) == "answer not sorted by probability"
    assert judged(ids, [np.nan] * 5) == judged(ids, [2.0] * 5) == "answer without a usable Arrow stream"
    assert judged(ids, falling, in_full=False, headers={"content-type": "application/json"}) == "answer without a usable Arrow stream"
    assert call.check(200, headers, b"\xff\xff\xff\xff garbage", in_full=True) == "answer without a usable Arrow stream"
    assert call.check(503, {}, b'{"error":{"code":"overloaded"}}', in_full=True) == "HTTP 503 overloaded"


def test_answers_of_tensors_are_looked_at_every_time(tiny_spec: FeatureSpec) -> None:
    call = next(call for call in _calls(tiny_spec, "infer") if call.size == 5)

    def judged(values: Any, name: str = "probability", *, in_full: bool = False) -> str | None:
        content, length = infer_answer(MODEL, InferRequest("", {}, {name: True}, False), name, np.asarray(values, np.float32))
        return call.check(200, {"inference-header-content-length": str(length)}, content, in_full=in_full)

    assert judged([0, 0.5, 1, 0.1, 0.2]) is judged([0, 0.5, 1, 0.1, 0.2], in_full=True) is None
    for values in ([0.5] * 4, [0.5, np.nan, 0.5, 0.5, 0.5], [1.5] * 5):
        assert judged(values) == "answer without usable probabilities"
    assert judged([0.5] * 5, "logit", in_full=True) == "answer with a tensor that was not asked for"
    assert call.check(200, {}, b'{"outputs":[]}', in_full=False) == "answer without usable probabilities"
    assert call.check(400, {}, b'{"error":"no"}', in_full=False) == "HTTP 400"
