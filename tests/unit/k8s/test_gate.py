"""The judge for Argo Rollouts and Flagger."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from k8s.errors import Unavailable
from k8s.gate import Gate, serve
from tests.clusters import Clock, Load
from tests.rollouts import plan


@contextmanager
def _gate(slow: float) -> Iterator[tuple[Load, str]]:
    clock = Clock()
    load = Load(clock, slow)
    gate = Gate(plan(), {"synthetic": load})
    with serve(gate, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield load, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            gate.close()


def _ask(url: str, payload: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, data=None if payload is None else json.dumps(payload).encode())  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - our own server
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(("slow", "status", "code"), [(1.0, "pass", 200), (2.0, "fail", 412)])
def test_a_verdict_is_three_answers_for_argo_and_two_for_flagger(slow: float, status: str, code: int) -> None:
    with _gate(slow) as (_, url):
        assert _ask(f"{url}/verdict?release=abc")[1]["status"] == status
        answered, found = _ask(f"{url}/flagger", {"name": "ranker", "checksum": "abc"})
        assert (answered, found["status"]) == (code, status)


def test_what_is_undecided_holds_nothing_against_a_canary_and_keeps_its_promotion_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Load, "look", lambda self: {})
    with _gate(1.0) as (_, url):
        assert _ask(f"{url}/verdict?release=abc")[1]["status"] == "inconclusive"
        assert _ask(f"{url}/flagger", {"checksum": "abc"})[0] == 200
        assert _ask(f"{url}/flagger", {"checksum": "abc", "metadata": {"must": "pass"}})[0] == 412


def test_a_load_that_died_passes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with _gate(1.0) as (_, url):
        assert _ask(f"{url}/verdict?release=abc")[1]["status"] == "pass"

        def dead(self: Load) -> None:
            raise Unavailable("the load generator died")

        monkeypatch.setattr(Load, "look", dead)
        found = _ask(f"{url}/verdict?release=abc")[1]
        assert found["status"] == "inconclusive"
        assert "the load generator died" in found["sentence"]


def test_another_release_is_judged_anew() -> None:
    with _gate(1.0) as (_, url):
        first, again, other = (_ask(f"{url}/verdict?release={name}")[1]["samples"] for name in ("abc", "abc", "def"))
        assert (first, again, other) == (400, 800, 400)


@pytest.mark.parametrize(("path", "payload", "code"), [("/nothing", None, 404), ("/nothing", {}, 404), ("/flagger", [], 412)])
def test_questions_that_are_none_are_refused(path: str, payload: Any, code: int) -> None:
    with _gate(1.0) as (_, url):
        assert _ask(url + path, payload)[0] == code
        assert _ask(f"{url}/healthz")[0] == 200
