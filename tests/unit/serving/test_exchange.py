"""Bodies are bounded before and after decompression; headers are read strictly."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Sequence

import pytest

from serving.contract.errors import CallerGone, MalformedRequest, NotAcceptable, Overloaded, RequestTooLarge, UnsupportedMedia
from serving.protocol.media import negotiate
from serving.services.exchange import BodyReader, Message, deadline_of

LIMIT = 1000


def _read(headers: dict[bytes, bytes], *chunks: bytes, reader: BodyReader | None = None) -> bytes:
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)} for i, chunk in enumerate(chunks)]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return asyncio.run((reader or BodyReader(LIMIT)).read(headers, receive))


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
)
def test_compressed_bodies_are_inflated_up_to_the_limit(encoding: bytes, packed: bytes) -> None:
    assert _read({b"content-encoding": encoding}, packed) == b"x" * LIMIT


@pytest.mark.parametrize("size", [LIMIT + 1, 50_000_000])
def test_a_bomb_is_refused(size: int) -> None:
    packed = gzip.compress(gzip.compress(b"\0" * size)) if size > 10**6 else gzip.compress(b"\0" * size)
    inner = gzip.decompress(packed) if size > 10**6 else packed
    with pytest.raises(RequestTooLarge):
        _read({b"content-encoding": b"gzip"}, inner, reader=BodyReader(max(LIMIT, len(inner))))


@pytest.mark.parametrize("packed", [b"", b"plain", gzip.compress(b"abc")[:-1], gzip.compress(b"abc") + b"x", zlib.compress(b"abc")])
def test_damaged_compression_is_malformed(packed: bytes) -> None:
    with pytest.raises(MalformedRequest, match="gzip"):
        _read({b"content-encoding": b"gzip"}, packed)


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, gzip", b""])
def test_other_encodings_are_unsupported(encoding: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        _read({b"content-encoding": encoding}, b"x")


def test_a_caller_that_leaves_is_not_answered() -> None:
    with pytest.raises(CallerGone):
        _read({}, *())


def test_bodies_that_are_being_read_share_one_bound() -> None:
    async def hold(reader: BodyReader, count: int) -> list[BaseException | bytes]:
        gate = asyncio.Event()

        async def receive() -> Message:
            await gate.wait()
            return {"type": "http.request", "body": b"x"}

        reads = [asyncio.create_task(reader.read({}, receive)) for _ in range(count)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*reads, return_exceptions=True)

    reader = BodyReader(LIMIT)
    answers = asyncio.run(hold(reader, 70))
    assert answers.count(b"x") == 64
    assert sum(isinstance(answer, Overloaded) for answer in answers) == 6
    assert asyncio.run(hold(reader, 64)).count(b"x") == 64  # all was given back


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
