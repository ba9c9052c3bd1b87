"""The benchmarks' client: counts what it sends and gets, keeps to its times, and says when a server misbehaves."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.load_client import Load, LoadFailed, prepare

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def _server(*answers: bytes) -> Iterator[int]:
    """Answers each request of each connection with the next of `answers`, again from the first after the last."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            number = 0
            while chunk := connection.recv(65536):
                for _ in range(chunk.count(b"POST ")):
                    connection.sendall(answers[number % len(answers)])
                    number += 1

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_closed_loop_asks_again_as_soon_as_it_is_answered() -> None:
    with _server(OK) as port, Load(port, prepare("/", [b"a", b"b"]), 3) as load:
        outcome = load.closed(0.2)
    assert outcome.sent == outcome.answered == len(outcome.latencies_s[200]) > 10
    assert outcome.rate() == outcome.sent / 0.2


def test_an_open_loop_sends_what_its_rate_says_whatever_comes_back() -> None:
    with _server(OK, BUSY) as port, Load(port, prepare("/", [b"a"])) as load:
        outcome = load.opened(300, 0.5, most_connections=20, seed=3)
        again = load.opened(300, 0.1, most_connections=20, seed=3)
    assert 100 < outcome.sent < 210  # Poisson with mean 150: five standard deviations
    assert set(outcome.latencies_s) == {200, 503}
    assert outcome.retry_after == {200: 0, 503: len(outcome.latencies_s[503])}
    assert outcome.answered == outcome.sent == len(outcome.gaps_s)
    assert again.answered == again.sent, "the connections live on"


@pytest.mark.parametrize(("answer", "told"), [(b"HTTP/1.1 200 OK\r\n\r\n", "no Content-Length")])
def test_what_is_no_answer_is_told(answer: bytes, told: str) -> None:
    with _server(answer) as port, Load(port, prepare("/", [b"a"])) as load, pytest.raises(LoadFailed, match=told):
        load.closed(0.2)
