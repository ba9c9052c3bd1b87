"""Traces: who is sampled, which spans come of it, and that a connection holds no more for it."""

from __future__ import annotations

import contextvars
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serving.contract.errors import SettingsError
from serving.monitoring.metrics import RANKING_STAGES as STAGES
from serving.monitoring.tracing import MAX_TRACESTATE_BYTES, Answered, RequestTracer, TraceContext, open_tracer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01".encode()
MARKS_S = (100.001, 100.002, 100.004, 100.007, 100.011, 100.016)


class _Spans(SpanProcessor):
    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


@pytest.fixture(autouse=True)
def _no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def spans() -> _Spans:
    return _Spans()


def _tracer(rate: float, spans: SpanProcessor) -> RequestTracer:
    return RequestTracer(rate, spans, Resource({"service.name": "test"}), random.Random(7))


def _begin(tracer: RequestTracer, **headers: bytes) -> TraceContext:
    context = tracer.begin({name.encode(): value for name, value in headers.items()})
    assert context is not None
    return context


def _answered(**changes: Any) -> Answered:
    values: dict[str, Any] = {
        "route": "/v1/rank",
        "path": "/v1/rank",
        "status": 200,
        "request_id": "r-1",
        "began_s": 100.0,
        "ended_s": 100.017,
        "marks_s": MARKS_S,
        "model": "tiny",
        "version": "v1",
        "sizes": (("candidates", 12),),
        "stages": STAGES,
    }
    return Answered(**(values | changes))


def _by_name(spans: _Spans) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.ended}


def test_a_request_is_one_server_span_with_a_child_for_each_stage(spans: _Spans) -> None:
    tracer = _tracer(0, spans)
    context = _begin(tracer, traceparent=SAMPLED)
    tracer.record(context, _answered())
    named = _by_name(spans)
    assert list(named) == [*STAGES, "POST /v1/rank"]
    server = named.pop("POST /v1/rank")
    assert server.kind is SpanKind.SERVER
    assert server.context.span_id == context.span_id
    assert server.parent is not None
    assert (f"{server.parent.trace_id:032x}", f"{server.parent.span_id:016x}", server.parent.is_remote) == (TRACE, PARENT, True)
    assert all(span.parent == server.context and span.kind is SpanKind.INTERNAL for span in named.values())
    assert {f"{span.context.trace_id:032x}" for span in spans.ended} == {TRACE}
    assert len({span.context.span_id for span in spans.ended} - {0, int(PARENT, 16)}) == 6
    assert all(span.context.trace_flags.sampled for span in spans.ended)


def test_the_server_span_has_the_attributes_of_the_conventions_and_ours(spans: _Spans) -> None:
    tracer = _tracer(1, spans)
    tracer.record(_begin(tracer), _answered(route="/v1/models/{model}/rank", path="/v1/models/tiny/rank"))
    server = spans.ended[-1]
    assert server.name == "POST /v1/models/{model}/rank"
    assert server.resource.attributes["service.name"] == "test"
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/models/{model}/rank",
        "http.response.status_code": 200,
        "url.path": "/v1/models/tiny/rank",
        "url.scheme": "http",
        "pilotage.request_id": "r-1",
        "pilotage.model": "tiny",
        "pilotage.version": "v1",
        "pilotage.candidates": 12,
    }


def test_stages_lie_end_to_end_inside_the_request_on_the_wall_clock(spans: _Spans) -> None:
    tracer = _tracer(1, spans)
    context = _begin(tracer)
    tracer.record(context, _answered())
    *stages, server = [(span.start_time or 0, span.end_time or 0) for span in spans.ended]
    expected = [round(mark * 1e9) + context.epoch_ns for mark in MARKS_S]
    assert stages == list(itertools.pairwise(expected))
    assert server == (100_000_000_000 + context.epoch_ns, 100_017_000_000 + context.epoch_ns)


def test_a_request_that_was_refused_has_the_stages_it_reached(spans: _Spans) -> None:
    tracer = _tracer(1, spans)
    tracer.record(_begin(tracer), _answered(status=422, marks_s=MARKS_S[:2], model="", sizes=()))
    assert list(_by_name(spans)) == ["decode", "POST /v1/rank"]
    attributes = spans.ended[-1].attributes or {}
    assert not {"pilotage.model", "pilotage.version", "pilotage.candidates", "error.type"} & set(attributes)


