"""A BentoML service some of whose routes are answered before BentoML's middleware.

BentoML wraps every request in three layers that cannot be switched off: a timeout (a task and a 30-second timer a request),
tracing (which looks at the URL even when it excludes all) and a request context. Ranking needs none of them: it runs to
its end in one step, so a timeout could not interrupt it. Together they cost more than ranking one candidate does; measured in
``docs/benchmarks/ranking.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import bentoml

from serving.services.rank_route import Message, Receive, Send


class AsgiApp(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        ...


class HotLane:
    """Answers the paths in `routes` itself and hands everything else on."""

    def __init__(self, app: AsgiApp, routes: Mapping[str, AsgiApp]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pick the application by its exact path."""
        app = self._routes.get(scope["path"], self._app) if scope["type"] == "http" else self._app
        await app(scope, receive, send)


class HotLaneService(bentoml.Service[Any]):  # type: ignore[misc]  # bentoml loads its names lazily, mypy sees Any
    """For ``@bentoml.service(service_class=…)``: routes in `hot_routes` of the decorated class go the short way."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """Wrap BentoML's application."""
        return HotLane(super().to_asgi(is_main=is_main), self.inner.hot_routes)
