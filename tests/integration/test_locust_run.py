"""The real command with a real Locust against a small real server on loopback; this file is that server, too."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

SPEC = {
    "name": "ads",
    "fields": [
        {"kind": "categorical", "name": "user", "part": "user", "buckets": 1000, "dim": 4},
        {"kind": "categorical", "name": "brand", "part": "candidate", "buckets": 100, "dim": 4},
        {"kind": "numeric", "name": "price", "part": "candidate", "min": 0, "max": 100},
    ],
}
MODEL = {"name": "ads", "version": "7", "family": "ranking", "features": SPEC, "max_candidates": 200}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    mode = "good"

    def do_GET(self) -> None:
        families = {"no-ranking": []}
        self._answer(200 if self.path == "/v1/models" else 404, {"models": families.get(self.mode, [MODEL])})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.mode == "gone":
            # Dies under load, as a crashed worker does.
            os._exit(1)
        if self.mode == "broken":
            self._answer(500, {"error": {"code": "internal", "message": "broken", "violations": []}})
            return
        ranking = [{"id": candidate["id"], "probability": 0.5} for candidate in body["candidates"][: body["top_k"]]]
        self._answer(200, {"model": {"name": "ads", "version": "7"}, "request_id": "r", "ranking": ranking if self.mode == "good" else []})

    def _answer(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Serve = Callable[[str], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    children: list[subprocess.Popen[str]] = []

    def start(mode: str) -> str:
        child = subprocess.Popen([sys.executable, __file__, mode], stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None
        return f"http://127.0.0.1:{int(child.stdout.readline())}"

    yield start
    for child in children:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _loadtest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from loadtests.cli import app; app()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, stdin=subprocess.DEVNULL)


def test_loadtest_writes_a_report_of_what_it_measured(serve: Serve, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _loadtest("--host", serve("good"), "--duration-s", "3", "--users", "2", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert report["schema_version"] == 2
    assert (report["model_name"], report["model_version"], report["users"]) == ("ads", "7", 2)
    assert (report["failures"], report["errors"], report["open_loop"]) == (0, {}, False)
    assert report["requests"] > 10
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["max"]
    assert [group["min_size"] for group in report["sizes"]] == [20, 100, 200]
    assert "coordinated omission" in (out / "report.html").read_text()
    with np.load(out / "samples.npz", allow_pickle=False) as samples:
        assert len(samples["latency_ms"]) == report["requests"]
    assert "report:" in done.stderr


def test_recorded_requests_are_sent_instead_of_made_up_ones(serve: Serve, tmp_path: Path) -> None:
    recorded = tmp_path / "requests.jsonl"
    recorded.write_text('{"user":{},"context":{},"candidates":[{"id":"a"},{"id":"b"}],"top_k":2}\n')
    done = _loadtest("--host", serve("good"), "--duration-s", "1", "--requests-file", str(recorded), "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(each["recorded"], each["bodies"]) for each in report["sent"]] == [(True, 1)]
    assert [group["max_size"] for group in report["sizes"]] == [2]


@pytest.mark.parametrize(("mode", "kind"), [("broken", "HTTP 500 internal"), ("empty", "answer without a usable ranking")])
def test_failed_requests_are_counted_and_fail_the_test(serve: Serve, tmp_path: Path, mode: str, kind: str) -> None:
    done = _loadtest("--host", serve(mode), "--duration-s", "1", "--out", str(tmp_path), "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["errors"] == {kind: report["requests"]}
    assert (report["error_pct"], report["latency_ms"]) == (100.0, None)
    assert "FAILED" in done.stderr


def test_a_service_that_dies_under_load_is_reported_as_failures(serve: Serve, tmp_path: Path) -> None:
    done = _loadtest("--host", serve("gone"), "--duration-s", "1", "--users", "1", "--out", str(tmp_path), "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["failures"] == report["requests"]
    assert all(kind.startswith("no answer: ") for kind in report["errors"])
    # Refused connections come back at once; without a pause there would be thousands.
    assert report["requests"] < 100


def test_an_unreachable_service_is_infrastructure_and_leaves_no_old_report_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = _loadtest("--host", f"http://127.0.0.1:{port}", "--out", str(tmp_path))
    assert done.returncode == 3
    assert "start the service" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "report.json").exists()


def test_a_service_without_a_model_is_infrastructure(serve: Serve, tmp_path: Path) -> None:
    done = _loadtest("--host", serve("no-ranking"), "--out", str(tmp_path))
    assert done.returncode == 3
    assert "serves no model" in done.stderr


@pytest.mark.parametrize("wrong", ["--profile=absent", "--users=0", "--host=127.0.0.1:3000", "--candidates=x", "--colour"])
def test_wrong_use_is_told_apart(wrong: str, tmp_path: Path) -> None:
    done = _loadtest("--out", str(tmp_path), wrong)
    assert done.returncode == 2, done.stderr


def test_plain_locust_runs_the_file_and_writes_nothing_unasked(serve: Serve, tmp_path: Path) -> None:
    locustfile = Path(__file__).parents[2] / "loadtests" / "users" / "locustfile.py"
    arguments = ["--headless", "--host", serve("good"), "-u", "1", "-t", "1s", "--only-summary", "--json", "--skip-log"]
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert (entry["name"], entry["num_failures"]) == ("rank", 0)
    assert list(tmp_path.iterdir()) == []


def test_plain_locust_stops_at_once_when_there_is_no_service(tmp_path: Path) -> None:
    locustfile = Path(__file__).parents[2] / "loadtests" / "users" / "locustfile.py"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--host", f"http://127.0.0.1:{port}", "-t", "100s"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 3
    assert "start the service" in done.stderr


if __name__ == "__main__":
    _Handler.mode = sys.argv[1]
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
