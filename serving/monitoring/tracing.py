"""OpenTelemetry traces of the hot path: decided in a microsecond, built after the answer was sent, exported by another thread.

No context variable is set and no span is ever current: on a connection that lives long every context keeps the one before it
alive, and spans would hang on that chain (CPython #140947). A span's parent is an argument, its times are arguments, and the
global tracer provider is left alone. Spans are made as finished `ReadableSpan` objects, since their ids were given away in the
answer's header before they existed and nobody adds to them: what a provider would do is a second sampling decision and a lock.

References
----------
W3C Trace Context Level 2, https://www.w3.org/TR/trace-context-2/ : ``traceparent`` and ``tracestate``. ``traceresponse`` is still
a draft of the same group, https://github.com/w3c/trace-context/blob/main/spec/21-http_response_header_format.md .
OpenTelemetry semantic conventions for HTTP server spans, https://opentelemetry.io/docs/specs/semconv/http/http-spans/ .
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.contract.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TraceState

log = logging.getLogger("pilotage")

TRACERESPONSE = b"traceresponse"

MAX_TRACESTATE_BYTES = 512
"""The least that the specification asks to carry. A longer one is dropped whole: no service is called from here that would miss it."""

MAX_TRACESTATE_MEMBERS = 32

MAX_PATH_CHARACTERS = 256
"""Of the path in a span: a caller may send 64 KiB."""

BATCH_SPANS = 64
"""Spans an export, unless ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE`` says otherwise. An export holds the interpreter while it encodes, and
the event loop waits: measured 5.4 times as long for OpenTelemetry's 512 spans (8.3 ms) as for 64 (1.5 ms)."""

FLUSH_S = 5.0
"""Longest wait at shutdown for the last export; within Kubernetes' grace of 30 s, beside the drain."""

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
"""Others are ``_OTHER`` in a span, so that a caller cannot make names up."""

_PROTOCOL = "http/protobuf"
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_BATCH_VARIABLE = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_SAMPLED = 0x01
_RANDOM = 0x02
_LOW_BITS = (1 << 64) - 1

