"""MLPerf's LoadGen against an HTTP service, in a process of its own: ``python -m benchmarks.loadgen_rival URL RATE COUNT SEED``.

Its server scenario sends queries at Poisson times, and counts latency from the scheduled time. The system under test that it asks for is
here a pool of threads, each with one keep-alive connection, which post what our own generator posts. Prints the percentiles that LoadGen
states in its summary, as JSON: ``{"p50_ms": …, "p99_ms": …, "valid": …}``.

References
----------
Reddi et al., "MLPerf Inference Benchmark", 2020: the server scenario.
"""

from __future__ import annotations

import http.client
import json
import queue
import re
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path
from typing import Any

from benchmarks.faulty_service import REQUEST

THREADS = 64
"""Requests under way at most: at the rates that are compared, some five are."""

PATH = "/v1/rank"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


class _Pool:
    """The system under test, as LoadGen sees it."""

    def __init__(self, loadgen: Any, url: str) -> None:
        self._loadgen, self._host = loadgen, urllib.parse.urlsplit(url).netloc
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for _ in range(THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def issue(self, samples: list[Any]) -> None:
        """Called by LoadGen when a query is due."""
        for sample in samples:
            self._waiting.put(sample.id)

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self._host)
        while True:
            number = self._waiting.get()
            connection.request("POST", PATH, REQUEST.encode(), HEADERS)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"the service answered with {answer.status}")
            self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(number, 0, 0)])


def measure(url: str, rate_rps: float, count: int, seed: int) -> dict[str, float | bool]:
    """Send `count` queries; the percentiles of LoadGen's summary."""
    import mlperf_loadgen as loadgen

    settings = loadgen.TestSettings()
    settings.scenario, settings.mode = loadgen.TestScenario.Server, loadgen.TestMode.PerformanceOnly
    settings.server_target_qps, settings.server_target_latency_ns = rate_rps, 1_000_000_000
    settings.min_query_count = settings.max_query_count = count
    settings.min_duration_ms = 0
    settings.schedule_rng_seed = seed
    pool = _Pool(loadgen, url)
    system = loadgen.ConstructSUT(pool.issue, lambda: None)
    library = loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        logs = loadgen.LogSettings()
        logs.log_output.outdir = folder
        logs.enable_trace = False
        loadgen.StartTestWithLogSettings(system, library, settings, logs)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    return {
        "p50_ms": _percentile(summary, "50.00"),
        "p99_ms": _percentile(summary, "99.00"),
        "valid": "Result is : VALID" in summary,
    }


def _percentile(summary: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} percentile latency \(ns\)\s*:\s*(\d+)", summary, re.MULTILINE)
    if found is None:
        raise SystemExit(f"LoadGen's summary states no {name} percentile:\n{summary}")
    return int(found[1]) / 1e6


if __name__ == "__main__":
    address, rate, number, draw = sys.argv[1:]
    print(json.dumps(measure(address, float(rate), int(number), int(draw))))
