"""What stands before all routes: the token, and the short way to the models."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from typing import NamedTuple

import httptools

from serving.monitoring.tracing import RequestTracer, open_tracer
from serving.services.accepting import Acceptor
from serving.services.catalog import Catalog
from serving.services.exchange import BodyBounds, Header
from serving.services.routes import Bounds, Found, ModelRoutes
from serving.services.settings import ServiceSettings
from serving.services.token import TokenGate
from serving.services.ui import PAGE_FILES

MAX_BUFFERED_UPLOADS = 8
"""With the default bound they are 256 MiB together."""

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", *PAGE_FILES})
"""Asked by the kubelet and by Prometheus, which have no token, and by people who enter one; they tell nothing of requests or weights."""

MAX_URLS = 1024
"""Of whose path, query and route are remembered: callers of a model send the same ones again and again."""

MAX_URL_BYTES = 256
"""Of one that is remembered: labels in a query may be long."""


class Located(NamedTuple):
    """Where a request goes.

    Attributes
    ----------
    path, query
        The path is percent-decoded, the query is not.
    found
        None where no model is asked.
    """

    path: str
    query: bytes
    found: Found | None


class ServiceFront:
    """The front of one worker; it lets nobody in before `open`."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._routes = ModelRoutes(catalog, Bounds(BodyBounds(0), BodyBounds(0)))
        self._gate: TokenGate | None = None
        self._tracer: RequestTracer | None = None
        self._urls: dict[bytes, Located] = {}
        self.acceptor = Acceptor(lambda: catalog.is_busy)

    def open(self, settings: ServiceSettings) -> None:
        """Read the tokens, set the bounds, begin to trace.

        Raises
        ------
        SettingsError
            The token file cannot be used, or the exporter of traces is not installed.
        """
        bounds = Bounds(
            BodyBounds(settings.max_body_bytes),
            BodyBounds(settings.max_upload_bytes, MAX_BUFFERED_UPLOADS, "send smaller or fewer images, or fewer labels, a request"),
        )
        self._tracer = open_tracer(settings.trace_sample_rate)
        self._routes = ModelRoutes(self._catalog, bounds, self._tracer)
        self._urls.clear()
        self._gate = TokenGate(settings.token_file) if settings.token_file is not None else None

    def close(self) -> None:
        """Export the traces that are left."""
        if self._tracer is not None:
            self._tracer.shutdown()

    def find(self, path: str) -> Found | None:
        """Return the route that answers `path` and the model that it names; None where no model is asked."""
        return self._routes.find(path)

    def find_url(self, url: bytes) -> Located:
        """The path of a request's target, percent-decoded, its query, and its route as from `find`.

        Raises
        ------
        httptools.HttpParserInvalidURLError
            It is none.
        """
        known = self._urls.get(url)
        if known is None:
            parsed = httptools.parse_url(url)
            path: str = parsed.path.decode("ascii")
            if "%" in path:
                path = urllib.parse.unquote(path)
            known = Located(path, parsed.query or b"", self._routes.find(path))
            if len(url) <= MAX_URL_BYTES:
                if len(self._urls) >= MAX_URLS:
                    self._urls.clear()
                self._urls[url] = known
        return known

    def admits(self, path: str, headers: Iterable[Header]) -> bool:
        """Whether the request shows what it must."""
        return self._gate is None or path in OPEN_PATHS or self._gate.allows(headers)
