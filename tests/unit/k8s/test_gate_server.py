"""What the gate answers to Argo Rollouts, to Flagger, and to whoever sends something else."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from k8s import gate_server
from k8s.gate import Subject
from k8s.gate_server import CLIENT_LIMIT_S, MAX_BODY_BYTES, MAX_NAME_CHARS, GateServer

ARGO = "/verdict?release=6c54544bf9&step=2"
"""The URL of `docs/gate.md` after Argo Rollouts has resolved ``{{args.latest-hash}}``: a value of the label rollouts-pod-template-hash."""

FLAGGER = {"name": "my-ranker", "namespace": "models", "phase": "Progressing", "checksum": "85d557f47b"}
"""`CanaryWebhookPayload` of flagger/pkg/apis/flagger/v1beta1/canary.go, with the values of flagger/docs/gitbook/usage/webhooks.md. `metadata` is
left out where a webhook has none."""

FLAGGER_SURE = {**FLAGGER, "metadata": {"must": "pass"}}

NEWER_FLAGGER = FLAGGER | {
    "buildId": "b1",
    "type": "rollout",
    "failedChecks": 0,
    "canaryWeight": 30,
    "iterations": 0,
    "remainingTime": 18 * 10**10,
}
"""With what later versions send besides, in nanoseconds and per cent."""


@dataclass
class Asked:
    """A gate that says one thing."""

    status: str = "inconclusive"
    subjects: list[Subject] = field(default_factory=list)

    def ask(self, subject: Subject) -> Mapping[str, Any]:
        self.subjects.append(subject)
        return {"status": self.status, "sentence": "Not decided yet."}


@dataclass
class Rig:
    gate: Asked
    port: int

    def ask(self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if answer.headers.get_content_type() == "application/json" else content
        finally:
            connection.close()

    def post(self, payload: Any) -> int:
        return self.ask("POST", "/flagger", json.dumps(payload))[0]


@contextmanager
def serving(status: str = "inconclusive") -> Iterator[Rig]:
    gate: Any = Asked(status)
    with GateServer(gate, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Rig(gate, server.server_port)
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def _nothing_asked(rig: Rig) -> None:
    rig.gate.subjects.clear()


@pytest.mark.parametrize(("status", "flagger", "sure"), [("pass", 200, 200), ("fail", 412, 412), ("inconclusive", 200, 412)])
def test_a_verdict_is_three_answers_for_argo_and_two_for_flagger(status: str, flagger: int, sure: int) -> None:
    with serving(status) as rig:
        code, found = rig.ask("GET", ARGO)
        assert (code, found["status"]) == (200, status)
        assert (rig.post(FLAGGER), rig.post(NEWER_FLAGGER), rig.post(FLAGGER_SURE)) == (flagger, flagger, sure)


def test_argo_tells_releases_by_pod_hash_and_flagger_by_checksum(rig: Rig) -> None:
    rig.ask("GET", ARGO)
    rig.post(FLAGGER)
    rig.post(FLAGGER | {"metadata": {"step": "load"}})
    assert rig.gate.subjects == [Subject("6c54544bf9", "2"), Subject("85d557f47b"), Subject("85d557f47b", "load")]


def test_what_is_asked_about_may_be_url_encoded(rig: Rig) -> None:
    rig.ask("GET", "/verdict?step=a+b&release=v%31%2F2%26c")
    assert rig.gate.subjects == [Subject("v1/2&c", "a b")]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/verdict", 400),
        ("/verdict?release=", 400),
        ("/verdict?step=1", 400),
        ("/verdict?release=a&release=b", 400),
        ("/verdict?release=a&step=1&step=2", 400),
        ("/verdict?release=%ff", 400),
        ("/verdict?" + "&".join(f"a{number}=1" for number in range(20)), 400),
        (f"/verdict?release={'a' * (MAX_NAME_CHARS + 1)}", 400),
        ("/verdict/?release=a", 404),
        ("/flagger", 404),
        ("/", 404),
    ],
    ids=lambda value: str(value)[:30],
)
def test_questions_that_ask_about_nothing_are_refused_and_begin_no_load(rig: Rig, path: str, code: int) -> None:
    assert rig.ask("GET", path)[0] == code
    assert rig.gate.subjects == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", 400),
        ("[]", 400),
        ("{", 400),
        ("[" * 50_000, 400),
        (b"\xff", 400),
        ("{}", 400),
        ('{"name": "my-ranker", "namespace": "models", "phase": "Progressing"}', 400),
        ('{"checksum": 7}', 400),
        ('{"checksum": "a", "metadata": []}', 200),
        ('{"checksum": "a", "metadata": ["must"]}', 400),
        ('{"checksum": "a", "metadata": {"must": "Pass"}}', 400),
        ("x" * (MAX_BODY_BYTES + 1), 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_payloads_that_are_not_flaggers_are_refused(rig: Rig, body: str, code: int) -> None:
    assert rig.ask("POST", "/flagger", body)[0] == code
    assert len(rig.gate.subjects) == (code == 200)


@pytest.mark.parametrize(("length", "code"), [("many", 400), ("-1", 400), ("²", 400), ("1e3", 400), ("9" * 5000, 413)])
def test_a_length_that_is_none_is_refused_without_waiting_for_a_body(rig: Rig, length: str, code: int) -> None:
    assert rig.ask("POST", "/flagger", headers={"Content-Length": length.encode().decode("latin-1")})[0] == code


def test_a_payload_without_a_length_is_refused(rig: Rig) -> None:
    raw = b"POST /flagger HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", rig.port), timeout=10) as client:
        client.sendall(raw)
        assert b" 411 " in client.makefile("rb").readline()


@pytest.mark.parametrize(("method", "path", "code"), [("POST", "/verdict?release=a", 404), ("HEAD", ARGO, 501), ("PUT", "/flagger", 501)])
def test_other_methods_begin_no_load(rig: Rig, method: str, path: str, code: int) -> None:
    assert rig.ask(method, path, b"" if method == "POST" else None)[0] == code
    assert rig.gate.subjects == []


def test_huge_headers_are_refused(rig: Rig) -> None:
    assert rig.ask("GET", "/healthz", headers={"X-Long": "a" * 70_000})[0] == 431
    assert rig.ask("GET", "/healthz", headers={f"X-{number}": "a" for number in range(200)})[0] == 431


def test_a_client_that_says_nothing_keeps_nobody_waiting_and_is_hung_up_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gate_server._Handler.timeout == CLIENT_LIMIT_S
    monkeypatch.setattr(gate_server._Handler, "timeout", 0.3)
    silent = [socket.create_connection(("127.0.0.1", rig.port), timeout=10) for _ in range(5)]
    try:
        silent[1].sendall(b"GET /verd")
        silent[2].sendall(b"POST /flagger HTTP/1.1\r\nContent-Length: 20\r\n\r\n{")
        assert rig.ask("GET", "/healthz") == (200, {"status": "ok"})
        assert [client.recv(100) for client in silent] == [b""] * 5
    finally:
        for client in silent:
            client.close()
    assert rig.gate.subjects == []


@pytest.mark.parametrize(("error", "lines"), [(ConnectionResetError(), 0), (BrokenPipeError(), 0), (KeyError("a mistake of ours"), 1)])
def test_of_errors_the_log_has_ours_and_none_of_a_client_that_went_away(
    error: Exception, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    gate: Any = Asked()
    with GateServer(gate, "127.0.0.1", 0) as server:
        try:
            raise error
        except Exception:  # as socketserver does
            server.handle_error(None, ("127.0.0.1", 1))
    assert capsys.readouterr().err.count("Traceback") == lines


def test_questions_of_many_at_once_are_all_answered(rig: Rig) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(rig.ask("GET", ARGO)[0])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert codes == [200] * 20


def test_it_begins_without_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a name server was asked")

    monkeypatch.setattr(socket, "getfqdn", asked)
    gate: Any = Asked()
    with GateServer(gate, "127.0.0.1", 0) as server:
        assert server.server_port


def test_it_answers_where_pods_have_ipv6_alone() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    gate: Any = Asked()
    try:
        server = GateServer(gate, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            connection = http.client.HTTPConnection("::1", server.server_port, timeout=10)
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            server.shutdown()
            thread.join(10)
