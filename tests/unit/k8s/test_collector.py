"""Copies of live requests: what is taken, what is left, and that none is kept beyond its bounds."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from k8s.errors import Refused, Unavailable
from k8s.rollout import collector as module
from k8s.rollout.collector import OTHER, Collector
from k8s.rollout.copies import Copies
from k8s.rollout.questions import Asked
from serving.contract.errors import SettingsError

LIMIT_S = 10.0
RANKING = b'{"user": {"id": 7}, "candidates": [{"id": 1}, {"id": 2}], "top_k": 1}'
FOR_ALL = {"user": {"id": 7}, "candidates": [{"id": 1}, {"id": 2}]}


def until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


class Rig:
    def __init__(self) -> None:
        self.told: list[list[int]] = []
        self.collector = Collector("127.0.0.1", 0, lambda ports: self.told.append(list(ports)))
        self.copies = self.collector.begin()
        (self.port,) = self.told[0]

    def send(self, body: bytes | Iterator[bytes] | None = RANKING, path: str = "/v1/rank", method: str = "POST", **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            return connection.getresponse().status
        finally:
            connection.close()

    def raw(self, content: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S)
        connection.sendall(content)
        return connection

    def drawn(self) -> Asked | None:
        """What waits, if anything does; nothing is taken afterwards."""
        if not self.copies._waiting:
            return None
        return next(self.copies.draw(1))

    def left(self) -> str:
        return str(self.copies)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.collector.end()
    assert rig.told[-1] == []


def test_a_copy_is_taken_with_its_token_and_asks_for_all_candidates(rig: Rig) -> None:
    assert rig.send(content_type="application/json; charset=utf-8", authorization="Bearer abc") == 204
    found = rig.drawn()
    assert found is not None
    assert (json.loads(found.body), found.authorization) == (FOR_ALL, "Bearer abc")


def test_a_body_in_chunks_is_taken_whole(rig: Rig) -> None:
    assert rig.send(iter([RANKING[:5], RANKING[5:6], RANKING[6:]])) == 204
    found = rig.drawn()
    assert found is not None
    assert json.loads(found.body) == FOR_ALL


def test_a_model_may_be_named(rig: Rig) -> None:
    assert rig.send(path="/v1/models/ads/rank") == 204
    found = rig.drawn()
    assert found is not None
    assert (found.path, json.loads(found.body)) == ("/v1/models/ads/rank", FOR_ALL)


@pytest.mark.parametrize("media", ["application/json", "multipart/form-data; boundary=x", "Image/JPEG"])
def test_a_classification_is_taken_as_it_was_asked(rig: Rig, media: str) -> None:
    assert rig.send(b"\xff\xd8 and more", "/v1/classify?label=a%20cat&label=a+dog", content_type=media, authorization="Bearer abc") == 204
    assert rig.drawn() == Asked(b"\xff\xd8 and more", "Bearer abc", "/v1/classify?label=a%20cat&label=a+dog", media)


@pytest.mark.parametrize(
    ("path", "method", "headers", "why"),
    [
        ("/v2/models/ranker/infer", "POST", {}, OTHER),
        ("/v1/ranking", "POST", {}, OTHER),
        ("/v1/models/a/b/rank", "POST", {}, OTHER),
        ("/v1/rank", "GET", {}, OTHER),
        ("/v1/rank", "POST", {"content_type": "application/vnd.apache.arrow.stream"}, OTHER),
        ("/v1/rank", "POST", {"content_type": "image/png"}, OTHER),
        ("/v1/rank", "POST", {"content_encoding": "gzip"}, OTHER),
        ("/v1/classify", "POST", {"content_type": "text/plain"}, OTHER),
        ("/v1/label-sets/animals", "POST", {}, OTHER),
        ("/v1/rank", "POST", {"x_pilotage_arm": "canary"}, "sent to an arm by header"),
    ],
)
def test_what_cannot_be_compared_is_counted_answered_and_left(rig: Rig, path: str, method: str, headers: dict[str, str], why: str) -> None:
    assert rig.send(RANKING if method == "POST" else None, path, method, **headers) == 204
    assert rig.left() == f"1 copies of live requests, 1 left: {why}"
    assert rig.drawn() is None


def test_a_body_beyond_the_bound_is_not_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", len(RANKING))
    assert rig.send() == 204
    for body in (
        b"POST /v1/rank HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (len(RANKING) + 1),
        b"POST /v1/rank HTTP/1.1\r\nContent-Length: 9%030d\r\n\r\n" % 0,
    ):
        with rig.raw(body) as connection:  # of the body nothing was sent, nor is it waited for
            assert connection.recv(100).startswith(b"HTTP/1.1 204")
    assert rig.send(iter([RANKING, b" "])) == 204
    assert rig.left() == "4 copies of live requests, 3 left: too large"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v1/rank HTTP/1.1\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx",
        b"POST /v1/rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz",
        b"POST /v1/rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 300,
    ],
)
def test_a_body_without_a_readable_length_is_left(rig: Rig, request_: bytes) -> None:
    with rig.raw(request_) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 204")
    assert rig.left() == "1 copies of live requests, 1 left: unreadable"


def test_a_copy_that_ends_too_early_is_left(rig: Rig) -> None:
    rig.raw(b"POST /v1/rank HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc").close()
    until(lambda: "1 left: cut off" in rig.left(), "nobody noticed")


def test_slow_senders_are_hung_up_on_and_hold_up_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_LIMIT_S", 2.0)
    slow = [rig.raw(start) for start in (b"POST /v1/rank HTTP/1.1\r\nContent-Length: 10\r\n\r\na", b"POST /v1/ra", b"")]
    assert rig.send() == 204
    for connection in slow:
        while connection.recv(100):
            pass
        connection.close()
    assert rig.copies._waiting


def test_more_than_a_few_at_a_time_are_turned_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 2)
    waiting = [rig.raw(b"POST") for _ in range(2)]
    until(lambda: len(rig.collector._server._open) == 2, "they are not served")  # type: ignore[union-attr]
    with rig.raw(b"") as third:
        assert third.recv(100) == b""
    assert rig.left() == "1 copies of live requests, 1 left: too many at a time"
    for connection in waiting:
        connection.close()
    until(lambda: not rig.collector._server._open, "their places are not given back")  # type: ignore[union-attr]
    assert rig.send() == 204


def test_it_listens_no_longer_than_it_is_asked_to(rig: Rig) -> None:
    with rig.raw(b"POST /v1/rank HTTP/1.1\r\n") as connection:
        until(lambda: bool(rig.collector._server._open), "it is not served")  # type: ignore[union-attr]
        rig.collector.end()
        assert connection.recv(100) == b""
    with pytest.raises(OSError):
        rig.send()
    assert rig.told[-1] == []
    again = rig.collector.begin()
    (rig.port,) = rig.told[-1]
    assert rig.send() == 204
    assert again.came == 1


def test_a_place_that_is_taken_is_refused_and_a_proxy_that_is_away_holds_up_no_end() -> None:
    def away(ports: Sequence[int]) -> None:
        if not ports:
            raise Unavailable("no proxy")

    first = Collector("127.0.0.1", 0, away)
    first.begin()
    assert first._server is not None
    try:
        with pytest.raises(Refused, match=r"cannot be collected at 127\.0\.0\.1"):
            Collector("127.0.0.1", first._server.server_port).begin()
    finally:
        first.end()


@pytest.mark.parametrize(("address", "found"), [("0.0.0.0:8090", ("0.0.0.0", 8090)), ("[::]:8090", ("::", 8090))])
def test_it_is_told_where_to_listen(address: str, found: tuple[str, int]) -> None:
    made = Collector.at(address)
    assert (made._host, made._port) == found


@pytest.mark.parametrize("address", ["8090", ":8090", "here:", "here:http", "here:0", "here:65536"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        Collector.at(address)


def test_nothing_of_a_copy_is_shown(rig: Rig, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = b'{"candidates": [{"id": "hush"}]}'
    assert rig.send(secret, authorization="Bearer hush") == 204
    assert rig.send(secret, "/v2/hush", authorization="Bearer hush") == 204
    assert rig.send(secret, "/v1/classify?label=hush", authorization="Bearer hush", content_type="image/hush") == 204
    with rig.raw(b"hush\r\n\r\n") as connection:
        connection.recv(1000)
    found = rig.drawn()
    assert "hush" not in f"{found!r} {found} {rig.copies} {rig.copies!r}"
    assert "hush" not in "".join(capfd.readouterr()) + caplog.text


# Those that wait.


def test_of_too_many_the_oldest_goes_and_is_counted() -> None:
    copies = Copies(most=3)
    for number in range(5):
        copies.add(Asked(json.dumps({"candidates": [number]}).encode()))
    assert str(copies) == "5 copies of live requests, 2 left: more than are compared"
    drawn = {asked.body for asked in copies.draw(3)}
    assert drawn == {json.dumps({"candidates": [number]}).encode() for number in (2, 3, 4)}


def test_bytes_are_bounded_too() -> None:
    copies = Copies(most_bytes=100)
    for number in range(4):
        copies.add(Asked(json.dumps({"candidates": [number], "more": "x" * 20}).encode()))
        assert sum(len(asked.body) for asked in copies._waiting) <= 100
    copies.add(Asked(b"x" * 101))
    assert copies._waiting == []


def test_which_are_asked_is_chance_and_no_order() -> None:
    firsts = set()
    for _ in range(60):
        copies = Copies()
        for number in range(3):
            copies.add(Asked(json.dumps({"candidates": [number + 1]}).encode()))
        firsts.add(next(copies.draw(1)).body)
    assert len(firsts) == 3  # one of three is missed by 60 draws once in 10^10


@pytest.mark.parametrize("body", [b"no JSON", b"[1]", b"{}", b'{"candidates": []}', b"[" * 100_000, b'{"n": 1' + b"0" * 5000 + b"}"])
def test_what_is_no_ranking_request_is_counted_and_passed_over(body: bytes) -> None:
    copies = Copies()
    copies.add(Asked(body))
    drawing = copies.draw(1)
    found: list[Asked] = []
    thread = threading.Thread(target=lambda: found.extend(drawing))
    thread.start()
    until(lambda: "without candidates" in str(copies), "it is not passed over")
    copies.add(Asked(RANKING))
    thread.join(LIMIT_S)
    assert [json.loads(asked.body) for asked in found] == [FOR_ALL]


def test_who_waits_for_copies_is_let_go_at_the_end_and_what_waits_is_forgotten() -> None:
    copies = Copies()
    found: list[Asked] = []
    thread = threading.Thread(target=lambda: found.extend(copies.draw(5)))
    thread.start()
    copies.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    copies.add(Asked(RANKING))
    assert (found, copies._waiting) == ([], [])
    assert str(copies) == "1 copies of live requests, 1 left: more than are compared"
