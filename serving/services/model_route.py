"""The routes that ask a model, as bare ASGI: the hot path, with no framework between the socket and the graph.

One request goes: admit → read → decode → features → queue → run → encode. Nothing is spent on a request before it is admitted
but reading it, and nothing in here sets a context variable or leaves a reference behind, so that a connection that lives for
millions of requests holds what it held after the first (CPython #140947).
"""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Mapping
from typing import ClassVar

from serving.contract.errors import CallerGone, DeadlineExceeded, NotReady, Overloaded, RequestError, ServingError, UnsupportedMedia
from serving.protocol.answers import encode, failure, refusal
from serving.protocol.media import JSON, media_type, negotiate
from serving.services.catalog import Catalog, ServedModel
from serving.services.exchange import (
    REQUEST_ID_HEADER,
    AsgiApp,
    BodyReader,
    Headers,
    Message,
    Receive,
    Send,
    deadline_of,
    has_left,
    request_id_of,
    respond,
)
from serving.services.forms import Form, Written

log = logging.getLogger("pilotage")

RETRY_AFTER = (b"retry-after", b"1")
"""The header's unit is the second: an overload of milliseconds is over by then, a longer one is told again at little cost."""

_RANK = re.compile(r"/v1/models/([^/]+)/rank")


class ModelRoute:
    """What the routes have in common.

    Parameters
    ----------
    catalog
        Filled in when the worker has started.
    reader
        Reads bodies.
    """

    media: ClassVar[bytes] = JSON.encode()

    def __init__(self, catalog: Catalog, reader: BodyReader) -> None:
        self._catalog = catalog
        self._reader = reader

    async def __call__(self, scope: Message, receive: Receive, send: Send, *, name: str | None = None) -> None:
        """Answer one request to the model called `name`, or to the first one."""
        began = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = request_id_of(headers)
        extra = [(REQUEST_ID_HEADER, request_id.encode())]
        if self._catalog.draining:
            extra.append((b"connection", b"close"))
        model: ServedModel | None = None
        try:
            if scope["method"] != "POST":
                content = self.failure("method_not_allowed", f"this route takes POST, not {scope['method']}", request_id)
                await respond(send, 405, content, self.media, [*extra, (b"allow", b"POST")])
                return
            model = self._catalog.find(name)
            written = await self._ask(model, headers, receive, request_id, began)
        except CallerGone:
            if model is not None:
                model.metrics.shed("gone")
            return
        except Exception as error:
            status, content = self.refuse(error, request_id)
            if model is not None:
                self._count(model, error, status, time.perf_counter() - began)
            if status == 503:
                extra.append(RETRY_AFTER)
            await respond(send, status, content, self.media, extra)
            return
        await respond(send, 200, written.content, written.media, (*extra, *written.headers))

    def form(self, model: ServedModel, headers: Headers) -> Form:
        """Choose the form of the body; raises `UnsupportedMedia`."""
        raise NotImplementedError

    def refuse(self, error: Exception, request_id: str) -> tuple[int, bytes]:
        """Status and body for an error: the caller's faults in full, ours by code alone."""
        if isinstance(error, RequestError):
            return error.status, self.refusal(error, request_id)
        if isinstance(error, NotReady):
            return error.status, self.failure(error.code, f"not ready: {error}", request_id)
        if isinstance(error, Overloaded | DeadlineExceeded):
            return error.status, self.failure(error.code, str(error), request_id)
        code = error.code if isinstance(error, ServingError) else ServingError.code
        log.error("request failed", exc_info=error, extra={"request_id": request_id})
        return 500, self.failure(code, f"the service failed; its log has the cause under request id {request_id}", request_id)

    def refusal(self, error: RequestError, request_id: str) -> bytes:
        """Body for a fault of the caller."""
        return encode(refusal(error, request_id))

    def failure(self, code: str, message: str, request_id: str) -> bytes:
        """Body for what the caller cannot mend."""
        return encode(failure(code, message, request_id))

    async def _ask(self, model: ServedModel, headers: Headers, receive: Receive, request_id: str, began: float) -> Written:
        form = self.form(model, headers)
        media = negotiate(headers.get(b"accept"), form.answers)
        deadline = deadline_of(headers, began)
        body = await self._reader.read(headers, receive)
        queue = model.queue
        ticket = queue.admit(len(body) / form.bytes_per_candidate, deadline, functools.partial(has_left, receive))
        try:
            read = time.perf_counter()
            request = form.decode(body, headers)
            decoded = time.perf_counter()
            encoded = form.encode(request)
            gathered = time.perf_counter()
            probabilities = await queue.run(ticket, encoded, encoded.candidates)
        finally:
            queue.abandon(ticket)
        written = form.answer(request, probabilities, request_id, media)
        form.bytes_per_candidate += (len(body) / encoded.candidates - form.bytes_per_candidate) / 64
        queue.answered(ticket)
        marks = (read, decoded, gathered, ticket.run_started_s, ticket.run_ended_s, time.perf_counter())
        model.metrics.answered(marks, encoded.candidates)
        return written

    def _count(self, model: ServedModel, error: Exception, status: int, seconds: float) -> None:
        model.metrics.refused(status, seconds)
        if isinstance(error, Overloaded):
            model.metrics.shed("overload")
        elif isinstance(error, DeadlineExceeded):
            model.metrics.shed("deadline")


class RankRoute(ModelRoute):
    """``POST /v1/rank`` and ``POST /v1/models/NAME/rank``."""

    def form(self, model: ServedModel, headers: Headers) -> Form:
        """Choose by the content type; none means JSON."""
        value = headers.get(b"content-type")
        media = JSON if value is None or value == b"application/json" else media_type(value)
        if media == JSON:
            return model.json
        raise UnsupportedMedia(f"content-type is not {JSON}")


class ModelRoutes:
    """Finds the route of a path."""

    def __init__(self, catalog: Catalog, reader: BodyReader) -> None:
        self._rank = RankRoute(catalog, reader)
        self._fixed: Mapping[str, AsgiApp] = {"/v1/rank": self._rank}

    def find(self, path: str) -> AsgiApp | None:
        """Return the application for `path`; None when no model is asked there."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed
        found = _RANK.fullmatch(path)
        return functools.partial(self._rank, name=found[1]) if found else None
