"""The same recorded requests, answered by both versions."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from k8s.errors import Unavailable
from k8s.rollout import comparing as module
from k8s.rollout import loading
from k8s.rollout.answers import AnswerLimits
from k8s.rollout.arms import Arm
from k8s.rollout.collector import Collector
from k8s.rollout.comparing import Comparer, read_recorded, requests_of
from k8s.rollout.loading import Compared, Comparing
from k8s.rollout.plan_tables import Step
from k8s.rollout.ports import Look
from k8s.rollout.questions import Asked
from loadtests.judge import Batch
from serving.contract.errors import SettingsError

IMAGE = {"images": ["aGk="], "labels": ["a cat", "a dog"]}


def test_all_candidates_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"candidates": [{"id": 1}], "top_k": 1}\n\n{"candidates": [{"id": 2}]}\n{"candidates": [{"id": 3}]}\n')
    assert [json.loads(asked.body) for asked in read_recorded(path, 2)] == [{"candidates": [{"id": 1}]}, {"candidates": [{"id": 2}]}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no request"),
        ("{}", "line 1: it has neither candidates"),
        (json.dumps(IMAGE) + '\n{"images": ["aGk="]}', "line 2: it has neither candidates to rank, nor images with labels"),
        ("no JSON", "cannot be read"),
    ],
)
def test_a_file_without_requests_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(content)
    with pytest.raises(SettingsError, match=said):
        read_recorded(path, 10)


def test_recorded_requests_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDED_BYTES", 100)
    path = tmp_path / "requests.jsonl"
    path.write_text(3 * '{"candidates": [{"id": "1234567890"}]}\n')
    assert len(read_recorded(path, 2)) == 2
    with pytest.raises(SettingsError, match="first 3 lines take over 100 bytes"):
        read_recorded(path, 3)


def test_rankings_load_the_arms_too_and_images_are_compared_alone(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"candidates": [{"id": 1}]}\n')
    assert requests_of(path, None) == ([], path)
    asked, sent = requests_of(path, AnswerLimits())
    assert ([each.path for each in asked], sent) == (["/v1/rank"], path)
    path.write_text('{"candidates": [{"id": 1}]}\n' + json.dumps(IMAGE))
    asked, sent = requests_of(path, AnswerLimits())
    assert ([each.path for each in asked], sent) == (["/v1/rank", "/v1/classify"], None)
    assert json.loads(asked[1].body) == IMAGE
    path.write_text(json.dumps(IMAGE))
    with pytest.raises(SettingsError, match=r"no table \[answers\]"):
        requests_of(path, None)
    assert requests_of(None, AnswerLimits()) == ([], None)


class Requests(list[str]):
    """Arms that were asked, in their order.

    Attributes
    ----------
    tokens
        Of each request.
    refusing
        Arms that answer each with 422.
    garbled
        Whether the canary answers with something else.
    """

    def __init__(self) -> None:
        self.tokens: list[str | None] = []
        self.refusing: set[str] = set()
        self.garbled = False


@pytest.fixture
def arms() -> Iterator[tuple[str, Requests]]:
    """A service whose canary ranks the other way round, and fails each third request."""
    asked = Requests()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            ids = [each["id"] for each in json.loads(self.rfile.read(int(self.headers["content-length"])))["candidates"]]
            arm = self.headers["x-pilotage-arm"]
            asked.append(arm)
            asked.tokens.append(self.headers["authorization"])
            failed = arm == "canary" and asked.count("canary") % 3 == 0
            scores = [0.75, 0.25] if arm == "stable" else [0.25, 0.75]
            ranking = sorted(({"id": a, "probability": s} for a, s in zip(ids, scores, strict=True)), key=lambda each: -each["probability"])
            content = json.dumps({"ranking": ranking[asked.garbled and arm == "canary" :]}).encode()
            self.send_response(422 if arm in asked.refusing else 500 if failed else 200)
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
    arms: tuple[str, Requests], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.rollout.comparing.BACKOFF_S", 0.0)
    host, asked = arms
    comparer = Comparer(host, [Asked(b'{"candidates": [{"id": 1}, {"id": 2}]}')] * 6, ("canary", "stable"), top_k=1, rate_per_s=1000)
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
    np.testing.assert_array_equal(answers.refused, np.zeros((4, 2)))
    assert not answers.images.any()
    assert comparer.take() == {}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_token_goes_to_all_arms_with_its_request_and_to_none_with_another(arms: tuple[str, Requests]) -> None:
    host, asked = arms
    body = b'{"candidates": [{"id": 1}, {"id": 2}]}'
    comparer = Comparer(host, [Asked(body, "Bearer one"), Asked(body)], ("canary", "stable"), top_k=1, rate_per_s=1000)
    until(lambda: len(asked) == 4)
    comparer.close()
    assert asked.tokens == ["Bearer one"] * 2 + [None] * 2


def test_a_request_that_all_arms_refuse_is_compared_by_nobody_and_holds_up_no_other(
    arms: tuple[str, Requests], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.rollout.comparing.BACKOFF_S", 3600.0)
    host, asked = arms
    asked.refusing = {"canary", "stable"}
    comparer = Comparer(host, [Asked(b'{"candidates": [{"id": 1}, {"id": 2}]}')] * 3, ("canary", "stable"), top_k=1, rate_per_s=1000)
    until(lambda: len(asked) == 6)
    comparer.close()
    assert comparer.take() == {}


@pytest.mark.parametrize(("refusing", "garbled", "found"), [("canary", False, [1, 0]), ("stable", False, [0, 1]), ("", True, [1, 0])])
def test_what_one_version_takes_and_the_other_refuses_or_does_not_understand_is_told_apart(
    arms: tuple[str, Requests], refusing: str, garbled: bool, found: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.rollout.comparing.BACKOFF_S", 3600.0)
    host, asked = arms
    asked.refusing, asked.garbled = {refusing}, garbled
    comparer = Comparer(host, [Asked(b'{"candidates": [{"id": 1}, {"id": 2}]}')] * 2, ("canary", "stable"), top_k=1, rate_per_s=1000)
    until(lambda: len(asked) == 4)
    comparer.close()
    answers = comparer.take()["canary"]
    np.testing.assert_array_equal(answers.refused, [found] * 2)
    assert len(answers.sizes) == len(answers.stable_scores) == 0


def test_arms_are_asked_where_they_are_if_that_is_known(arms: tuple[str, Requests]) -> None:
    host, asked = arms
    body = Asked(b'{"candidates": [{"id": 1}, {"id": 2}]}')
    comparer = Comparer("http://127.0.0.1:9", [body], ("canary", "stable"), 1, 1000, {"canary": host, "stable": host})
    until(lambda: len(asked) == 2)
    comparer.close()
    assert set(asked) == {"canary", "stable"}


class Copying:
    """A collector of copies on loopback, and who sends them."""

    def __init__(self) -> None:
        self.ports: Sequence[int] = ()
        self.collector = Collector("127.0.0.1", 0, self._tell)

    def _tell(self, ports: Sequence[int]) -> None:
        self.ports = ports

    def send(self, body: bytes, token: str = "") -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=10)
        connection.request("POST", "/v1/rank", body, {"authorization": token} if token else {})
        assert connection.getresponse().status == 204
        connection.close()


LIVE, RECORDED = b'{"candidates": [{"id": 1}, {"id": 2}], "top_k": 1}', b'{"candidates": [{"id": 3}, {"id": 4}]}'


def test_where_copies_come_answers_are_compared_on_them_alone(arms: tuple[str, Requests]) -> None:
    host, asked = arms
    copying = Copying()
    comparing = Comparing(host, AnswerLimits(mirror_pct=5, rate_per_s=1000), [Asked(RECORDED)] * 5, copying.collector)
    comparing.begin(("canary", "stable"))
    try:
        for _ in range(2):
            copying.send(LIVE, "Bearer live")
        until(lambda: len(asked) == 4)
        assert asked.tokens == ["Bearer live"] * 4
        found: dict[Arm, object] = {}
        until(lambda: bool(found.update(comparing.take()) or found))
        (answers,) = found.values()
        assert "copies of live requests" in answers.note  # type: ignore[attr-defined]
    finally:
        comparing.end()
    assert copying.ports == []


def test_no_more_copies_are_compared_in_a_step_than_the_plan_says(arms: tuple[str, Requests]) -> None:
    host, asked = arms
    copying = Copying()
    limits = AnswerLimits(mirror_pct=5, rate_per_s=1000).model_copy(update={"requests": 2})
    comparing = Comparing(host, limits, [], copying.collector)
    comparing.begin(("canary", "stable"))
    try:
        for _ in range(6):
            copying.send(LIVE)
        until(lambda: len(asked) >= 4)
        assert comparing._copies is not None
        until(lambda: "4 left: more than are compared" in str(comparing._copies))
        assert len(asked) == 4
    finally:
        comparing.end()


def test_copies_of_which_none_can_be_compared_are_told_once(arms: tuple[str, Requests], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "QUIET_S", 0.0)
    copying = Copying()
    comparing = Comparing(arms[0], AnswerLimits(mirror_pct=5), [], copying.collector)
    comparing.begin(("canary", "stable"))
    try:
        assert comparing.take() == {}  # none came: that may be the router's time, or the night
        copying.send(b"no ranking request")
        until(lambda: "without candidates" in str(comparing._copies))
        with pytest.raises(Unavailable, match="no answers could be compared for 0 s: 1 copies of live requests, 1 left: without"):
            comparing.take()
        assert comparing.take() == {}
    finally:
        comparing.end()


class Counted:
    """A source of requests that saw something of the canary each second look."""

    def __init__(self) -> None:
        self.looks, self.running = 0, False

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        self.running = True

    def look(self) -> Mapping[Arm, Look]:
        self.looks += 1
        return {"canary": Look(Batch())} if self.looks % 2 else {}

    def end(self) -> None:
        self.running = False


def test_answers_are_compared_beside_any_source_of_requests(arms: tuple[str, Requests]) -> None:
    host, _ = arms
    source = Counted()
    both = Compared(source, Comparing(host, AnswerLimits(rate_per_s=1000), [Asked(LIVE)] * 3))
    both.begin(Step(weight_pct=5), ("canary", "stable"))
    assert source.running
    seen: list[Look] = []
    until(lambda: bool(seen.extend(both.look().values()) or [look for look in seen if look.answers is not None]))
    both.end()
    assert not source.running
    assert source.looks >= 1
