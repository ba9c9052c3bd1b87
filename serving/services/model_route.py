"""The routes that ask a model: the hot path, with no framework between the socket and the graph.

One request goes: read → admit → decode → features → queue → run → encode. Nothing is spent on a request before it is admitted
but reading it. There is no task, no context and no future a request: `ModelRoute.answer` does what can be done at once, and the
queue calls back with the result. So a connection that lives for millions of requests holds what it held after the first
(CPython #140947).
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
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
from serving.monitoring.tracing import Answered, RequestTracer, TraceContext
from serving.protocol.answers import encode, failure, refusal
from serving.protocol.media import ARROW, JSON, media_type, negotiate
from serving.protocol.open_inference import infer_error
from serving.services.catalog import Catalog, ServedModel
from serving.services.exchange import REQUEST_ID_HEADER, BodyBounds, Call, Header, Headers, deadline_of, request_id_of
from serving.services.forms import Form, Probabilities

log = logging.getLogger("pilotage")

RETRY_AFTER = (b"retry-after", b"1")
"""The header's unit is the second: an overload of milliseconds is over by then, a longer one is told again at little cost."""

_ALLOW_POST = (b"allow", b"POST")

_RANK = re.compile(r"/v1/models/([^/]+)/rank")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")


class Target(NamedTuple):
    """Which model is asked.

    Attributes
    ----------
    name
        None is the first one.
    version
        Must be the one that is loaded; None takes any.
    """

    name: str | None
    version: str | None


FIRST = Target(None, None)


@dataclass(slots=True)
class _Asked:
    """One request on its way.

    Attributes
    ----------
    trace
        Where it stands in its trace; None when it is not traced.
    """

    call: Call
    name: str | None
    request_id: str
    trace: TraceContext | None
    model: ServedModel | None = None


