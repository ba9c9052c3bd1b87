"""A BentoML service some of whose routes are answered before BentoML's middleware.

BentoML wraps every request in three layers that cannot be switched off: a timeout (a task and a 30-second timer a request),
tracing (which looks at the URL even when it excludes all) and a request context. Asking a model needs none of them: what takes too
long is refused by the queue. Together they cost more than ranking one candidate does; measured in ``docs/benchmarks/ranking.md``.

What goes BentoML's way runs in a task with an empty context. The server starts each request of a connection in a copy of the last
one's context, so what BentoML sets there would make a chain that grows with every scrape of ``/metrics`` (CPython #140947).
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, Protocol

import bentoml

from serving.contract.errors import Unauthorized
from serving.protocol.answers import encode, refusal
from serving.protocol.media import JSON
from serving.services.exchange import REQUEST_ID_HEADER, AsgiApp, Message, Receive, Send, request_id_of, respond


class Front(Protocol):
    """What the hot lane needs to know of a service."""

    def find(self, path: str) -> AsgiApp | None:
        """Return the application that answers `path` the short way."""
        ...

    def admits(self, scope: Message) -> bool:
        """Whether the request shows what it must."""
        ...


class HotLane:
    """Answers what `front` finds itself and hands everything else on."""

    def __init__(self, app: AsgiApp, front: Front) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pick the application by its path."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._front.admits(scope):
            await _refuse(scope, send)
            return
        app = self._front.find(scope["path"])
        if app is not None:
            await app(scope, receive, send)
        else:
            await asyncio.create_task(self._app(scope, receive, send), context=contextvars.Context())


class HotLaneService(bentoml.Service[Any]):  # type: ignore[misc]  # bentoml loads its names lazily, mypy sees Any
    """For ``@bentoml.service(service_class=…)``: what the decorated class's `front` finds goes the short way."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """Wrap BentoML's application."""
        return HotLane(super().to_asgi(is_main=is_main), self.inner.front)


async def _refuse(scope: Message, send: Send) -> None:
    request_id = request_id_of(dict(scope["headers"]))
    error = Unauthorized("this service wants a bearer token that it knows: send the header Authorization: Bearer TOKEN")
    extra = [(REQUEST_ID_HEADER, request_id.encode()), (b"www-authenticate", b"Bearer")]
    await respond(send, error.status, encode(refusal(error, request_id)), JSON.encode(), extra)
