"""What the routes that ask a model have in common: how a request begins, is refused and is answered.

There is no task, no context and no future a request: `ModelRoute.answer` does what can be done at once, and is called back with the
result. So a connection that lives for millions of requests holds what it held after the first (CPython #140947).
"""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

from serving.contract.errors import (
    CallerGone,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    RequestError,
    ServingError,
)
from serving.monitoring.tracing import Answered, RequestTracer, TraceContext
from serving.protocol.answers import encode, failure, refusal
from serving.protocol.media import JSON
from serving.services.catalog import Catalog
from serving.services.exchange import REQUEST_ID_HEADER, BodyBounds, Call, Header, Headers, request_id_of
from serving.services.served import ServedModel

log = logging.getLogger("pilotage")

RETRY_AFTER = (b"retry-after", b"1")
"""The header's unit is the second: an overload of milliseconds is over by then, a longer one is told again at little cost."""

_ALLOW_POST = (b"allow", b"POST")


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

M = TypeVar("M", bound=ServedModel)


@dataclass(slots=True)
class Asked(Generic[M]):
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
    model: M | None = None


class ModelRoute(ABC, Generic[M]):
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

    stages: ClassVar[Sequence[str]]
    """What lies between the marks of an answered request."""

    sizes: ClassVar[Sequence[str]]
    """What is counted of a request, as traces call it."""

    kind: type[M]
    """Of model that can be asked here."""

    def __init__(self, catalog: Catalog, bounds: BodyBounds, tracer: RequestTracer | None = None) -> None:
        self._catalog = catalog
        self.bounds = bounds
        self._tracer = tracer

    @abstractmethod
    def early_refusal(self, headers: Headers, target: Target) -> Overloaded | DeadlineExceeded | None:
        """What `answer` would refuse for overload, told from the headers alone: the body need not be kept."""

    @abstractmethod
    def answer(self, call: Call, body: bytes, target: Target) -> None:
        """Answer one request to the model that `target` names: at once when it is refused, else after its run."""

    def refuse(self, call: Call, error: Exception, target: Target) -> None:
        """Answer a request whose body was not read, or not to its end."""
        asked = self._begin(call, target)
        with contextlib.suppress(ServingError, RequestError):
            asked.model = self._catalog.find(self.kind, *target)
        self._refuse(asked, error)

    def _begin(self, call: Call, target: Target) -> Asked[M]:
        trace = self._tracer.begin(call.headers) if self._tracer is not None else None
        return Asked(call, target.name, request_id_of(call.headers), trace)

    def _refuse(self, asked: Asked[M], error: Exception) -> None:
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
        self, asked: Asked[M], status: int, content: bytes, headers: list[Header], marks_s: tuple[float, ...] = (), *sizes: int
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
                stages=self.stages,
                sizes=tuple(zip(self.sizes, sizes, strict=False)),
                method=call.method,
                scheme=call.scheme,
            )
            self._tracer.record(asked.trace, answered)

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

    def _count(self, model: M, error: Exception, status: int, seconds: float) -> None:
        model.metrics.refused(status, seconds)
        if isinstance(error, Overloaded):
            model.metrics.shed("overload")
        elif isinstance(error, DeadlineExceeded):
            model.metrics.shed("deadline")