# Version 00 ends after the flags; a higher one may go on after a dash, and is read by its first four fields.
_TRACEPARENT = re.compile(rb"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_STATE_KEY = r"[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13}"
_STATE_MEMBER = re.compile(rf"({_STATE_KEY})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e])")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where one sampled request stands in its trace; made before its spans are.

    Attributes
    ----------
    trace_id
        128 bits, never 0.
    span_id
        64 bits, of the span that the request will have here.
    parent_id
        Of the caller's span; 0 when the trace begins here.
    random
        Whether the trace id is known to be random (Level 2's second flag).
    tracestate
        As sent; empty when there is none.
    epoch_ns
        Nanoseconds to add to `time.perf_counter_ns` for the time since 1970: one offset a request, so that a step of the wall
        clock turns no stage backwards.
    """

    trace_id: int
    span_id: int
    parent_id: int
    random: bool
    tracestate: bytes
    epoch_ns: int

    @property
    def response_header(self) -> tuple[bytes, bytes]:
        """The header that tells the caller which span answered; the draft knows the sampled flag alone."""
        return TRACERESPONSE, b"00-%032x-%016x-01" % (self.trace_id, self.span_id)


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of a request once it was answered.

    Attributes
    ----------
    route
        The pattern, not the path: ``/v1/models/{model}/rank``.
    path
        As the caller sent it.
    status
        HTTP status code of the answer.
    began_s, ended_s
        On `time.perf_counter`'s clock, in seconds: before the body was read, and after the answer was sent.
    marks_s
        On the same clock, the times before, between and after `stages`; fewer when the request did not come that far.
    model, version
        Empty when none was found.
    stages
        What lies between the marks.
    sizes
        What was counted of the request, by name; none when the body was not read.
    """

    route: str
    path: str
    status: int
    request_id: str
    began_s: float
    ended_s: float
    marks_s: tuple[float, ...] = ()
    model: str = ""
    version: str = ""
    stages: Sequence[str] = ()
    sizes: tuple[tuple[str, int], ...] = ()
    method: str = "POST"
    scheme: str = "http"


class RequestTracer:
    """Samples requests and records those that were sampled. Used by one thread, the event loop's.

    Parameters
    ----------
    sample_rate
        Share of requests without a valid ``traceparent`` that are sampled, from 0 to 1; the others follow their caller's flag.
    processor
        Takes finished spans. It must not block: it is called between requests.
    resource
        What the spans are of.
    ids
        Source of ids; a generator of its own, seeded by the operating system, without.
    """

    def __init__(self, sample_rate: float, processor: SpanProcessor, resource: Resource, ids: random.Random | None = None) -> None:
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._threshold = round(sample_rate * (_LOW_BITS + 1))
        self._processor = processor
        self._resource = resource
        self._scope = InstrumentationScope("pilotage.serving")
        self._bits = (ids or random.Random()).getrandbits  # noqa: S311  # ids must differ, nobody need fail to guess them

    def begin(self, headers: Mapping[bytes, bytes]) -> TraceContext | None:
        """Decide about one request.

        Parameters
        ----------
        headers
            Names in lower case. A damaged ``traceparent`` counts as none, and its ``tracestate`` with it, as the specification asks.

        Returns
        -------
        TraceContext | None
            None when the request is not sampled.
        """
        parent = headers.get(b"traceparent")
        found = None if parent is None else _TRACEPARENT.fullmatch(parent)
        if found is None:
            low = self._bits(64)  # the ratio is of these bits, as in OpenTelemetry's own sampler
            if low >= self._threshold:
                return None
            trace_id = self._bits(64) << 64 | low
            return TraceContext(trace_id or 1, self._span_id(), 0, True, b"", time.time_ns() - time.perf_counter_ns())
        flags = int(found[3], 16)
        if not flags & _SAMPLED:
            return None
        tracestate = headers.get(b"tracestate", b"")
        if len(tracestate) > MAX_TRACESTATE_BYTES:
            tracestate = b""
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        return TraceContext(int(found[1], 16), self._span_id(), int(found[2], 16), bool(flags & _RANDOM), tracestate, epoch_ns)

    def record(self, context: TraceContext, answered: Answered) -> None:
        """Make the spans of one request and hand them to the exporter's thread. Call it after the answer was sent."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        flags = TraceFlags(_SAMPLED | (_RANDOM if context.random else 0))
        state = _trace_state(context.tracestate)
        caller = SpanContext(context.trace_id, context.parent_id, True, flags, state) if context.parent_id else None
        ours = SpanContext(context.trace_id, context.span_id, False, flags, state)

        def emit(name: str, own: SpanContext, parent: SpanContext | None, times_s: tuple[float, float], **more: object) -> None:
            begin_ns, end_ns = (round(second * 1e9) + context.epoch_ns for second in times_s)
            self._processor.on_end(
                ReadableSpan(
                    name,
                    own,
                    parent,
                    self._resource,
                    start_time=begin_ns,
                    end_time=max(begin_ns, end_ns),
                    instrumentation_scope=self._scope,
                    **more,  # type: ignore[arg-type]
                )
            )

        for stage, times_s in zip(answered.stages, itertools.pairwise(answered.marks_s), strict=False):
            emit(stage, SpanContext(context.trace_id, self._span_id(), False, flags, state), ours, times_s)
        method = answered.method if answered.method in METHODS else "_OTHER"
        emit(
            f"{'HTTP' if method == '_OTHER' else method} {answered.route}",
            ours,
            caller,
            (answered.began_s, answered.ended_s),
            kind=SpanKind.SERVER,
            attributes=_attributes(answered, method),
            status=Status(StatusCode.ERROR if answered.status >= 500 else StatusCode.UNSET),  # the caller's faults are none of ours
        )

    def shutdown(self, timeout_s: float = FLUSH_S) -> bool:
        """Export what is left and stop; blocks for at most `timeout_s` seconds, after which the rest is lost.

        Returns
        -------
        bool
            Whether all was handed over in time.
        """
        # the processor has a bound of its own, which cannot be set, and behind a dead collector it is half a minute
        ending = threading.Thread(target=self._processor.shutdown, name="trace-flush", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            log.warning("traces were still being exported after %g s; the rest is lost", timeout_s)
        return not ending.is_alive()

    def _span_id(self) -> int:
        return self._bits(64) or 1  # 0 is not an id


def open_tracer(sample_rate: float, exporter: SpanExporter | None = None) -> RequestTracer | None:
    """Start exporting traces; in the process that answers, since a thread does not survive a fork.

    Parameters
    ----------
    sample_rate
        As of `RequestTracer`; at 0 nothing is traced, whatever the callers' flags say, and OpenTelemetry is not imported.
    exporter
        OTLP over HTTP without, set by the standard ``OTEL_EXPORTER_OTLP_…`` variables; ``OTEL_BSP_…`` sets the batches,
        ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` what the spans are of, ``OTEL_SDK_DISABLED=true`` turns all off.

    Returns
    -------
    RequestTracer | None
        None when tracing is off.

    Raises
    ------
    SettingsError
        The rate is out of bounds, the exporter is not installed, or one of the variables cannot be honoured.
    """
    if not 0 <= sample_rate <= 1:
        raise SettingsError(f"PILOTAGE_TRACE_SAMPLE_RATE={sample_rate!r}: a share from 0 to 1 is needed; 0 turns traces off")
    if not sample_rate or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        exporter = exporter or _otlp_exporter()
        batch = None if _BATCH_VARIABLE in os.environ else BATCH_SPANS
        processor = BatchSpanProcessor(exporter, max_export_batch_size=batch)
    except ValueError as error:
        raise SettingsError(f"an OTEL_… variable of the trace exporter has a value that it cannot take: {error}") from error
    named = SERVICE_NAME in OTELResourceDetector().detect().attributes
    return RequestTracer(sample_rate, processor, Resource.create({} if named else {SERVICE_NAME: "pilotage"}))


def _otlp_exporter() -> SpanExporter:
    for variable in _PROTOCOL_VARIABLES:
        if protocol := os.environ.get(variable, "").strip():
            if protocol != _PROTOCOL:
                raise SettingsError(
                    f"{variable}={protocol!r}: traces are exported by {_PROTOCOL} alone; set that, and a port that takes it (4318)"
                )
            break
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise SettingsError(
            "PILOTAGE_TRACE_SAMPLE_RATE is above 0, but the exporter of traces is not installed; "
            "install opentelemetry-exporter-otlp-proto-http at the version of opentelemetry-sdk, or set the rate to 0"
        ) from error
    return OTLPSpanExporter()


def _attributes(answered: Answered, method: str) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "http.route": answered.route,
        "http.response.status_code": answered.status,
        "url.path": answered.path[:MAX_PATH_CHARACTERS],
        "url.scheme": answered.scheme,
        "pilotage.request_id": answered.request_id,
    }
    if answered.model:
        attributes["pilotage.model"] = answered.model
        attributes["pilotage.version"] = answered.version
    attributes |= {f"pilotage.{name}": size for name, size in answered.sizes}
    if answered.status >= 500:
        attributes["error.type"] = str(answered.status)
    return attributes


def _trace_state(header: bytes) -> TraceState:
    """Read a ``tracestate``; a damaged one is dropped whole, and not logged, since the caller writes it.

    OpenTelemetry's own reader logs a line with the caller's text for each.
    """
    from opentelemetry.trace import TraceState

    members: dict[str, str] = {}
    for part in header.decode("latin-1").split(","):
        member = part.strip(" \t")
        if not member:
            continue  # allowed, and counts for nothing
        found = _STATE_MEMBER.fullmatch(member)
        if found is None or found[1] in members or len(members) == MAX_TRACESTATE_MEMBERS:
            return TraceState()
        members[found[1]] = found[2]
    return TraceState(list(members.items()))
