"""Prometheus behind a token and an authority of its own."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster.prometheus import PrometheusAccess
from k8s.errors import Refused, Unavailable

OPENSSL = shutil.which("openssl")


class _Server(ThreadingHTTPServer):
    """Answers whoever has the token.

    Attributes
    ----------
    expects
        Token; None: nobody needs one.
    elsewhere
        Where everybody is sent instead; empty: nowhere.
    heard
        The header ``Authorization`` of each question.
    """

    expects: str | None = None
    elsewhere = ""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[str | None] = []
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Whoever does not trust the certificate hangs up, which is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        said = self.headers.get("Authorization")
        self.server.heard.append(said)
        content = json.dumps(
            {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [0, "1"]}]}}
        ).encode()
        if self.server.elsewhere:
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere + self.path)
            content = b""
        else:
            self.send_response(200 if self.server.expects is None or said == f"Bearer {self.server.expects}" else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def _prometheus(context: ssl.SSLContext | None = None) -> Iterator[_Server]:
    with _Server(context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


def test_the_token_is_read_for_each_question_since_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    with _prometheus() as server:
        access = PrometheusAccess(server.url + "/", file)
        server.expects = "first"
        assert access.ask("up") == [{"metric": {}, "value": [0, "1"]}]
        server.expects = "second"
        with pytest.raises(Unavailable, match="401") as told:
            access.ask("up")
        assert "first" not in str(told.value)
        file.write_text("second\n")
        assert access.ask("up")
        assert server.heard == ["Bearer first", "Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", [None, "\n"])
def test_without_a_token_in_the_file_nothing_is_asked_and_it_is_tried_again(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    with _prometheus() as server:
        with pytest.raises(Unavailable, match="token"):
            PrometheusAccess(server.url, tmp_path / "token").ask("up")
        assert server.heard == []


def test_whoever_it_is_redirected_to_gets_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    with _prometheus() as server, _prometheus() as other:
        server.elsewhere = other.url
        assert PrometheusAccess(server.url, tmp_path / "token").ask("up")
        assert (server.heard, other.heard) == (["Bearer secret"], [None])


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not there to sign a certificate")
def test_a_certificate_is_trusted_by_the_authority_that_was_given_and_by_no_other(tmp_path: Path) -> None:
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    certificate, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    subprocess.run(
        [str(OPENSSL), *make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with _prometheus(context) as server:
        assert PrometheusAccess(server.url, ca_file=certificate).ask("up")
        with pytest.raises(Unavailable, match="certificate verify failed"):
            PrometheusAccess(server.url).ask("up")


def test_another_protocol_is_refused() -> None:
    with pytest.raises(Refused, match="begins with http"):
        PrometheusAccess("file:///etc").ask("up")
