"""A whole rollout on this machine that compares answers to copies of live requests: real Envoy, real processes, users with tokens."""

from __future__ import annotations

import http.client
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k8s.local.fleet import Launch
from k8s.local.laptop import Laptop
from k8s.local.processes import free_port
from k8s.rollout.arms import Release, Weights
from k8s.rollout.plan import Plan
from k8s.rollout.report import decided_by, write_report
from tests.laptop import PLAN, Made, release
from tests.upstreams import meanwhile

pytest.importorskip("envoy", reason="Envoy comes with pilotage[local]")

TOKEN, SEEN_BY_NOBODY = "Bearer 0b5cf1ae", "customer-55172"

# Scores candidates by their ids; the version "wrong" by other ones. Asks for the token, as a service does that has one.
SERVICE = f"""
import json, sys, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True
    def do_GET(self):
        self.answer(200, b"ready")
    def do_POST(self):
        document = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != "{TOKEN}":
            return self.answer(401, b"no token")
        salt = "other " if sys.argv[2] == "wrong" else ""
        score = lambda each: zlib.crc32((salt + str(each["id"])).encode()) % 1000 / 1000
        ranking = sorted(({{"id": each["id"], "probability": score(each)}} for each in document["candidates"]), key=lambda each: -each["probability"])
        self.answer(200, json.dumps({{"ranking": ranking[:document.get("top_k", len(ranking))]}}).encode())
    def answer(self, status, content):
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *args):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

COPYING = Plan.model_validate(
    PLAN.model_dump(by_alias=True)
    | {"answers": {"mirror_pct": 60, "rate_per_s": 400}, "step": [{"weight_pct": 0, "samples": 100_000, "timeout_s": 60}]}
)


def launch(release: Release, port: int) -> Launch:
    return Launch([sys.executable, "-I", "-S", "-c", SERVICE, str(port), release.name])


@contextmanager
def users(port: int) -> Iterator[Counter[int]]:
    """Rank with a token until the block ends, some 200 times a second; counts by status."""
    statuses: Counter[int] = Counter()

    def ask(is_over: Callable[[], bool]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while not is_over():
            candidates = [{"id": random.randrange(10**9)} for _ in range(20)]
            body = json.dumps({"user": {"name": SEEN_BY_NOBODY}, "candidates": candidates, "top_k": 3})
            connection.request("POST", "/v1/rank", body, {"content-type": "application/json", "authorization": TOKEN})
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
            time.sleep(0.005)
        connection.close()

    with meanwhile(ask):
        yield statuses


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path / "rollout", free_port(), launcher=launch, end_with_us=True)
    laptop.serve(release("old"))
    yield laptop
    laptop.close()


def written(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_wrong_release_is_stopped_by_live_requests_alone(here: Laptop, capfd: pytest.CaptureFixture[str]) -> None:
    with users(int(here.host.rpartition(":")[2])) as statuses:
        record = here.roll_out(COPYING, release("wrong"), generator=Made(1.0))
    assert (record.outcome, record.conclusion, decided_by(record)) == ("rolled_back", "fail", "judge"), record.why
    assert record.why.startswith("Other answers after")
    assert "copies of live requests" in record.why
    assert record.weights == here.router.read() == Weights()
    assert here.router.split().mirror_pct == 0
    assert set(statuses) == {200}
    write_report(record, here.folder / "report")
    said = written(here.folder) + "".join(capfd.readouterr()).encode()
    assert b"copies of live requests" in said
    for secret in (TOKEN, TOKEN.split()[1], SEEN_BY_NOBODY):
        assert secret.encode() not in said


def test_a_release_that_answers_alike_is_promoted_by_live_requests_alone(here: Laptop) -> None:
    with users(int(here.host.rpartition(":")[2])) as statuses:
        record = here.roll_out(COPYING, release("right"), generator=Made(1.0))
    assert (record.outcome, here.fleet.stable_release().name) == ("promoted", "right"), record.why
    assert {judged.source: judged.verdict["status"] for judged in record.verdicts} == {"synthetic": "pass", "answers": "pass"}
    assert here.router.split().mirror_pct == 0
    assert here.router.ports("engine") == []
    assert set(statuses) == {200}
