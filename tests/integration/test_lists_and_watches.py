"""Lists that the server forgets between two pages, and watches as they end: cleanly, with an error, in the middle of a line."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client

from k8s.cluster.api import LISTS, Api
from k8s.cluster.journal import RECORD
from k8s.errors import Unavailable
from k8s.installation import Installation
from k8s.rollout.record import Record
from tests.api_server import Refuse
from tests.clusters import NAMES, Cluster, api_of, cluster, roll_out_in
from tests.rollouts import plan

GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
BROKEN = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcdserver: no leader"}}
CUT = "cut"
"""In place of an event: the connection breaks in the middle of a line."""

Script = Sequence[Any]


class _Server(ThreadingHTTPServer):
    """Answers each watch with the next script: events, one a line; a number is an HTTP status instead."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scripts = list(scripts)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        script = self.server.scripts.pop(0)
        if script and isinstance(script[0], int):
            content = json.dumps({"kind": "Status", "code": script[0], "message": "said by the test"}).encode()
            self.send_response(script[0])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in script:
            line = b'{"type":"MODI' if event is CUT else json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            if event is CUT:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def _watched(*scripts: Script) -> Iterator[tuple[Api, _Server]]:
    with _Server(scripts) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        configuration = client.Configuration()
        configuration.host = f"http://127.0.0.1:{server.server_port}"
        configuration.retries = False
        try:
            yield Api(client.ApiClient(configuration)), server
        finally:
            server.shutdown()
            thread.join(10)


def _event(kind: str, number: int) -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": "x"}, "data": {"number": number}}}


def _numbers(api: Api) -> list[int]:
    return [found["data"]["number"] for found in api.watch("/api/v1/namespaces/models/configmaps", "x", 5)]


@pytest.fixture
def here() -> Iterator[Cluster]:
    with cluster() as installation:
        yield installation


def test_a_watch_that_ends_cleanly_has_told_everything() -> None:
    with _watched([_event("ADDED", 1), _event("MODIFIED", 2)]) as (api, _):
        assert _numbers(api) == [1, 2]


def test_a_bookmark_is_no_change() -> None:
    bookmark = {"type": "BOOKMARK", "object": {"kind": "ConfigMap", "metadata": {"resourceVersion": "7"}}}
    with _watched([_event("ADDED", 1), bookmark, _event("MODIFIED", 2)]) as (api, _):
        assert _numbers(api) == [1, 2]


def test_a_watch_that_the_server_cannot_go_on_with_ends_and_the_next_begins_with_what_is() -> None:
    with _watched([_event("ADDED", 1), GONE, _event("MODIFIED", 2)], [_event("ADDED", 3)]) as (api, _):
        assert _numbers(api) == [1]
        assert _numbers(api) == [3]


def test_another_error_is_said_and_may_be_tried_again() -> None:
    with _watched([_event("ADDED", 1), BROKEN]) as (api, _), pytest.raises(Unavailable, match="500 etcdserver: no leader"):
        _numbers(api)


@pytest.mark.parametrize(("script", "said"), [([_event("ADDED", 1), CUT], "ended"), ([410], "410"), ([503], "503")])
def test_a_watch_that_breaks_or_cannot_begin_is_unavailable(script: Script, said: str) -> None:
    with _watched(script) as (api, _), pytest.raises(Unavailable, match=said):
        _numbers(api)


def test_the_record_is_followed_over_every_end_of_a_watch_without_a_storm_of_questions(here: Cluster) -> None:
    record = roll_out_in(here.server, plan(step=[{"weight_pct": 10, "samples": 1000}]), slow=2.0)
    records = [record.model_copy(update={"progress": str(number)}) for number in range(5)]

    def event(kind: str, told: Record) -> dict[str, Any]:
        return {"type": kind, "object": {"data": {RECORD: told.to_json()}}}

    deleted = {"type": "DELETED", "object": {"data": {RECORD: record.to_json()}}}
    scripts: list[Script] = [
        [event("ADDED", records[0])], [event("ADDED", records[1]), GONE], [503], [], [event("ADDED", records[2]), CUT], [410],
        [event("ADDED", records[3]), deleted], [BROKEN], [{"type": "ADDED", "object": {"metadata": {}}}, event("MODIFIED", records[4])],
    ]  # fmt: skip
    with _watched(*scripts) as (api, server):
        installation, pauses = Installation(NAMES, api), list[float]()
        installation._clock = SimpleNamespace(now_s=lambda: 0.0, sleep=pauses.append)
        changes = installation.changes()
        assert [next(changes) for _ in records] == records
        assert server.scripts == []
        assert len(pauses) == len(scripts) - 1
        assert min(pauses) > 0


def test_a_list_whose_rest_is_forgotten_is_begun_again_and_holds_nothing_twice(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s.cluster.api.PAGE", 2)
    asked = 0

    def forget(method: str, path: str) -> None:
        nonlocal asked
        asked += path == NAMES.pods
        if asked == 2:
            more = copy.deepcopy(here.server.objects[f"{NAMES.pods}/ranker-pilotage-stable-0"])
            more["metadata"]["name"] = "a-pod"  # before those that were read already
            here.server.objects[f"{NAMES.pods}/a-pod"] = more
            raise Refuse(410, "The provided continue parameter is too old")

    here.server.fault = forget
    found = api_of(here.server).list(NAMES.pods, {"pilotage.dev/arm": "stable"})
    assert [each["metadata"]["name"] for each in found] == ["a-pod", *(f"ranker-pilotage-stable-{number}" for number in range(3))]
    assert asked == 4


def test_a_list_that_is_forgotten_each_time_is_given_up(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s.cluster.api.PAGE", 2)
    asked = 0

    def forget(method: str, path: str) -> None:
        nonlocal asked
        asked += 1
        if asked % 2 == 0:
            raise Refuse(410, "The provided continue parameter is too old")

    here.server.fault = forget
    with pytest.raises(Unavailable, match="too old"):
        api_of(here.server).list(NAMES.pods, {"pilotage.dev/arm": "stable"})
    assert asked == 2 * LISTS


def test_a_list_that_cannot_even_begin_is_not_begun_again(here: Cluster) -> None:
    asked: list[str] = []

    def forget(method: str, path: str) -> None:
        asked.append(path)
        raise Refuse(410, "too old resource version")

    here.server.fault = forget
    with pytest.raises(Unavailable, match="too old"):
        api_of(here.server).list(NAMES.pods, {})
    assert len(asked) == 1