@pytest.mark.parametrize(
    ("status", "code"), [(200, StatusCode.UNSET), (422, StatusCode.UNSET), (500, StatusCode.ERROR), (503, StatusCode.ERROR)]
)
def test_only_our_own_faults_are_errors(spans: _Spans, status: int, code: StatusCode) -> None:
    tracer = _tracer(1, spans)
    tracer.record(_begin(tracer), _answered(status=status, marks_s=()))
    (server,) = spans.ended
    assert server.status.status_code is code
    assert (server.attributes or {}).get("error.type") == (str(status) if code is StatusCode.ERROR else None)


def test_what_a_caller_may_make_up_is_bounded(spans: _Spans) -> None:
    tracer = _tracer(1, spans)
    tracer.record(_begin(tracer), _answered(method="BREW" * 99, path="/" * 65_536))
    server = spans.ended[-1]
    assert server.name == "HTTP /v1/rank"
    assert (server.attributes or {})["http.request.method"] == "_OTHER"
    assert len(str((server.attributes or {})["url.path"])) == 256


def test_a_trace_that_begins_here_has_no_parent_and_a_random_id(spans: _Spans) -> None:
    tracer = _tracer(1, spans)
    contexts = [_begin(tracer) for _ in range(100)]
    assert len({context.trace_id for context in contexts}) == len({context.span_id for context in contexts}) == 100
    assert max(context.trace_id for context in contexts) >> 120  # all 128 bits are used
    tracer.record(contexts[0], _answered())
    server = spans.ended[-1]
    assert server.parent is None
    assert server.context.trace_flags.random_trace_id


def test_the_answer_names_the_span_that_will_be_recorded(spans: _Spans) -> None:
    tracer = _tracer(0, spans)
    context = _begin(tracer, traceparent=SAMPLED)
    tracer.record(context, _answered())
    name, value = context.response_header
    assert name == b"traceresponse"
    assert value.decode() == f"00-{TRACE}-{spans.ended[-1].context.span_id:016x}-01"


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("02", False), ("fe", False), ("01", True), ("03", True), ("ff", True)])
def test_a_callers_flag_is_followed_at_every_rate(spans: _Spans, rate: float, flags: str, sampled: bool) -> None:
    context = _tracer(rate, spans).begin({b"traceparent": f"00-{TRACE}-{PARENT}-{flags}".encode()})
    assert (context is not None) is sampled


@pytest.mark.parametrize("version", ["01", "cc", "fe"])
@pytest.mark.parametrize("more", ["", "-", "-what-the-future-may-bring"])
def test_a_higher_version_is_read_by_its_first_four_fields(spans: _Spans, version: str, more: str) -> None:
    context = _begin(_tracer(0, spans), traceparent=f"{version}-{TRACE}-{PARENT}-01{more}".encode())
    assert (context.trace_id, context.parent_id) == (int(TRACE, 16), int(PARENT, 16))


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}0-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-0g",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"01-{TRACE}-{PARENT}-01more",
        f"0g-{TRACE}-{PARENT}-01",
        f" 00-{TRACE}-{PARENT}-01",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}",
        "00-" + "é" * 32 + f"-{PARENT}-01",
    ],
)
def test_a_damaged_traceparent_counts_as_none(spans: _Spans, damaged: str) -> None:
    headers = {b"traceparent": damaged.encode(), b"tracestate": b"a=1"}
    assert _tracer(0, spans).begin(headers) is None
    context = _tracer(1, spans).begin(headers)
    assert context is not None
    assert (context.parent_id, context.tracestate) == (0, b"")
    assert context.trace_id != int(TRACE, 16)


def test_the_rate_is_the_share_that_is_sampled(spans: _Spans) -> None:
    def taken(rate: float) -> int:
        tracer = _tracer(rate, spans)
        return sum(tracer.begin({}) is not None for _ in range(10_000))

    assert (taken(0), taken(1)) == (0, 10_000)
    assert 900 <= taken(0.1) <= 1100  # seeded; three standard deviations are 90


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"rojo=00f067aa0ba902b7, 9t@congo=t61rcWkgMzE", {"rojo": "00f067aa0ba902b7", "9t@congo": "t61rcWkgMzE"}),
        (b"a=1,,b=2", {"a": "1", "b": "2"}),
        (b"", {}),
        (b"a=1,a=2", {}),
        (b"a=1,B=2", {}),
        (b"a=1,b", {}),
        ("a=é".encode(), {}),
        (b",".join(b"k%d=1" % i for i in range(32)), {f"k{i}": "1" for i in range(32)}),
        (b",".join(b"k%d=1" % i for i in range(33)), {}),
        (b"a=" + b"x" * 255 + b",b=" + b"y" * (MAX_TRACESTATE_BYTES - 260), {"a": "x" * 255, "b": "y" * (MAX_TRACESTATE_BYTES - 260)}),
        (b"a=" + b"x" * 255 + b",b=" + b"y" * (MAX_TRACESTATE_BYTES - 259), {}),
    ],
)
def test_a_tracestate_is_carried_whole_or_not_at_all(
    spans: _Spans, caplog: pytest.LogCaptureFixture, sent: bytes, kept: dict[str, str]
) -> None:
    tracer = _tracer(0, spans)
    tracer.record(_begin(tracer, traceparent=SAMPLED, tracestate=sent), _answered())
    assert all(dict(span.context.trace_state) == kept for span in spans.ended)
    assert not caplog.records  # a caller cannot fill the log


