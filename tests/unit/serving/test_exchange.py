"""Bodies are bounded before and after decompression; headers are read strictly."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence

import pytest

from serving.contract.errors import MalformedRequest, NotAcceptable, Overloaded, RequestTooLarge, UnsupportedMedia
from serving.protocol.media import negotiate
from serving.services.exchange import MAX_BUFFERED_BODIES, BodyBounds, deadline_of

LIMIT = 1000


def _read(headers: dict[bytes, bytes], *chunks: bytes, bounds: BodyBounds | None = None) -> bytes:
    """What the ways in do with a body."""
    bounds = bounds or BodyBounds(LIMIT)
    reserved_bytes = bounds.take(headers)
    body = b""
    for chunk in chunks:
        body += chunk
        bounds.require(len(body))
    bounds.give_back(reserved_bytes)
    return bounds.plain(headers, body)


@pytest.mark.parametrize("chunks", [(b"",), (b"x" * LIMIT,), (b"ab", b"", b"cd")])
def test_bodies_within_the_limit_are_whole(chunks: Sequence[bytes]) -> None:
    assert _read({}, *chunks) == b"".join(chunks)


def test_bodies_over_the_limit_are_refused_declared_or_not() -> None:
    for headers, chunks in (({b"content-length": b"1001"}, (b"",)), ({}, (b"x" * 1001,)), ({}, (b"x" * 600, b"x" * 600))):
        with pytest.raises(RequestTooLarge, match="1000"):
            _read(headers, *chunks)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [(b"gzip", gzip.compress(b"x" * LIMIT)), (b"x-gzip", gzip.compress(b"x" * LIMIT)), (b"deflate", zlib.compress(b"x" * LIMIT))],
    ids=["gzip", "x-gzip", "deflate"],
)
def test_compressed_bodies_are_inflated_up_to_the_limit(encoding: bytes, packed: bytes) -> None:
    assert _read({b"content-encoding": encoding}, packed) == b"x" * LIMIT


@pytest.mark.parametrize("size", [LIMIT + 1, 50_000_000])
def test_a_bomb_is_refused(size: int) -> None:
    packed = gzip.compress(gzip.compress(b"\0" * size)) if size > 10**6 else gzip.compress(b"\0" * size)
    inner = gzip.decompress(packed) if size > 10**6 else packed
    with pytest.raises(RequestTooLarge):
        _read({b"content-encoding": b"gzip"}, inner, bounds=BodyBounds(max(LIMIT, len(inner))))


@pytest.mark.parametrize(
    "packed",
    [b"", b"plain", gzip.compress(b"abc")[:-1], gzip.compress(b"abc") + b"x", zlib.compress(b"abc")],
    ids=["empty", "plain", "cut", "more", "zlib"],  # a gzip stream has the time in it
)
def test_damaged_compression_is_malformed(packed: bytes) -> None:
    with pytest.raises(MalformedRequest, match="gzip"):
        _read({b"content-encoding": b"gzip"}, packed)


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, gzip", b""])
def test_other_encodings_are_unsupported(encoding: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        _read({b"content-encoding": encoding}, b"x")


def test_bodies_that_are_being_read_share_one_bound() -> None:
    bounds = BodyBounds(LIMIT)
    reserved_bytes = [bounds.take({}) for _ in range(MAX_BUFFERED_BODIES)]
    assert sum(reserved_bytes) == MAX_BUFFERED_BODIES * LIMIT, "a body of unknown length counts as the largest"
    with pytest.raises(Overloaded):
        bounds.take({b"content-length": b"1"})
    bounds.give_back(reserved_bytes.pop())
    assert bounds.take({b"content-length": b"400"}) + bounds.take({b"content-length": b"600"}) == LIMIT


@pytest.mark.parametrize(("value", "wait_s"), [(b"1", 0.001), (b"250", 0.25), (b"3600000", 3600.0)])
def test_the_deadline_is_read_from_either_header(value: bytes, wait_s: float) -> None:
    for name in (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"):
        assert deadline_of({name: value}, 10.0) == pytest.approx(10 + wait_s)
    assert deadline_of({}, 10.0) == float("inf")


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"1.5", b"abc", b"3600001", b"9" * 5000, "²".encode()])
def test_a_deadline_that_is_no_number_is_refused(value: bytes) -> None:
    with pytest.raises(MalformedRequest, match="x-request-timeout-ms"):
        deadline_of({b"x-request-timeout-ms": value}, 0.0)


@pytest.mark.parametrize("accept", [None, b"*/*", b"application/json", b"text/html, application/*;q=0.5", b"application/json;q=0.1, a/b"])
def test_json_is_given_to_who_takes_it(accept: bytes | None) -> None:
    assert negotiate(accept, ("application/json",)) == "application/json"


@pytest.mark.parametrize("accept", [b"text/html", b"application/json;q=0", b"", b"\xff", b"application/json;q=x"])
def test_who_does_not_take_it_is_told(accept: bytes) -> None:
    with pytest.raises(NotAcceptable):
        negotiate(accept, ("application/json",))


def test_the_preferred_form_is_the_best_rated_and_then_the_first() -> None:
    offered = ("a/one", "a/two")
    assert negotiate(b"a/two;q=0.9, a/one;q=0.8", offered) == "a/two"
    assert negotiate(b"a/*", offered) == "a/one"
    assert negotiate(b"a/*;q=0.5, a/two", offered) == "a/two"
