"""Tiny HTTP services in threads of the test's process: what stands behind a proxy where no model is needed."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Upstream:
    """Answers every request with its name; `healthy` is what it says of itself under ``/readyz``. `gone` refuses all of them."""

    name: str
    healthy: bool = True
    gone: bool = False
    port: int = 0
    requests: int = 0
    headers: list[Mapping[str, str]] = field(default_factory=list)


@contextmanager
def upstream(name: str) -> Iterator[Upstream]:
    state = Upstream(name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer, or the other side waits 40 ms to acknowledge the first
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path == "/readyz":
                self._answer(200 if state.healthy else 503, b"")
            else:
                state.requests += 1
                state.headers.append(dict(self.headers))
                self._answer(503 if state.gone else 200, state.name.encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            if "transfer-encoding" in self.headers:
                while size := int(self.rfile.readline(), 16):
                    self.rfile.read(size + 2)
                self.rfile.readline()
            self.do_GET()

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass(frozen=True)
class Answer:
    status: int
    body: str
    headers: Mapping[str, str]


class Caller:
    """A keep-alive connection to a port of loopback."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def get(self, path: str = "/", **headers: str) -> Answer:
        self._connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = self._connection.getresponse()
        return Answer(answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()})

    def close(self) -> None:
        self._connection.close()


@contextmanager
def meanwhile(do: Callable[[Callable[[], bool]], None]) -> Iterator[None]:
    """Do something in a thread, given what says whether the block has ended."""
    stop = threading.Event()
    thread = threading.Thread(target=do, args=(stop.is_set,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


@contextmanager
def asking(port: int, path: str = "/", pause_s: float = 0.0, visit: int = 1) -> Iterator[Counter[tuple[int, str]]]:
    """Ask one request after the other, with a pause, until the block ends; counts by status and body.

    Cookies are sent back for `visit` requests, and then forgotten.
    """
    counts: Counter[tuple[int, str]] = Counter()

    def ask(is_over: Callable[[], bool]) -> None:
        caller, cookie = Caller(port), ""
        while not is_over():
            answer = caller.get(path, **({"cookie": cookie} if cookie else {}))
            counts[answer.status, answer.body] += 1
            leaves = sum(counts.values()) % visit == 0
            cookie = "" if leaves else answer.headers.get("set-cookie", cookie).partition(";")[0]
            time.sleep(pause_s)
        caller.close()

    with meanwhile(ask):
        yield counts
