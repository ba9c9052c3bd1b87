"""The service behind TLS with an authority of its own: trusted where that is said, and refused with what to do next where it is not."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadtests.errors import ServiceError
from loadtests.sources.access import Access, Caller
from loadtests.sources.service import fetch_service
from serving.contract.errors import SettingsError

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not there to sign a certificate")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = json.dumps({"models": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A caller who does not trust the certificate hangs up, which is no news."""


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    make = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=loopback -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [str(OPENSSL), *make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60
    )
    return certificate, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Path:
    return folder / "own.pem"


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[str]:
    certificate, key = _certificate(folder, "own")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_authority_of_one_s_own_is_trusted_where_it_is_named(host: str, authority: Path) -> None:
    assert fetch_service(Caller(host, Access(ca_file=authority))).models == ()


def test_without_it_the_certificate_does_not_hold(host: str, folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"certificate does not hold .*name the file of your own \(--ca-file"):
        fetch_service(Caller(host, Access()))
    other, _ = _certificate(folder, "other")
    with pytest.raises(SettingsError, match=f"certificate does not hold .*trusted are those of {other}"):
        fetch_service(Caller(host, Access(ca_file=other)))


def test_a_certificate_for_another_name_does_not_hold(host: str, authority: Path) -> None:
    with pytest.raises(SettingsError, match=r"certificate does not hold .*localhost"):
        fetch_service(Caller(host.replace("127.0.0.1", "localhost"), Access(ca_file=authority)))


def test_http_where_tls_is_spoken_is_explained(host: str) -> None:
    with pytest.raises(ServiceError, match="does the service speak https:// there"):
        fetch_service(Caller(host.replace("https", "http"), Access()))