class ModelRoute(ABC):
    """What the routes have in common.

    Parameters
    ----------
    catalog
        Filled in when the worker has started.
    bounds
        Of bodies.
    tracer
        Traces the requests that it samples; None traces none.
    """

    media: ClassVar[bytes] = JSON.encode()
    pattern: ClassVar[str]
    named_pattern: ClassVar[str]
    """The paths without and with a model's name, as traces show them."""

    def __init__(self, catalog: Catalog, bounds: BodyBounds, tracer: RequestTracer | None = None) -> None:
        self._catalog = catalog
        self.bounds = bounds
        self._tracer = tracer

    def early_refusal(self, headers: Headers, target: Target) -> Overloaded | DeadlineExceeded | None:
        """What `answer` would refuse for overload, told from the headers alone: the body need not be kept."""
        length = headers.get(b"content-length")
        if length is None or not length.isdigit():
            return None
        try:
            model = self._catalog.find(*target)
            form = self.form(model, headers)
            deadline_s = deadline_of(headers, time.perf_counter())
        except (ServingError, RequestError):
            return None  # `answer` says it, when the body is there
        return model.queue.refusal(int(length) / form.bytes_per_candidate, deadline_s)

    def answer(self, call: Call, body: bytes, target: Target) -> None:
        """Answer one request to the model that `target` names: at once when it is refused, else after its run."""
        asked = self._begin(call, target)
        try:
            if call.method != "POST":
                raise MethodNotAllowed(f"this route takes POST, not {call.method}")
            model = asked.model = self._catalog.find(*target)
            form = self.form(model, call.headers)
            media = negotiate(call.headers.get(b"accept"), form.answers)
            deadline_s = deadline_of(call.headers, call.began_s)
            body = self.bounds.plain(call.headers, body)
            ticket = model.queue.admit(len(body) / form.bytes_per_candidate, deadline_s, call.gone)
            try:
                read = time.perf_counter()
                request = form.decode(body, call.headers)
                decoded = time.perf_counter()
                encoded = form.encode(request)
                gathered = time.perf_counter()
            except BaseException:
                model.queue.abandon(ticket)
                raise
        except Exception as error:
            self._refuse(asked, error)
            return
        size_bytes = len(body)

        def deliver(result: Probabilities | Exception) -> None:
            try:
                if isinstance(result, Exception):
                    raise result
                written = form.answer(request, result, asked.request_id, media)
            except Exception as error:
                self._refuse(asked, error)
                return
            form.bytes_per_candidate += (size_bytes / encoded.candidates - form.bytes_per_candidate) / 64
            marks = (read, decoded, gathered, ticket.run_started_s, ticket.run_ended_s, time.perf_counter())
            model.metrics.answered(marks, encoded.candidates)
            self._reply(asked, 200, written.content, [(b"content-type", written.media), *written.headers], marks, encoded.candidates)

        model.queue.put(ticket, encoded, encoded.candidates, deliver)

    def refuse(self, call: Call, error: Exception, target: Target) -> None:
        """Answer a request whose body was not read, or not to its end."""
        asked = self._begin(call, target)
        with contextlib.suppress(ServingError, RequestError):
            asked.model = self._catalog.find(*target)
        self._refuse(asked, error)

    def _begin(self, call: Call, target: Target) -> _Asked:
        trace = self._tracer.begin(call.headers) if self._tracer is not None else None
        return _Asked(call, target.name, request_id_of(call.headers), trace)

    def _refuse(self, asked: _Asked, error: Exception) -> None:
        model = asked.model
        if isinstance(error, CallerGone):
            if model is not None:
                model.metrics.shed("gone")
            return
        status, content = self.refusal_of(error, asked.request_id)
        if model is not None:
            self._count(model, error, status, time.perf_counter() - asked.call.began_s)
        headers = [(b"content-type", self.media)]
        if status == 503:
            headers.append(RETRY_AFTER)
        elif status == 405:
            headers.append(_ALLOW_POST)
        self._reply(asked, status, content, headers)

    def _reply(
        self, asked: _Asked, status: int, content: bytes, headers: list[Header], marks_s: tuple[float, ...] = (), candidates: int = 0
    ) -> None:
        headers.append((REQUEST_ID_HEADER, asked.request_id.encode()))
        if self._catalog.draining:
            headers.append((b"connection", b"close"))
        if asked.trace is not None:
            headers.append(asked.trace.response_header)
        call, model = asked.call, asked.model
        call.reply(status, content, headers)
        if self._tracer is not None and asked.trace is not None:
            answered = Answered(
                route=self.pattern if asked.name is None else self.named_pattern,
                path=call.path,
                status=status,
                request_id=asked.request_id,
                began_s=call.began_s,
                ended_s=time.perf_counter(),
                marks_s=marks_s,
                model=model.manifest.name if model else "",
                version=model.manifest.version if model else "",
                candidates=candidates,
                method=call.method,
                scheme=call.scheme,
            )
            self._tracer.record(asked.trace, answered)

    @abstractmethod
    def form(self, model: ServedModel, headers: Headers) -> Form:
        """Choose the form of the body; raises `UnsupportedMedia`."""

    def refusal_of(self, error: Exception, request_id: str) -> tuple[int, bytes]:
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

    def refusal_of(self, error: Exception, request_id: str) -> tuple[int, bytes]:
        """Status and body; the protocol knows 400 alone for what a value breaks."""
        status, content = super().refusal_of(error, request_id)
        return (400 if status == 422 else status), content

    def refusal(self, error: RequestError, request_id: str) -> bytes:
        """Body for a fault of the caller."""
        return infer_error(error.message)

    def failure(self, code: str, message: str, request_id: str) -> bytes:
        """Body for what the caller cannot mend."""
        return infer_error(f"{code}: {message}")


Found = tuple[ModelRoute, Target]


class ModelRoutes:
    """Finds the route of a path."""

    def __init__(self, catalog: Catalog, bounds: BodyBounds, tracer: RequestTracer | None = None) -> None:
        self._rank = RankRoute(catalog, bounds, tracer)
        self._infer = InferRoute(catalog, bounds, tracer)
        self._fixed: Mapping[str, Found] = {"/v1/rank": (self._rank, FIRST)}

    def find(self, path: str) -> Found | None:
        """Return the route for `path` and the model that it names; None when no model is asked there."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed
        if found := _RANK.fullmatch(path):
            return self._rank, Target(found[1], None)
        if found := _INFER.fullmatch(path):
            return self._infer, Target(found[1], found[2])
        return None
