"""The same recorded requests, answered by both versions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from k8s.errors import Refused
from k8s.rollout.comparing import Comparer, compare, read_bodies, scores_of


def test_scores_are_read_in_falling_order() -> None:
    assert scores_of({"ranking": [{"id": "a", "probability": 0.9}, {"id": 2, "probability": 0.1}]}) == {"a": 0.9, 2: 0.1}


@pytest.mark.parametrize("ranking", [[{"id": "a", "probability": 0.9}] * 2, [{"id": "a", "probability": 1.5}]])
def test_answers_that_cannot_be_compared_are_left_out(ranking: list[dict[str, object]]) -> None:
    assert scores_of({"ranking": ranking}) is None


def test_candidates_are_put_side_by_side_whatever_their_order() -> None:
    assert compare({"a": 0.9, "b": 0.5, "c": 0.1}, {"c": 0.8, "a": 0.4, "b": 0.2}, 2) == ([0.9, 0.5, 0.1], [0.4, 0.2, 0.8], 0.5)


@pytest.mark.parametrize("canary", [None, {}, {"a": 0.9}])
def test_other_candidates_are_no_comparison(canary: dict[str | int, float] | None) -> None:
    assert compare({"a": 0.9, "b": 0.5}, canary, 2) is None


def test_all_candidates_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"candidates": [{"id": 1}], "top_k": 1}\n\n{"candidates": [{"id": 2}]}\n{"candidates": [{"id": 3}]}\n')
    assert [json.loads(body) for body in read_bodies(path, 2)] == [{"candidates": [{"id": 1}]}, {"candidates": [{"id": 2}]}]


@pytest.mark.parametrize(("content", "said"), [("", "holds no request"), ("{}", "no candidates"), ("no JSON", "cannot be read")])
def test_a_file_without_requests_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(content)
    with pytest.raises(Refused, match=said):
        read_bodies(path, 10)


@pytest.fixture
def arms() -> Iterator[tuple[str, list[str]]]:
    """A service whose canary ranks the other way round, and fails each third request."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            ids = [each["id"] for each in json.loads(self.rfile.read(int(self.headers["content-length"])))["candidates"]]
            arm = self.headers["x-pilotage-arm"]
            asked.append(arm)
            failed = arm == "canary" and asked.count("canary") % 3 == 0
            scores = [0.75, 0.25] if arm == "stable" else [0.25, 0.75]
            ranking = sorted(({"id": a, "probability": s} for a, s in zip(ids, scores, strict=True)), key=lambda each: -each["probability"])
            content = json.dumps({"ranking": ranking}).encode()
            self.send_response(500 if failed else 200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_both_versions_are_asked_the_same_and_failures_are_left_to_others(
    arms: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.rollout.comparing.BACKOFF_S", 0.0)
    host, asked = arms
    comparer = Comparer(host, [b'{"candidates": [{"id": 1}, {"id": 2}]}'] * 6, ("canary", "stable"), top_k=1, rate_per_s=1000)
    deadline = time.monotonic() + 10
    while len(asked) < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    comparer.close()
    answers = comparer.take()["canary"]
    assert asked.count("stable") == asked.count("canary") == 6
    assert asked[0] != asked[2]  # who is first changes
    np.testing.assert_array_equal(answers.sizes, [2, 2, 2, 2])
    np.testing.assert_array_equal(answers.stable_scores, [0.75, 0.25] * 4)
    np.testing.assert_array_equal(answers.canary_scores, [0.25, 0.75] * 4)
    np.testing.assert_array_equal(answers.overlap, np.zeros(4))
    assert comparer.take() == {}
