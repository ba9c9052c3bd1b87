"""Arrow in, Arrow out: the same arrays and the same refusals as JSON, and no stream is more than a refusal."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.contract.errors import InvalidRequest, MalformedRequest, RequestError
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, FeatureSpec, parse_spec
from serving.features.arrow_columns import ArrowEncoder, ArrowRequest
from serving.features.columns import ColumnEncoder, Feeds
from serving.features.requests import RequestDecoder
from serving.protocol.answers import Model, encode, refusal
from serving.protocol.arrow import MAX_FIELDS, MAX_METADATA, rank_answer_arrow, read_batch

MAX_CANDIDATES = 12
VALID: dict[str, Any] = {
    "user": {"user_id": "ann", "segment": 3, "history": ["a", "b"], "age": 41.5},
    "context": {"device": "phone"},
    "candidates": [{"id": "a", "price": 12.5, "tags": [1, 2, 3]}, {"id": "b 日本", "price": None, "tags": None}],
    "top_k": 1,
}
BARE: dict[str, Any] = {"context": {"device": ""}, "candidates": [{"id": "a"}]}
BATCH = pa.RecordBatch.from_pylist([VALID])
NULLS = pa.RecordBatch.from_arrays([pa.nulls(1)], ["user"])  # a batch without one byte of values
WITHOUT_ID = parse_spec({"name": "t", "fields": [{"name": "price", "kind": "numeric", "part": "candidate"}]}, "t")


def _stream(*batches: pa.RecordBatch, schema: pa.Schema | None = None, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema or batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _column(name: str, array: pa.Array) -> pa.RecordBatch:
    """`BARE` with one more column of the candidate, or of the user for its fields."""
    if name in ("user_id", "segment", "history", "age"):
        return _with(user=pa.StructArray.from_arrays([array], [name]))
    rows = pa.StructArray.from_arrays([pa.array([f"c{i}" for i in range(len(array))]), array], ["id", name])
    return _with(candidates=pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), rows))


def _with(**columns: pa.Array) -> pa.RecordBatch:
    bare = pa.RecordBatch.from_pylist([BARE])
    kept = {name: bare.column(name) for name in bare.schema.names}
    return pa.RecordBatch.from_pydict(kept | columns)


def _assert_same(feeds: Feeds, expected: Feeds) -> None:
    assert feeds.keys() == expected.keys()
    for name, array in expected.items():
        assert (feeds[name].shape, feeds[name].dtype) == (array.shape, array.dtype), name
        np.testing.assert_array_equal(feeds[name], array, err_msg=name)


@pytest.fixture(scope="module")
def encoder(tiny_spec: FeatureSpec) -> ArrowEncoder:
    return ArrowEncoder(tiny_spec, MAX_CANDIDATES)


def _ask(encoder: ArrowEncoder, batch: pa.RecordBatch) -> ArrowRequest:
    return encoder.encode(read_batch(_stream(batch)))


def _document(rng: random.Random) -> dict[str, Any]:
    def maybe(value: Any) -> Any:
        return rng.choice([value, value, None])

    def text() -> str:
        return rng.choice(["", "a", "日本", "x" * 40, "é" * 40, MISSING_STRING, str(rng.random())])

    def whole() -> int:
        return rng.choice([0, -1, 2**63 - 1, MISSING_INTEGER + 1, rng.randrange(1000)])

    def number() -> Any:
        return rng.choice([0.0, -0.0, 1e-45, 3.4028234663852886e38, 0.1, rng.uniform(-1e6, 1e6)])

    def candidate() -> dict[str, Any]:
        row = {"id": text(), "price": maybe(number()), "tags": maybe([whole() for _ in range(rng.randrange(5))])}
        return {name: value for name, value in row.items() if name == "id" or rng.random() < 0.8}

    document: dict[str, Any] = {
        "context": {"device": text()},
        "candidates": [candidate() for _ in range(rng.randrange(1, MAX_CANDIDATES + 1))],
    }
    if rng.random() < 0.8:
        history = [text() for _ in range(rng.randrange(6))]
        document["user"] = {"user_id": maybe(text()), "segment": maybe(whole()), "history": maybe(history), "age": maybe(number())}
    if rng.random() < 0.5:
        document["top_k"] = rng.choice([None, 1, 7, 2**31])
    return document


def test_arrow_and_json_give_equal_arrays(tiny_spec: FeatureSpec, encoder: ArrowEncoder) -> None:
    decoder, columns = RequestDecoder(tiny_spec, MAX_CANDIDATES), ColumnEncoder(tiny_spec)
    rng = random.Random(7)
    for _ in range(300):
        document = _document(rng)
        expected = decoder.decode(json.dumps(document).encode())
        request = _ask(encoder, pa.RecordBatch.from_pylist([document]))
        _assert_same(request.feeds, columns.encode([expected]))
        assert request.ids.tolist() == [candidate.id for candidate in expected.candidates]
        assert (request.top_k, request.candidates) == (expected.top_k, len(expected.candidates))


def test_a_slice_of_a_larger_batch_is_read_at_its_offset(tiny_spec: FeatureSpec, encoder: ArrowEncoder) -> None:
    rng = random.Random(11)
    documents = [_document(rng) | {"user": {"history": ["h", "i"], "age": None, "segment": i}} for i in range(20)]
    whole = pa.RecordBatch.from_pylist(documents)
    for i, document in enumerate(documents):
        expected = _ask(encoder, pa.RecordBatch.from_pylist([document]))
        for request in (encoder.encode(whole.slice(i, 1)), _ask(encoder, whole.slice(i, 1))):
            _assert_same(request.feeds, expected.feeds)
            assert request.ids.tolist() == expected.ids.tolist()


LARGE = pa.schema(
    [
        (
            "user",
            pa.struct(
                [
                    ("user_id", pa.large_string()),
                    ("segment", pa.uint16()),
                    ("history", pa.large_list(pa.large_string())),
                    ("age", pa.float32()),
                ]
            ),
        ),
        ("context", pa.struct([("device", pa.large_string())])),
        (
            "candidates",
            pa.large_list(pa.struct([("id", pa.large_string()), ("price", pa.float16()), ("tags", pa.large_list(pa.int8()))])),
        ),
        ("top_k", pa.uint8()),
    ]
)


def test_other_widths_of_the_same_types_give_equal_arrays(encoder: ArrowEncoder) -> None:
    expected = _ask(encoder, BATCH)
    request = _ask(encoder, pa.RecordBatch.from_pylist([VALID], LARGE))
    _assert_same(request.feeds, expected.feeds)
    assert (request.ids.tolist(), request.top_k) == (expected.ids.tolist(), 1)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.int32(), pa.float64(), pa.null()])
def test_a_number_may_be_any_integer_or_float_or_missing(encoder: ArrowEncoder, kind: pa.DataType) -> None:
    values = [None, None] if pa.types.is_null(kind) else [7, None]
    price = _ask(encoder, _column("price", pa.array(values, kind))).feeds["price"]
    np.testing.assert_array_equal(price, np.array(values, np.float32))


def test_a_null_part_counts_as_left_out(tiny_spec: FeatureSpec, encoder: ArrowEncoder) -> None:
    hidden = pa.StructArray.from_arrays([pa.array(["hidden"])], ["user_id"], mask=pa.array([True]))
    expected = _ask(encoder, pa.RecordBatch.from_pylist([BARE])).feeds
    for user in (hidden, pa.nulls(1)):
        _assert_same(_ask(encoder, _with(user=user)).feeds, expected)


def test_what_is_stored_below_a_null_is_never_seen(encoder: ArrowEncoder) -> None:
    null_then_value = pa.array([True, False])
    tags = pa.ListArray.from_arrays(pa.array([0, 9, 11], pa.int32()), pa.array([None] * 9 + [1, 2], pa.int64()), mask=null_then_value)
    assert _ask(encoder, _column("tags", tags)).feeds["tags"].tolist() == [[MISSING_INTEGER] * 2, [1, 2]]
    bits = pa.py_buffer(b"\x02")
    price = pa.Array.from_buffers(pa.float64(), 2, [bits, pa.py_buffer(struct.pack("<2d", float("inf"), 1.0))])
    np.testing.assert_array_equal(_ask(encoder, _column("price", price)).feeds["price"], np.array([np.nan, 1], np.float32))
    nulls = pa.ListArray.from_arrays(pa.array([0, 2**31 - 1], pa.int32()), pa.nulls(2**31 - 1), mask=pa.array([True]))
    assert _ask(encoder, _column("tags", nulls)).feeds["tags"].tolist() == [[MISSING_INTEGER]]


@pytest.mark.parametrize(("ids", "shown"), [([7, 8], [7, 8]), (["seven", "é"], ["seven", "é"])])
def test_ids_that_are_no_field_may_be_text_or_integers(ids: list[Any], shown: list[Any]) -> None:
    document = {"candidates": [{"id": one, "price": 1} for one in ids]}
    request = _ask(ArrowEncoder(WITHOUT_ID, 5), pa.RecordBatch.from_pylist([document]))
    assert request.ids.tolist() == shown
    _assert_same(request.feeds, ColumnEncoder(WITHOUT_ID).encode([RequestDecoder(WITHOUT_ID, 5).decode(json.dumps(document).encode())]))


@pytest.mark.parametrize("one", [1.5, True, None, "x" * 257, MISSING_INTEGER], ids=str)
def test_ids_that_are_no_field_have_the_bounds_of_json(one: Any) -> None:
    document = {"candidates": [{"id": one}]}
    with pytest.raises(InvalidRequest) as by_json:
        RequestDecoder(WITHOUT_ID, 5).decode(json.dumps(document).encode())
    with pytest.raises(InvalidRequest) as by_arrow:
        _ask(ArrowEncoder(WITHOUT_ID, 5), pa.RecordBatch.from_pylist([document]))
    assert by_arrow.value.violations[0].path == by_json.value.violations[0].path == "$.candidates[0].id"


def _body(**parts: Any) -> dict[str, Any]:
    return BARE | parts


@pytest.mark.parametrize(
    "document",
    [
        _body(usr={"a": 1}),
        _body(user={"user_idd": "u"}),
        _body(user={"user_id": 5}),
        _body(user={"segment": "5"}),
        _body(user={"segment": True}),
        _body(user={"segment": 1.5}),
        _body(user={"segment": MISSING_INTEGER}),
        _body(user={"age": "old"}),
        _body(user={"age": True}),
        _body(user={"age": 1e39}),
        _body(user={"age": -1e39}),
        _body(user={"history": "a"}),
        _body(user={"history": ["a", None]}),
        _body(user={"history": [None]}),
        _body(user={"history": [5]}),
        _body(user={"history": list("abcdef")}),
        _body(user={"history": ["a", "x" * 129]}),
        _body(user=3),
        _body(user=["a"]),
        _body(context={}),
        _body(context={"device": None}),
        {"candidates": [{"id": "a"}]},
        {"context": {"device": "d"}},
        _body(candidates=[]),
        _body(candidates=None),
        _body(candidates="a"),
        _body(candidates=["a"]),
        _body(candidates=[None]),
        _body(candidates=[{"id": "a"}, None]),
        _body(candidates=[{"id": "a"}] * 13),
        _body(candidates=[{}]),
        _body(candidates=[{"price": 1.0}]),
        _body(candidates=[{"id": None}]),
        _body(candidates=[{"id": 5}]),
        _body(candidates=[{"id": "é" * 41}]),
        _body(candidates=[{"id": "a"}, {"id": "b", "price": float("nan")}]),
        _body(candidates=[{"id": "a"}, {"id": "b", "price": float("inf")}]),
        _body(candidates=[{"id": "a", "tags": []}, {"id": "b", "tags": [1, 2, 3, 4, 5]}]),
        _body(candidates=[{"id": "a", "tags": [1]}, {"id": "b"}, {"id": "c", "tags": [1, 2, MISSING_INTEGER]}]),
        _body(top_k=0),
        _body(top_k=-3),
        _body(top_k=2**40),
        _body(top_k="3"),
        _body(top_k=1.5),
    ],
    ids=lambda document: json.dumps(document)[-50:],
)
def test_a_document_that_json_refuses_is_refused_alike(tiny_spec: FeatureSpec, encoder: ArrowEncoder, document: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as by_json:
        RequestDecoder(tiny_spec, MAX_CANDIDATES).decode(json.dumps(document).encode())
    with pytest.raises(InvalidRequest) as by_arrow:
        _ask(encoder, pa.RecordBatch.from_pylist([document]))
    (expected,), (found,) = by_json.value.violations, by_arrow.value.violations
    assert (found.path, found.rule) == (expected.path, expected.rule)
    assert str(by_arrow.value) == f"{found.path}: {found.rule}"


@pytest.mark.parametrize(
    ("batch", "path", "rule", "value"),
    [
        (_column("tags", pa.array([[1], [2**63]], pa.list_(pa.uint64()))), "$.candidates[1].tags[0]", "<= 9223372036854775807", str(2**63)),
        (_column("price", pa.array([1.0, float("nan")], pa.float32())), "$.candidates[1].price", "numbers must be finite", "nan"),
        (_column("price", pa.array([None, "dear"])), "$.candidates[1].price", "Expected `float | null`, got `str`", '"dear"'),
        (_column("prise", pa.array([None, 3])), "$.candidates[1].prise", "no such field", "3"),
        (_column("tags", pa.array([list(range(5))])), "$.candidates[0].tags", "length <= 4", "a list of 5"),
        (_column("id", pa.array(["a"])), "$.candidates[0].id", "names must be unique", None),
        (_with(candidates=pa.array([[{"id": "a"}] * 13])), "$.candidates", "length <= 12", "a list of 13"),
        (_with(context=pa.nulls(1)), "$", "missing required field `context`", None),
    ],
    ids=["uint64", "nan", "type", "unknown", "list", "twice", "many", "null-context"],
)
def test_a_broken_rule_is_named_with_its_place_and_value(
    encoder: ArrowEncoder, batch: pa.RecordBatch, path: str, rule: str, value: str | None
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _ask(encoder, batch)
    (violation,) = caught.value.violations
    assert (violation.path, violation.value) == (path, value)
    assert rule in violation.rule


def test_a_required_list_must_have_values() -> None:
    fields = [{"name": "tags", "kind": "categorical", "part": "candidate", "buckets": 8, "dim": 1, "max_values": 3, "missing": "reject"}]
    encoder = ArrowEncoder(parse_spec({"name": "t", "fields": fields}, "t"), 5)
    for tags, rule in (([], "length >= 1"), (None, "got `null`")):
        with pytest.raises(InvalidRequest, match=rule) as caught:
            _ask(encoder, pa.RecordBatch.from_pylist([{"candidates": [{"id": 1, "tags": ["a"]}, {"id": 2, "tags": tags}]}]))
        assert caught.value.violations[0].path == "$.candidates[1].tags"


def test_callers_with_different_schemas_take_turns(encoder: ArrowEncoder) -> None:
    for _ in range(3):
        for batch in (BATCH, _with(), pa.RecordBatch.from_pylist([VALID], LARGE), *(_with(top_k=pa.array([1], pa.uint8())),) * 2):
            assert _ask(encoder, batch).feeds["device"].tolist() == [batch.column("context")[0].as_py()["device"]]
    assert len(encoder._plans) <= 4


def _nested(depth: int) -> pa.RecordBatch:
    kind = pa.int8()
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.RecordBatch.from_arrays([pa.nulls(1, kind)], ["candidates"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not a valid Arrow IPC stream"),
        (b"ARROW1\0\0" + _stream(BATCH), "no message begins at byte 0"),
        (b"{}" * 20, "no message begins at byte 0"),
        (_stream(schema=BATCH.schema), "no record batch"),
        (_stream(BATCH)[:-8] + b"\0" * 8, "bytes after its end"),
        (_stream(BATCH) + b"\0", "bytes after its end"),
        (_stream(BATCH) + _stream(BATCH), "bytes after its end"),
        (_stream(BATCH, BATCH), "more than one record batch"),
        (_stream(_column("price", pa.array(["a", "a"]).dictionary_encode())), "dictionary-encoded"),
        (_stream(BATCH, compression="lz4"), "compressed"),
        (_stream(BATCH, compression="zstd"), "compressed"),
        (_stream(BATCH, metadata_version=pa.ipc.MetadataVersion.V4), "other than V5"),
        (_stream(_nested(4)), "over 4 deep"),
        (_stream(pa.RecordBatch.from_arrays([pa.nulls(1)] * (MAX_FIELDS + 1), list(map(str, range(MAX_FIELDS + 1))))), "side by side"),
        (_stream(BATCH.replace_schema_metadata({"a": "b" * MAX_METADATA})), "bytes of metadata, the limit"),
        (_stream(pa.RecordBatch.from_arrays([pa.array([1], pa.int8()).cast(pa.bool8())], ["user"])), "extension"),
        (_stream(BATCH)[len(_stream(schema=BATCH.schema)) - 8 :], "not a valid Arrow IPC stream"),
        (_stream(NULLS)[len(_stream(schema=NULLS.schema)) - 8 :], "must begin with its schema"),
        (_stream(BATCH)[: len(_stream(schema=BATCH.schema)) - 8] * 2, "where its record batch must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_one_plain_batch_is_malformed_and_says_so(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedRequest, match=reason) as caught:
        read_batch(body)
    encode(refusal(caught.value, "r"))


def test_buffers_that_overlap_are_refused_before_they_are_read() -> None:
    batch = pa.RecordBatch.from_pydict({"a": ["x" * 1000], "b": ["y" * 1000]})
    body = _stream(batch)
    body = body.replace(struct.pack("<q", 1000), struct.pack("<q", 2000), 1)
    with pytest.raises(MalformedRequest, match="overlap"):
        read_batch(body)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_request_is_one_row(rows: int) -> None:
    batch = pa.RecordBatch.from_pylist([VALID] * rows, BATCH.schema)
    with pytest.raises(InvalidRequest, match=f"has {rows} rows"):
        read_batch(_stream(batch))


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary(), pa.date32(), pa.list_view(pa.int8()), pa.map_(pa.string(), pa.int8())])
def test_types_that_json_has_not_are_refused_by_the_schema(kind: pa.DataType) -> None:
    with pytest.raises(InvalidRequest, match="types read are") as caught:
        read_batch(_stream(pa.RecordBatch.from_arrays([pa.nulls(1, kind)], ["when"])))
    assert caught.value.violations[0].path == "$.when"


def test_text_that_is_not_utf8_is_malformed() -> None:
    with pytest.raises(MalformedRequest, match=r"(?i)utf8"):
        read_batch(_stream(BATCH).replace(b"phone", b"ph\xffne"))


def test_a_stream_may_end_without_its_mark(encoder: ArrowEncoder) -> None:
    assert encoder.encode(read_batch(_stream(BATCH)[:-8])).ids.tolist() == ["a", "b 日本"]


def test_no_bytes_are_more_than_a_refusal(encoder: ArrowEncoder) -> None:
    rng = random.Random(3)
    streams = [_stream(BATCH), _stream(pa.RecordBatch.from_pylist([VALID], LARGE)), _stream(BATCH, compression="zstd")]
    refused = 0
    for _ in range(4000):
        body = bytearray(rng.choice(streams))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(body))
            match rng.randrange(4):
                case 0:
                    body[at] ^= 1 << rng.randrange(8)
                case 1:
                    body[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80"])
                case 2:
                    body[at] = rng.randrange(256)
                case _ if rng.random() < 0.2:
                    del body[at:]
                    break
        if not body:
            continue
        try:
            encoder.encode(read_batch(bytes(body)))
        except RequestError as error:
            refused += 1
            encode(refusal(error, "r"))
    assert refused > 1000  # else the mutations hit nothing


@pytest.mark.parametrize(
    ("ids", "kind", "expected"),
    [
        (["b", "日本", ""], pa.string(), ["b", "日本", ""]),
        ([2**63 - 1, -7, 0], pa.int64(), [2**63 - 1, -7, 0]),
        ([1, "b", 2], pa.string(), ["1", "b", "2"]),
        (["b", 1, 2], pa.string(), ["b", "1", "2"]),
    ],
    ids=["text", "integers", "mixed", "mixed-text-first"],
)
def test_an_answer_is_one_stream_of_ids_and_probabilities(ids: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    probabilities = np.array([[0.9, 0], [0.5, 0], [0.1, 0]], np.float32)[:, 0]  # a view with strides
    with pa.ipc.open_stream(rank_answer_arrow(Model("ads", "3"), "r-1", ids, probabilities)) as reader:
        (batch,) = list(reader)
    batch.validate(full=True)
    assert batch.schema.field("id").type == kind
    assert batch.column("id").to_pylist() == expected
    assert batch.schema.field("probability").type == pa.float32()
    np.testing.assert_array_equal(batch.column("probability").to_numpy(), probabilities)
    assert batch.schema.metadata == {b"model": b"ads", b"version": b"3"}
