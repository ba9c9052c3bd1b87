"""The short way from the parser to a model: one answer for each request, in order, whatever a caller sends in whatever pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from serving.contract.bundle import Bundle
from serving.services.catalog import Catalog
from serving.services.exchange import MAX_BUFFERED_BODIES
from serving.services.front import MAX_URLS, ServiceFront
from serving.services.lane_protocol import LaneProtocol, lane_to
from serving.services.settings import ServiceSettings

BODY = json.dumps({"context": {"device": "phone"}, "candidates": [{"id": f"item-{i}"} for i in range(3)]}).encode()
MAX_BODY_BYTES = 2048


class Wire(asyncio.Transport):
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.sent.split(b"HTTP/1.1 ")[1:]]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """What is behind the short way: it takes a moment and answers 204."""
    await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def front(tiny_bundle: Bundle) -> ServiceFront:
    settings = ServiceSettings(
        bundle=str(tiny_bundle.path), threads=1, max_candidates=50, max_body_bytes=MAX_BODY_BYTES, objective_ms=60_000
    )
    catalog = Catalog()
    front = ServiceFront(catalog)
    front.open(settings)
    catalog.load(settings)
    return front


def _talk(front: ServiceFront, talk: Callable[[LaneProtocol, Wire], Coroutine[Any, Any, None]]) -> Wire:
    async def main() -> Wire:
        config = Config(_app, log_config=None, factory=False)
        config.load()
        protocol = lane_to(front)(config, ServerState(), {})
        wire = Wire()
        protocol.connection_made(wire)
        await talk(protocol, wire)
        if not wire.closed:
            protocol.connection_lost(None)
        return wire

    return asyncio.run(main())


def _request(body: bytes = BODY, path: str = "/v1/rank", *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: test", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _until(wire: Wire, answers: int) -> None:
    for _ in range(500):
        if len(wire.statuses) >= answers:
            return
        await asyncio.sleep(0.002)
    pytest.fail(f"{len(wire.statuses)} answers instead of {answers}: {wire.sent!r}")


def _ids(wire: Wire) -> list[str]:
    return [line.split(b": ")[1].decode() for line in wire.sent.split(b"\r\n") if line.startswith(b"x-request-id")]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_request_may_come_in_pieces(front: ServiceFront, size: int) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        request = _request()
        for start in range(0, len(request), size):
            protocol.data_received(request[start : start + size])
        await _until(wire, 1)

    wire = _talk(front, talk)
    head, _, body = wire.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert len(json.loads(body)["ranking"]) == 3


def test_pipelined_requests_are_answered_in_their_order_whichever_way_they_go(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        ids = [f"x-request-id: r{i}" for i in range(4)]
        protocol.data_received(
            _request(BODY, "/v1/rank", ids[0])
            + _request(b"{}", "/v1/rank", ids[1])
            + _request(b"", "/metrics", method="GET")
            + _request(BODY, "/v1/rank", ids[3])
        )
        await _until(wire, 4)

    wire = _talk(front, talk)
    assert wire.statuses == [200, 422, 204, 204], "behind an exchange of uvicorn's, a request goes the same way"
    assert _ids(wire) == ["r0", "r1"]
    assert wire.reading


def test_a_flood_of_pipelined_refusals_is_answered_without_a_deep_stack(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(_request(BODY) + _request(b"[]") * 3000)
        await _until(wire, 3001)

    assert _talk(front, talk).statuses == [200] + [422] * 3000


def test_what_is_no_plain_post_goes_the_long_way(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        for number, request in enumerate(
            (_request(method="PUT"), _request(path="/v1/elsewhere"), _request(BODY, "/v1/rank", "expect: 100-continue")), 1
        ):
            protocol.data_received(request)
            await _until(wire, number)

    assert _talk(front, talk).statuses == [204, 204, 204]


def test_bodies_without_a_length_are_read_to_their_end_and_bounded(front: ServiceFront) -> None:
    def chunked(*chunks: bytes) -> bytes:
        head = b"POST /v1/rank HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n"
        return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"

    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(chunked(BODY[:10], BODY[10:]))
        await _until(wire, 1)
        protocol.data_received(chunked(*[b"x" * 1000] * 5))
        await _until(wire, 2)

    assert _talk(front, talk).statuses == [200, 413]


def test_too_large_a_body_is_refused_and_the_connection_goes_on(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(_request(b"x" * (MAX_BODY_BYTES + 1)))
        protocol.data_received(_request())
        await _until(wire, 2)

    assert _talk(front, talk).statuses == [413, 200]


def test_callers_who_leave_in_the_middle_of_a_body_give_its_room_back(front: ServiceFront) -> None:
    async def leave(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(_request(b"x" * MAX_BODY_BYTES)[:-1])

    for _ in range(2 * MAX_BUFFERED_BODIES):
        assert _talk(front, leave).statuses == []

    async def stay(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(_request())
        await _until(wire, 1)

    assert _talk(front, stay).statuses == [200]


def test_a_caller_who_left_is_not_run_and_not_answered(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(_request())
        wire.close()
        protocol.connection_lost(None)
        await asyncio.sleep(0.02)

    assert _talk(front, talk).sent == b""


def test_who_asks_for_it_and_who_is_stopped_gets_the_connection_closed(front: ServiceFront) -> None:
    async def asks(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(_request(BODY, "/v1/rank", "connection: close"))
        await _until(wire, 1)

    async def stopped(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(_request())
        protocol.shutdown()
        assert not wire.closed, "an answer is under way"
        await _until(wire, 1)

    for talk in (asks, stopped):
        wire = _talk(front, talk)
        assert wire.statuses == [200]
        assert wire.sent.count(b"connection: close\r\n") == 1
        assert wire.closed


def test_an_idle_connection_is_closed_when_the_server_stops(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(_request())
        await _until(wire, 1)
        protocol.shutdown()

    assert _talk(front, talk).closed


@pytest.mark.parametrize("path", ["/v1/rank", "/metrics"])
def test_a_connection_is_closed_when_it_was_idle_for_long_and_not_while_it_is_used(front: ServiceFront, path: str) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.timeout_keep_alive = 0.2
        for answers in range(1, 7):  # 0.3 s in all: longer than a connection may be idle
            protocol.data_received(_request(path=path))
            await _until(wire, answers)
            await asyncio.sleep(0.05)
        assert not wire.closed
        protocol.data_received(_request()[:-1])
        await asyncio.sleep(0.4)
        assert not wire.closed, "a request is under way"
        protocol.data_received(_request()[-1:])
        await _until(wire, 7)
        for _ in range(500):
            if wire.closed:
                return
            await asyncio.sleep(0.01)

    assert _talk(front, talk).closed


def test_any_number_of_paths_may_be_asked(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        for number in range(1, MAX_URLS + 3):
            protocol.data_received(_request(path=f"/v1/models/none-{number}/rank"))
        await _until(wire, MAX_URLS + 2)
        protocol.data_received(_request(path="/v1/models/tin%79/rank?trace=1"))
        await _until(wire, MAX_URLS + 3)

    assert _talk(front, talk).statuses == [404] * (MAX_URLS + 2) + [200]


def test_nothing_is_read_from_a_caller_who_takes_no_answers(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.pause_writing()
        assert not wire.reading
        protocol.resume_writing()
        assert wire.reading

    _talk(front, talk)


def test_what_is_no_http_is_told_so(front: ServiceFront) -> None:
    async def talk(protocol: LaneProtocol, wire: Wire) -> None:
        protocol.data_received(b"\x16\x03\x01 hello\r\n\r\n")

    wire = _talk(front, talk)
    assert wire.statuses == [400]
    assert wire.closed
