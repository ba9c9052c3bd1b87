"""A BentoML service whose models are asked on a short way, before BentoML's middleware and uvicorn's ASGI.

BentoML wraps every request in three layers that cannot be switched off: a timeout (a task and a 30-second timer a request),
tracing (which looks at the URL even when it excludes all) and a request context. Asking a model needs none of them: what takes too
long is refused by the queue. Together they cost more than ranking one candidate does; measured in ``docs/benchmarks/ranking.md``.

What goes BentoML's way runs in a task with an empty context. The server starts each request of a connection in a copy of the last
one's context, so what BentoML sets there would make a chain that grows with every scrape of ``/metrics`` (CPython #140947).
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Sequence

from serving.contract.errors import CallerGone, RequestError, ServingError, Unauthorized
from serving.protocol.answers import encode, refusal
from serving.protocol.media import JSON
from serving.services.exchange import (
    REQUEST_ID_HEADER,
    AsgiApp,
    BodyBounds,
    Header,
    Headers,
    Message,
    Receive,
    Send,
    request_id_of,
    respond,
)
from serving.services.front import ServiceFront
from serving.services.routes import Found

Reply = tuple[int, bytes, Sequence[Header]]


class AsgiCall:
    """One request to a model that came by ASGI: behind another server, or not a plain POST; `serving.services.exchange.Call`."""

    def __init__(self, scope: Message) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.scheme: str = scope.get("scheme", "http")
        self.headers: Headers = dict(scope["headers"])
        self.began_s = time.perf_counter()
        self.replied: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def gone(self) -> bool:
        """Whether nobody waits any more: servers tell by cancelling, if at all."""
        return self.replied.cancelled()

    def reply(self, status: int, content: bytes, headers: Sequence[Header]) -> None:
        """Answer."""
        if not self.replied.done():
            self.replied.set_result((status, content, headers))


OWN_PATHS = ("/v1/", "/v2/")
"""Ours alone: what is not found below them is told in our words, not in BentoML's."""


class HotLane:
    """Answers what `front` finds itself and hands everything else on.

    Parameters
    ----------
    app
        BentoML's application, ours mounted in it.
    own
        Our application.
    """

    def __init__(self, app: AsgiApp, own: AsgiApp, front: ServiceFront) -> None:
        self._app = app
        self._own = own
        self._front = front

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pick the application by its path."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._front.admits(scope["path"], scope["headers"]):
            await _refuse(scope, send)
            return
        found = self._front.find(scope["path"])
        if found is not None:
            await _ask(found, scope, receive, send)
        else:
            app = self._own if scope["path"].startswith(OWN_PATHS) else self._app
            await asyncio.create_task(_run(app, scope, receive, send), context=contextvars.Context())


async def _run(app: AsgiApp, scope: Message, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


async def _ask(found: Found, scope: Message, receive: Receive, send: Send) -> None:
    route, target = found
    call = AsgiCall(scope)
    try:
        body = await _read(call, receive, route.bounds)
    except CallerGone:
        return
    except (RequestError, ServingError) as error:
        route.refuse(call, error, target)
    else:
        route.answer(call, body, target)
    status, content, headers = await call.replied
    await respond(send, status, content, headers)


async def _read(call: AsgiCall, receive: Receive, bounds: BodyBounds) -> bytes:
    """Read a whole body within its bounds.

    Raises
    ------
    RequestTooLarge, Overloaded
        As `BodyBounds` says.
    CallerGone
        The connection was closed before the end.
    """
    if call.method != "POST":
        return b""
    reserved_bytes = bounds.take(call.headers)
    chunks: list[bytes] = []
    size_bytes = 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerGone("the caller closed the connection while it sent the body")
            chunks.append(message.get("body", b""))
            size_bytes += len(chunks[-1])
            bounds.require(size_bytes)
            if not message.get("more_body", False):
                return b"".join(chunks)
    finally:
        bounds.give_back(reserved_bytes)


async def _refuse(scope: Message, send: Send) -> None:
    request_id = request_id_of(dict(scope["headers"]))
    error = Unauthorized("this service wants a bearer token that it knows: send the header Authorization: Bearer TOKEN")
    headers = [(b"content-type", JSON.encode()), (REQUEST_ID_HEADER, request_id.encode()), (b"www-authenticate", b"Bearer")]
    await respond(send, error.status, encode(refusal(error, request_id)), headers)