def test_tracing_sets_no_context_variable_and_no_global_provider(spans: _Spans) -> None:
    def serve() -> tuple[int, int]:
        before = len(contextvars.copy_context())
        tracer = _tracer(1, spans)
        for _ in range(50):
            tracer.record(_begin(tracer, traceparent=SAMPLED), _answered())
        return before, len(contextvars.copy_context())

    provider = trace.get_tracer_provider()
    before, after = contextvars.copy_context().run(serve)
    assert after == before
    assert not trace.get_current_span().get_span_context().is_valid
    assert trace.get_tracer_provider() is provider


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def test_shutdown_exports_what_is_left(memory: InMemorySpanExporter) -> None:
    tracer = open_tracer(1, memory)
    assert tracer is not None
    tracer.record(_begin(tracer), _answered())
    assert tracer.shutdown()
    exported = memory.get_finished_spans()
    assert [span.name for span in exported] == [*STAGES, "POST /v1/rank"]
    assert exported[0].resource.attributes["service.name"] == "pilotage"


@pytest.mark.parametrize(("name", "value"), [("OTEL_SERVICE_NAME", "shop"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop")])
def test_the_standard_variables_name_the_service(
    memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    tracer = open_tracer(1, memory)
    assert tracer is not None
    tracer.record(_begin(tracer), _answered(marks_s=()))
    tracer.shutdown()
    assert memory.get_finished_spans()[0].resource.attributes["service.name"] == "shop"


def test_shutdown_waits_no_longer_than_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    collector_answers = threading.Event()

    class Stuck(SpanProcessor):
        def shutdown(self) -> None:
            collector_answers.wait(30)

    assert not _tracer(1, Stuck()).shutdown(timeout_s=0.01)
    assert "the rest is lost" in caplog.text
    collector_answers.set()


def test_tracing_is_off_at_rate_zero_or_when_the_sdk_is_disabled(memory: SpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_tracer(0, memory) is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    assert open_tracer(1, memory) is None


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off() -> None:
    code = (
        "import sys, serving.monitoring.tracing as tracing; assert tracing.open_tracer(0) is None;"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_out_of_bounds_is_refused(rate: float) -> None:
    with pytest.raises(SettingsError, match="PILOTAGE_TRACE_SAMPLE_RATE"):
        open_tracer(rate)


def test_a_missing_exporter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match="install opentelemetry-exporter-otlp-proto-http"):
        open_tracer(0.5)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "grpc")
    with pytest.raises(SettingsError, match=f"{name}='grpc'"):
        open_tracer(0.5)


def test_a_batch_that_cannot_be_is_refused(memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0")
    with pytest.raises(SettingsError, match="OTEL_"):
        open_tracer(0.5, memory)


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the base class' name
            body = self.rfile.read(int(self.headers["content-length"]))
            server.received.append((self.path, self.headers["content-type"], body))  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.received = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_reach_a_collector_by_otlp_over_http(collector: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    tracer = open_tracer(1)
    assert tracer is not None
    tracer.record(_begin(tracer, traceparent=SAMPLED, tracestate=b"a=1"), _answered())
    assert tracer.shutdown()
    ((path, media, body),) = collector.received  # type: ignore[attr-defined]
    assert (path, media) == ("/v1/traces", "application/x-protobuf")
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert ("service.name", "pilotage") in [(item.key, item.value.string_value) for item in resource.resource.attributes]
    server = resource.scope_spans[0].spans[-1]
    assert (server.name, server.trace_id.hex(), server.parent_span_id.hex(), server.trace_state) == ("POST /v1/rank", TRACE, PARENT, "a=1")
