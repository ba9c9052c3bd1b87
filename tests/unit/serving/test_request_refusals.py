"""Every refusal of a request says where, which rule, and which value; nothing a caller sends is our crash."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.contract.errors import InvalidRequest, MalformedRequest, RequestError
from serving.contract.fields import FeatureSpec
from serving.features.json_bodies import MAX_PATH_SHOWN, MAX_VALUE_SHOWN, printable
from serving.features.requests import RequestDecoder
from serving.protocol.answers import encode, refusal

MAX_CANDIDATES = 12
LONGEST_MESSAGE = 2 * MAX_PATH_SHOWN + 2


@pytest.fixture(scope="module")
def decoder(tiny_spec: FeatureSpec) -> RequestDecoder:
    return RequestDecoder(tiny_spec, MAX_CANDIDATES)


def _body(**parts: Any) -> bytes:
    return json.dumps({"context": {"device": "phone"}, "candidates": [{"id": "a"}], **parts}).encode()


def _price(literal: bytes) -> bytes:
    return b'{"context":{"device":"d"},"candidates":[{"id":"a"},{"id":"b","price":' + literal + b"}]}"


@pytest.mark.parametrize(
    ("body", "path", "rule", "value"),
    [
        (_body(usr={}), "$.usr", "no such field", "{}"),
        (_body(user={"user_idd": "u"}), "$.user.user_idd", "no such field", '"u"'),
        (_body(candidates=[{"id": "a"}, {"id": "b", "prise": 3}]), "$.candidates[1].prise", "no such field", "3"),
        (_body(user={"user_id": 5}), "$.user.user_id", "Expected `str | null`, got `int`", "5"),
        (_body(user={"segment": "5"}), "$.user.segment", "Expected `int | null`, got `str`", '"5"'),
        (_body(user={"segment": True}), "$.user.segment", "Expected `int | null`, got `bool`", "true"),
        (_body(user={"segment": 1.5}), "$.user.segment", "Expected `int | null`, got `float`", "1.5"),
        (_body(user={"age": "old"}), "$.user.age", "Expected `float | null`, got `str`", '"old"'),
        (_body(user={"history": "a"}), "$.user.history", "Expected `array | null`, got `str`", '"a"'),
        (_body(user={"history": ["a", None]}), "$.user.history[1]", "Expected `str`, got `null`", "null"),
        (_body(user=None), "$.user", "Expected `object`, got `null`", "null"),
        (_price(b"NaN"), "$.candidates[1].price", "numbers must be finite", "nan"),
        (_price(b"Infinity"), "$.candidates[1].price", "numbers must be finite", "inf"),
        (_price(b"-Infinity"), "$.candidates[1].price", "numbers must be finite", "-inf"),
        (_price(b"1e999"), "$.candidates[1].price", "out of range", "Infinity"),
        (_price(b"1e39"), "$.candidates[1].price", "<= 3.4028234663852886e+38", "1e+39"),
        (_price(b"-1e39"), "$.candidates[1].price", ">= -3.4028234663852886e+38", "-1e+39"),
        (_body(candidates=[{"id": "a"}] * 13), "$.candidates", "length <= 12", "a list of 13"),
        (_body(candidates=[]), "$.candidates", "length >= 1", "[]"),
        (_body(candidates=None), "$.candidates", "Expected `array`, got `null`", "null"),
        (_body(candidates=[{"id": "x" * 41}]), "$.candidates[0].id", "length <= 40", '"' + "x" * 41 + '"'),
        (_body(user={"history": list("abcdef")}), "$.user.history", "length <= 5", '["a", "b", "c", "d", "e", "f"]'),
        (_body(candidates=[{"id": "a", "tags": [1, 2, 3, 4, 5]}]), "$.candidates[0].tags", "length <= 4", "[1, 2, 3, 4, 5]"),
        (_body(user={"segment": 2**63}), "$.user.segment", "<= 9223372036854775807", str(2**63)),
        (_body(user={"segment": -(2**63)}), "$.user.segment", ">= -9223372036854775807", str(-(2**63))),
        (_body(user={"segment": 10**30}), "$.user.segment", "<= 9223372036854775807", str(10**30)),
        (_body(candidates=[{"id": "a", "tags": [1, 2**64]}]), "$.candidates[0].tags[1]", "<= 9223372036854775807", str(2**64)),
        (_body(top_k=0), "$.top_k", ">= 1", "0"),
        (_body(top_k=-3), "$.top_k", ">= 1", "-3"),
        (_body(top_k=2**40), "$.top_k", "<= 2147483648", str(2**40)),
        (_body(top_k="3"), "$.top_k", "Expected `int | null`, got `str`", '"3"'),
        (_body(context={}), "$.context", "missing required field `device`", "{}"),
        (_body(context={"device": None}), "$.context.device", "Expected `str`, got `null`", "null"),
        (_body(candidates=[{"id": "a"}, {}]), "$.candidates[1]", "missing required field `id`", "{}"),
        (_body(candidates=[{"id": None}]), "$.candidates[0].id", "Expected `str`, got `null`", "null"),
        (b'{"candidates":[{"id":"a"}]}', "$", "missing required field `context`", '{"candidates": [{"id": "a"}]}'),
        (b'{"context":{"device":"d"}}', "$", "missing required field `candidates`", '{"context": {"device": "d"}}'),
        (b"[]", "$", "Expected `object`, got `array`", "[]"),
        (b"null", "$", "Expected `object`, got `null`", "null"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_broken_rule_is_named_with_its_place_and_value(decoder: RequestDecoder, body: bytes, path: str, rule: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoder.decode(body)
    (violation,) = caught.value.violations
    assert violation.path == path
    assert rule in violation.rule
    assert violation.value == value
    assert str(caught.value) == f"{path}: {violation.rule}"
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"hello",
        b"\x00",
        _body()[:-3],
        _body() + b"}",
        b"\xef\xbb\xbf" + _body(),
        _body().decode().encode("utf-16"),
        b'{"context":{"device":"\xff"},"candidates":[{"id":"a"}]}',
        b'{"context":{"device":"\xed\xa0\x80"},"candidates":[{"id":"a"}]}',
        b'{"context":{"device":"\\ud800"},"candidates":[{"id":"a"}]}',
        b'{"\xff":1}',
        b'{"candidates":[{"id":"a\n"}]}',
    ],
    ids=[
        "empty",
        "blank",
        "word",
        "nul",
        "truncated",
        "trailing",
        "bom",
        "utf-16",
        "utf-8",
        "raw-surrogate",
        "surrogate",
        "key",
        "control",
    ],
)
def test_what_is_not_json_is_malformed_and_says_so(decoder: RequestDecoder, body: bytes) -> None:
    with pytest.raises(MalformedRequest, match=r"the body is not valid JSON: .{5,}") as caught:
        decoder.decode(body)
    assert caught.value.status == 400
    encode(refusal(caught.value, "r"))


@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'{"candidates":', b"}"), (b"[", b""), (b'{"user":', b"")]
)
@pytest.mark.parametrize("start", [b"", b'{"unknown":', b'{"candidates":[', b'{"context":{"device":'])
def test_deep_nesting_is_refused_at_every_depth(decoder: RequestDecoder, start: bytes, opening: bytes, closing: bytes) -> None:
    # Near the interpreter's recursion limit parsing may succeed where writing the value out does not.
    for depth in (*range(850, 1001), 100_000):
        with pytest.raises(RequestError):
            decoder.decode(start + opening * depth + b"1" + closing * depth)


def test_a_refusal_stays_small_however_much_was_sent(decoder: RequestDecoder) -> None:
    bodies = [
        _body(**{"k" * 100_000: 1}),
        _body(**{"k" * 100_000 + "` - at `$.y": 1}),
        _body(**{"x` - at `" + "k" * 100_000: 1}),
        b'{"' + b"k" * 100_000 + b'":NaN}',
        _body(context={"device": "d" * 100_000}),
        _body(candidates=[{"id": "a"}] * 5000),
        _price(b"1" + b"0" * 100_000),
        _body(user={"a.b[7]`": 1}),
    ]
    for body in bodies:
        with pytest.raises(InvalidRequest) as caught:
            decoder.decode(body)
        (violation,) = caught.value.violations
        assert len(violation.path) <= MAX_PATH_SHOWN
        assert len(violation.value or "") <= MAX_VALUE_SHOWN
        assert len(str(caught.value)) <= LONGEST_MESSAGE


def test_a_lone_surrogate_in_a_key_beside_nan_can_still_be_answered(decoder: RequestDecoder) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoder.decode(b'{"\\ud800":NaN}')
    assert b"finite" in encode(refusal(caught.value, "r"))


def test_known_paths_are_never_shortened() -> None:
    longest = f"$.candidates[99999].{'n' * 63}[999]"
    assert printable(longest) == longest


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = ("user_id", "segment", "history", "age", "device", "id", "price", "tags", "candidates", "user", "context", "top_k")
OBJECT = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), JSONISH, max_size=5)
REQUEST = st.fixed_dictionaries(
    {"candidates": st.lists(OBJECT | JSONISH, max_size=4) | JSONISH, "context": OBJECT | JSONISH},
    optional={"user": OBJECT | JSONISH, "top_k": JSONISH},
)
QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=250, database=None, **QUIET)
@given(document=REQUEST | JSONISH)
def test_no_json_document_is_more_than_a_refusal(decoder: RequestDecoder, document: Any) -> None:
    try:
        decoder.decode(json.dumps(document).encode())
    except RequestError as error:
        encode(refusal(error, "r"))


@settings(max_examples=300, database=None, **QUIET)
@given(noise=st.binary(max_size=80), seed=st.integers(0, 2**32))
def test_no_bytes_are_more_than_a_refusal(decoder: RequestDecoder, noise: bytes, seed: int) -> None:
    body = bytearray(_body(user={"user_id": "u", "history": ["a"], "age": 3.5}, top_k=2))
    at = random.Random(seed).randrange(len(body))
    body[at : at + len(noise) // 2] = noise
    for sent in (bytes(body), noise):
        try:
            decoder.decode(sent)
        except RequestError as error:
            encode(refusal(error, "r"))
