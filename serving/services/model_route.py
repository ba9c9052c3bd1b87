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
from typing import ClassVar, NamedTuple

from serving.contract.errors import (
    CallerGone,
    DeadlineExceeded,
    MethodNotAllowed,
    NotReady,
    Overloaded,
    RequestError,
    ServingError,
    UnsupportedMedia,
)
from serving.monitoring.tracing import Answered, RequestTracer
from serving.protocol.answers import encode, failure, refusal
from serving.protocol.media import ARROW, JSON, media_type, negotiate
from serving.protocol.open_inference import infer_error
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

_ALLOW_POST = (b"allow", b"POST")

_RANK = re.compile(r"/v1/models/([^/]+)/rank")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")


class _Run(NamedTuple):
    """What came of asking a model; `marks_s` lie before, between and after the stages."""

    written: Written
    marks_s: tuple[float, ...]
    candidates: int


class ModelRoute:
    """What the routes have in common.

    Parameters
    ----------
    catalog
        Filled in when the worker has started.
    reader
        Reads bodies.
    tracer
        Traces the requests that it samples; None traces none.
    """

    media: ClassVar[bytes] = JSON.encode()
    pattern: ClassVar[str]
    named_pattern: ClassVar[str]
    """The paths without and with a model's name, as traces show them."""

    def __init__(self, catalog: Catalog, reader: BodyReader, tracer: RequestTracer | None = None) -> None:
        self._catalog = catalog
        self._reader = reader
        self._tracer = tracer

    async def __call__(self, scope: Message, receive: Receive, send: Send, *, name: str | None = None, version: str | None = None) -> None:
        """Answer one request to the model called `name`, or to the first one; `version` must be the one that is loaded."""
        began = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = request_id_of(headers)
        extra = [(REQUEST_ID_HEADER, request_id.encode())]
        if self._catalog.draining:
            extra.append((b"connection", b"close"))
        trace = self._tracer.begin(headers) if self._tracer is not None else None
        if trace is not None:
            extra.append(trace.response_header)
        model: ServedModel | None = None
        run: _Run | None = None
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"this route takes POST, not {scope['method']}")
            model = self._catalog.find(name, version)
            run = await self._ask(model, headers, receive, request_id, began)
            status, (content, media, own) = 200, run.written
            extra += own
        except CallerGone:
            if model is not None:
                model.metrics.shed("gone")
            return
        except Exception as error:
            media = self.media
            status, content = self.refuse(error, request_id)
            if model is not None:
                self._count(model, error, status, time.perf_counter() - began)
            if status == 503:
                extra.append(RETRY_AFTER)
            elif status == 405:
                extra.append(_ALLOW_POST)
        await respond(send, status, content, media, extra)
        if self._tracer is not None and trace is not None:
            answered = Answered(
                route=self.pattern if name is None else self.named_pattern,
                path=scope["path"],
                status=status,
                request_id=request_id,
                began_s=began,
                ended_s=time.perf_counter(),
                marks_s=run.marks_s if run else (),
                model=model.manifest.name if model else "",
                version=model.manifest.version if model else "",
                candidates=run.candidates if run else 0,
                method=scope["method"],
                scheme=scope.get("scheme", "http"),
            )
            self._tracer.record(trace, answered)

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

    async def _ask(self, model: ServedModel, headers: Headers, receive: Receive, request_id: str, began: float) -> _Run:
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
        return _Run(written, marks, encoded.candidates)

    def _count(self, model: ServedModel, error: Exception, status: int, seconds: float) -> None:
        model.metrics.refused(status, seconds)
        if isinstance(error, Overloaded):
            model.metrics.shed("overload")
        elif isinstance(error, DeadlineExceeded):
            model.metrics.shed("deadline")


class RankRoute(ModelRoute):
    """``POST /v1/rank`` and ``POST /v1/models/NAME/rank``: JSON or Arrow in, JSON or Arrow out."""

    pattern = "/v1/rank"
    named_pattern = "/v1/models/{model}/rank"

    def form(self, model: ServedModel, headers: Headers) -> Form:
        """Choose by the content type; none means JSON."""
        value = headers.get(b"content-type")
        media = JSON if value is None or value == b"application/json" else media_type(value)
        if media == JSON:
            return model.json
        if media == ARROW:
            return model.arrow
        raise UnsupportedMedia(f"content-type is neither {JSON} nor {ARROW}")


class InferRoute(ModelRoute):
    """``POST /v2/models/NAME[/versions/VERSION]/infer`` of the Open Inference Protocol v2."""

    named_pattern = "/v2/models/{model}/infer"

    def form(self, model: ServedModel, headers: Headers) -> Form:
        """There is one; clients of the protocol send several content types, or none."""
        return model.infer

    def refuse(self, error: Exception, request_id: str) -> tuple[int, bytes]:
        """Status and body; the protocol knows 400 alone for what a value breaks."""
        status, content = super().refuse(error, request_id)
        return (400 if status == 422 else status), content

    def refusal(self, error: RequestError, request_id: str) -> bytes:
        """Body for a fault of the caller."""
        return infer_error(error.message)

    def failure(self, code: str, message: str, request_id: str) -> bytes:
        """Body for what the caller cannot mend."""
        return infer_error(f"{code}: {message}")


class ModelRoutes:
    """Finds the route of a path."""

    def __init__(self, catalog: Catalog, reader: BodyReader, tracer: RequestTracer | None = None) -> None:
        self._rank = RankRoute(catalog, reader, tracer)
        self._infer = InferRoute(catalog, reader, tracer)
        self._fixed: Mapping[str, AsgiApp] = {"/v1/rank": self._rank}

    def find(self, path: str) -> AsgiApp | None:
        """Return the application for `path`; None when no model is asked there."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed
        if found := _RANK.fullmatch(path):
            return functools.partial(self._rank, name=found[1])
        if found := _INFER.fullmatch(path):
            return functools.partial(self._infer, name=found[1], version=found[2])
        return None
