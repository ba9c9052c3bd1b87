"""HTTP/1.1 for requests to a model: from the parser to the route and back, without ASGI in between.

uvicorn makes a scope, a cycle, an event and a task of each request and checks every header of the answer against two patterns. At one
candidate that is half of the time; under overload it is what a refusal costs. Here the parser's callbacks fill one small object, the
route is called when the body is there, and the answer is one write.

Whatever is not a plain POST to a model goes uvicorn's way: other paths and methods, HTTP/1.0, upgrades, ``Expect: 100-continue``.
Requests that a caller pipelines are answered in their order, one at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.contract.errors import RequestError, RequestTooLarge, ServingError
from serving.services.exchange import Header, Headers
from serving.services.front import ServiceFront
from serving.services.model_route import ModelRoute, Target

log = logging.getLogger("pilotage")


class LaneCall:
    """One request to a model on one connection; `serving.services.exchange.Call`."""

    __slots__ = (
        *("protocol", "route", "target", "method", "path", "query", "headers", "keep_alive", "began_s"),
        *("chunks", "size_bytes", "reserved_bytes", "refusal"),
    )

    def __init__(
        self, protocol: LaneProtocol, path: str, query: bytes, headers: Headers, route: ModelRoute[Any], target: Target, keep_alive: bool
    ) -> None:
        self.protocol = protocol
        self.method = "POST"
        self.path = path
        self.query = query
        self.headers = headers
        self.route = route
        self.target = target
        self.keep_alive = keep_alive
        self.began_s = time.perf_counter()
        self.chunks: list[bytes] = []
        self.size_bytes = 0
        self.reserved_bytes = 0
        self.refusal: Exception | None = None

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self.protocol.scheme or "http"

    def gone(self) -> bool:
        """Whether the caller has closed the connection."""
        return self.protocol.transport.is_closing()

    def reply(self, status: int, content: bytes, headers: Sequence[Header]) -> None:
        """Answer."""
        self.protocol.reply(self, status, content, headers)

    def prepare(self) -> None:
        """Reserve room for the body, unless the request is refused by its headers alone."""
        self.refusal = self.route.early_refusal(self.headers, self.target)
        if self.refusal is not None:
            return
        try:
            self.reserved_bytes = self.route.bounds.take(self.headers)
        except (RequestError, ServingError) as error:
            self.refusal = error

    def add(self, chunk: bytes) -> None:
        """Take a piece of the body; of a request that is refused it is dropped."""
        if self.refusal is not None:
            return
        self.size_bytes += len(chunk)
        self.chunks.append(chunk)
        try:
            self.route.bounds.require(self.size_bytes)
        except RequestTooLarge as error:
            self.refusal = error
            self.chunks.clear()

    def release(self) -> None:
        """Give back what was reserved."""
        self.route.bounds.give_back(self.reserved_bytes)
        self.reserved_bytes = 0

    def begin(self) -> None:
        """Ask the model, now that the body is whole."""
        self.release()
        refusal, self.refusal = self.refusal, None  # its traceback knows this call: kept, the two would be garbage for the collector
        if refusal is not None:
            self.route.refuse(self, refusal, self.target)
            return
        chunks = self.chunks
        self.route.answer(self, chunks[0] if len(chunks) == 1 else b"".join(chunks), self.target)


class LaneProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a short way to the models.

    Attributes
    ----------
    front
        Set by `lane_to`.
    """

    front: ClassVar[ServiceFront]

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._reading: LaneCall | None = None
        self._running: LaneCall | None = None
        self._held: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._idle_since_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have answers sent at once: a turn of the queue may run for milliseconds before the loop would send what was written.

        Under load, take in the connections that wait as well.
        """
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it to what asyncio gives
        self.transport.set_write_buffer_limits(high=0)
        connection = self.transport.get_extra_info("socket")
        if connection is not None and self.scheme == "http":
            self.front.acceptor.bring_along(connection, self._sibling)

    def _sibling(self) -> LaneProtocol:
        """A protocol for another connection to the same server."""
        return type(self)(config=self.config, server_state=self.server_state, app_state=self.app_state, _loop=self.loop)

    def on_message_begin(self) -> None:
        """Start a request; uvicorn's scope is made only when the request goes its way."""
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what uvicorn looks for in each is looked for once, in `_call`."""
        self.headers.append((name.lower(), value))

    def on_response_complete(self) -> None:
        """Go on after an answer of uvicorn's, which sets a timer of its own."""
        self._stop_timer()
        super().on_response_complete()
        self._idle_since_s = self.loop.time()

    def _unset_keepalive_if_required(self) -> None:
        """Note that the connection is in use: uvicorn calls it whenever bytes come.

        It cancels its timer there and sets another one after each answer. Ours runs out, and then sees how long the connection was idle.
        """
        self._idle_since_s = None

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for as long as it may be."""
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None:
            return  # a request is under way; after its answer the time begins anew
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._start_timer(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _start_timer(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def on_headers_complete(self) -> None:
        """Choose the way."""
        call = self._call()
        if call is None:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers.extend(headers)  # the list that is in the scope
            super().on_headers_complete()
            return
        self._reading = call
        call.prepare()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._reading is None:
            super().on_body(body)
        else:
            self._reading.add(body)

    def on_message_complete(self) -> None:
        """Ask the model, or wait until what came before on this connection is answered."""
        call, self._reading = self._reading, None
        if call is None:
            super().on_message_complete()
        elif self._running is None:
            self._start(call)
        else:
            self._hold(partial(self._start, call))

    def reply(self, call: LaneCall, status: int, content: bytes, headers: Sequence[Header]) -> None:
        """Send one answer, then go on with what was held."""
        self._running = None
        transport = self.transport
        if transport.is_closing():
            return
        keep_alive = call.keep_alive and not (self._stopping and self._reading is None and not self._held)
        parts = [STATUS_LINE[status], b"content-length: %d\r\n" % len(content)]
        if not keep_alive:
            parts.append(b"connection: close\r\n")
        for name, value in headers:
            if name == b"connection":  # routes send no other value than "close"
                if not keep_alive:
                    continue
                keep_alive = False
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", content)
        transport.write(b"".join(parts))
        self.server_state.total_requests += 1
        if not keep_alive:
            transport.close()
        elif self._held:
            self.loop.call_soon(self._next)  # not from within: a thousand held refusals must not be a thousand frames deep
        else:
            self._idle_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._start_timer(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was read and held; what runs asks `LaneCall.gone`."""
        if self._reading is not None:
            self._reading.release()
        self._reading = self._running = None
        self._held.clear()
        self._stop_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close once the answer under way is sent; called by the server when it stops."""
        self._stopping = True
        if self._running is None and self._reading is None:
            super().shutdown()

    def pause_writing(self) -> None:
        """Read nothing from a caller who does not take its answers."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        super().resume_writing()
        if not self._held:
            self.flow.resume_reading()

    def _call(self) -> LaneCall | None:
        """The request as a call of a model; None where it goes uvicorn's way."""
        parser, headers = self.parser, dict(self.headers)
        self.expect_100_continue = b"expect" in headers and headers[b"expect"].lower() == b"100-continue"
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1" or self.expect_100_continue or parser.should_upgrade():
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # behind an exchange of uvicorn's, which keeps the order itself
        path, query, found = self.front.find_url(self.url)
        if found is None or not self.front.admits(path, self.headers):
            return None
        return LaneCall(self, path, query, headers, *found, parser.should_keep_alive())

    def _start(self, call: LaneCall) -> None:
        if self.transport.is_closing():
            call.release()
            return
        self._running = call
        try:
            call.begin()
        except Exception:  # a fault of ours outside the route's own care: the caller must not wait for ever
            log.exception("request failed")
            self._running = None
            self.transport.close()

    def _start_asgi_task(self, *exchange: Any) -> None:
        if self._running is None:
            super()._start_asgi_task(*exchange)
        else:
            self._hold(partial(super()._start_asgi_task, *exchange))

    def _hold(self, start: Callable[[], None]) -> None:
        self._held.append(start)
        self.flow.pause_reading()

    def _next(self) -> None:
        if self._running is None and self._held:
            self._held.popleft()()
        if not self._held:
            self.flow.resume_reading()


def lane_to(front: ServiceFront) -> type[LaneProtocol]:
    """The protocol whose short way leads to `front`."""
    return type("LaneProtocol", (LaneProtocol,), {"front": front})
