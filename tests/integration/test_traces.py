"""A traced service hands its spans to a collector, and goes on when there is none."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from service_processes import BENTOML, STOP_LIMIT_S, service_of

from serving.contract.bundle import Bundle

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BODY: dict[str, Any] = {"context": {"device": "phone"}, "candidates": [{"id": "a"}, {"id": "b"}]}


class _Collector(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        self.server.spans += [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def collector() -> Iterator[_Collector]:
    with _Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def test_spans_join_the_callers_trace_and_are_exported_by_the_end(tiny_bundle: Bundle, tmp_path: Path, collector: _Collector) -> None:
    environment = {
        "PILOTAGE_BUNDLE": str(tiny_bundle.path),
        "PILOTAGE_TRACE_SAMPLE_RATE": "0.000001",  # so that only callers who ask are traced
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",  # so that the worker's end has something to hand over
    }
    with service_of(BENTOML, tmp_path, "/readyz", **environment) as (client, process):
        sampled = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "r-1"}
        good = client.post("/v1/models/tiny/rank", json=BODY, headers=sampled).raise_for_status()
        bad = client.post("/v1/rank", content=b"{", headers=sampled)
        silent = client.post("/v1/rank", json=BODY, headers={"traceparent": f"00-{TRACE}-{CALLER}-00"}).raise_for_status()
        assert bad.status_code == 400
        assert good.headers["traceresponse"].startswith(f"00-{TRACE}-")
        assert "traceresponse" not in silent.headers
        process.terminate()
        assert psutil.wait_procs([process], STOP_LIMIT_S)[1] == []
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"POST /v1/models/{model}/rank", "POST /v1/rank", "decode", "features", "queue", "run", "encode"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    root = spans["POST /v1/models/{model}/rank"]
    assert root.parent_span_id.hex() == CALLER
    assert good.headers["traceresponse"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert {spans[stage].parent_span_id for stage in ("decode", "run", "encode")} == {root.span_id}
    told = {item.key: item.value for item in root.attributes}
    assert (told["pilotage.request_id"].string_value, told["pilotage.candidates"].int_value) == ("r-1", 2)


def test_a_collector_that_is_not_there_costs_no_answer(tiny_bundle: Bundle, tmp_path: Path) -> None:
    nowhere = {"PILOTAGE_TRACE_SAMPLE_RATE": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with service_of(BENTOML, tmp_path, "/readyz", PILOTAGE_BUNDLE=str(tiny_bundle.path), **nowhere) as (client, _):
        for _ in range(200):
            client.post("/v1/rank", json=BODY).raise_for_status()
