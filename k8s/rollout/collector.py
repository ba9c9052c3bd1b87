"""Takes the copies of live requests that a router sends to the engine, while the arms of a step are asked.

Whoever sends a copy drops the answer, and some hold the user's connection until they have it: it is given as soon as the body is read,
and a slow sender is hung up on. Each connection carries one copy, so that idle ones take nobody's place.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from k8s.errors import Refused, RolloutError
from k8s.listening import CLIENT_LIMIT_S, SmallServer
from k8s.rollout.arms import ARM_HEADER
from k8s.rollout.comparing import MAX_LINE_BYTES
from k8s.rollout.copies import Copies
from k8s.rollout.questions import JSON_TYPE, Asked, comparable
from serving.contract.errors import SettingsError

MAX_CLIENTS = 16
"""At a time, each with a body of at most 16 MiB in memory. One takes milliseconds."""

LOOK_EVERY_S = 0.2
"""Between two looks for those that are too slow."""

NO_CONTENT = 204

TOO_LARGE, UNREADABLE, CUT_OFF, TOO_MANY = "too large", "unreadable", "cut off", "too many at a time"
OTHER, BY_HEADER = "neither a ranking in JSON nor a classification", "sent to an arm by header"


class Collector:
    """Listens from `begin` to `end`.

    Parameters
    ----------
    host, port
        Where; port 0 takes one that is free.
    tell
        Told the port that it listens at, and nothing when it listens no longer.
    """

    def __init__(self, host: str, port: int, tell: Callable[[Sequence[int]], None] = lambda ports: None) -> None:
        self._host, self._port, self._tell = host, port, tell
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @staticmethod
    def at(address: str) -> Collector:
        """Make one of ``HOST:PORT``.

        Raises
        ------
        SettingsError
            That is none.
        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise SettingsError(f"copies are collected at HOST:PORT, such as 0.0.0.0:8090, not at {address!r}")
        return Collector(host.strip("[]"), int(port))

    def begin(self) -> Copies:
        """Listen, and return what will come.

        Raises
        ------
        Refused
            That cannot be listened at.
        """
        self.end()
        copies = Copies()
        try:
            self._server = _Server(copies, self._host, self._port)
        except OSError as error:
            raise Refused(f"copies of live requests cannot be collected at {self._host}:{self._port}: {error}") from error
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(LOOK_EVERY_S,), name="collect copies", daemon=True)
        self._thread.start()
        self._tell([self._server.server_port])
        return copies

    def end(self) -> None:
        """Listen no longer; what came and was not asked is forgotten."""
        if self._server is None or self._thread is None:
            return
        server, self._server = self._server, None
        server.copies.close()
        with suppress(RolloutError):  # copies that go to nobody are dropped
            self._tell([])
        server.shutdown()
        server.server_close()
        server.hang_up(0.0)
        self._thread.join(CLIENT_LIMIT_S)


class _Server(SmallServer):
    block_on_close = False

    def __init__(self, copies: Copies, host: str, port: int) -> None:
        self.copies = copies
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__(host, port, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless there are too many."""
        with self._lock:
            room = len(self._open) < MAX_CLIENTS
            if room:
                self._open[request] = time.monotonic()
        if room:
            super().process_request(request, client_address)
        else:
            self.copies.leave(TOO_MANY)
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on those that are too slow; called every `LOOK_EVERY_S`."""
        self.hang_up(CLIENT_LIMIT_S)

    def hang_up(self, after_s: float) -> None:
        """End connections that have lasted longer: whoever reads them sees their end."""
        now_s = time.monotonic()
        with self._lock:
            for request, since_s in self._open.items():
                if now_s - since_s >= after_s:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)


class _Left(Exception):
    """The copy is not kept; the message says why."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = CLIENT_LIMIT_S

    def do_POST(self) -> None:
        try:
            self.server.copies.add(self._asked())
        except _Left as error:
            self.server.copies.leave(str(error))
        except OSError:
            self.server.copies.leave(CUT_OFF)
        self._answer()

    def do_GET(self) -> None:
        self.server.copies.leave(OTHER)
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests: they are users'."""

    def _answer(self) -> None:
        """End the copy, whatever became of it, and the connection, on which a part of the body may be unread."""
        self.close_connection = True
        self.send_response(NO_CONTENT)
        self.send_header("Connection", "close")
        self.end_headers()

    def _asked(self) -> Asked:
        media = self.headers.get("Content-Type") or JSON_TYPE
        plain = (self.headers.get("Content-Encoding") or "identity").strip().lower() == "identity"
        if not comparable(self.path, media) or not plain:
            raise _Left(OTHER)
        if ARM_HEADER in self.headers:  # our own, where a route does not know the header: copies of copies would never end
            raise _Left(BY_HEADER)
        return Asked(self._body(), self.headers.get("Authorization"), self.path, media)

    def _body(self) -> bytes:
        coding = self.headers.get("Transfer-Encoding")
        if coding is not None:
            return self._chunks(coding)
        given = self.headers.get("Content-Length", "")
        if not (given.isascii() and given.isdigit()):
            raise _Left(UNREADABLE)
        if len(given) > len(str(MAX_LINE_BYTES)) or int(given) > MAX_LINE_BYTES:
            raise _Left(TOO_LARGE)
        return self._read(int(given))

    def _chunks(self, coding: str) -> bytes:
        if coding.strip().lower() != "chunked":
            raise _Left(UNREADABLE)
        body = bytearray()
        while size := self._chunk_bytes():
            if len(body) + size > MAX_LINE_BYTES:
                raise _Left(TOO_LARGE)
            body += self._read(size)
            if self._read(2) != b"\r\n":
                raise _Left(UNREADABLE)
        return bytes(body)

    def _chunk_bytes(self) -> int:
        line = self.rfile.readline(256)
        found = re.fullmatch(rb"([0-9A-Fa-f]{1,8})[ \t]*(;.*)?\r?\n", line)
        if found is None:
            raise _Left(UNREADABLE if line.endswith(b"\n") or len(line) == 256 else CUT_OFF)
        return int(found[1], 16)

    def _read(self, size: int) -> bytes:
        content = self.rfile.read(size)
        if len(content) < size:
            raise _Left(CUT_OFF)
        return content
