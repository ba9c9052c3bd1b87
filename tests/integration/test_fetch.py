"""`python -m serving.fetch` brings a bundle from HTTP and from an S3-compatible store, or says why not; nothing half-fetched is left to serve."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from serving.contract.bundle import RankingBundle, open_bundle, sha256_of
from serving.contract.errors import BundleError, PilotageError
from serving.fetch import FetchError, app, fetch
from serving.services.catalog import Catalog
from serving.services.settings import ServiceSettings

MANIFEST, GRAPH = "manifest.json", "model.onnx"


@dataclass
class Shelf:
    """An HTTP server of a folder; it answers an S3 client as well, whose signature it does not look at."""

    folder: Path
    address: str = ""
    cut: set[str] = field(default_factory=set)
    """Files of which the last byte is not sent."""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    redirect_to: str = ""

    def handler(shelf) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> bytes:
                parts = urlsplit(self.path)
                shelf.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                if shelf.redirect_to:
                    self.send_response(302)
                    self.send_header("Location", shelf.redirect_to + self.path)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return b""
                file = shelf.folder / unquote(parts.path).lstrip("/")
                if not file.is_file():
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return b""
                content = file.read_bytes()
                if file.name in shelf.cut:
                    content = content[:-1]
                status = 200
                if "Range" in self.headers:
                    first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                    whole, content, status = len(content), content[int(first) : int(last) + 1], 206
                    self.send_response(status)
                    self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{whole}")
                else:
                    self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                return content

            def do_GET(self) -> None:
                self.wfile.write(self._answer())

            def do_HEAD(self) -> None:
                self._answer()

            def log_message(self, *_: Any) -> None: ...

        return Handler


def _serve(shelf: Shelf) -> Iterator[Shelf]:
    with ThreadingHTTPServer(("127.0.0.1", 0), shelf.handler()) as server:
        shelf.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield shelf
        server.shutdown()
        thread.join()


@pytest.fixture
def shelf(tiny_bundle: RankingBundle, tmp_path: Path) -> Iterator[Shelf]:
    shutil.copytree(tiny_bundle.path, tmp_path / "shelf" / "shop" / "ranker")
    yield from _serve(Shelf(tmp_path / "shelf"))


@pytest.fixture
def sha256(tiny_bundle: RankingBundle) -> str:
    return sha256_of(tiny_bundle.path / MANIFEST)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "bundles" / "ranker"


def test_a_bundle_comes_whole_over_http(shelf: Shelf, sha256: str, target: Path) -> None:
    fetch(f"{shelf.address}/shop/ranker/", target, sha256)
    assert open_bundle(target, sha256).manifest.name == "tiny"
    assert sorted(path.name for path in target.parent.iterdir()) == ["ranker"]


def test_a_bundle_comes_from_an_s3_compatible_store(shelf: Shelf, sha256: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    endpoint = shelf.address.removeprefix("http://")
    fetch(f"s3://shop/ranker?region=us-east-1&scheme=http&endpoint_override={endpoint}", target, sha256)
    assert open_bundle(target, sha256)
    assert all("AWS4-HMAC-SHA256 Credential=someone/" in headers["authorization"] for _, headers in shelf.asked)


def test_a_bundle_that_is_there_is_not_fetched_again(shelf: Shelf, sha256: str, target: Path) -> None:
    fetch(f"{shelf.address}/shop/ranker", target, sha256)
    shelf.asked.clear()
    fetch(f"{shelf.address}/shop/ranker", target, sha256)
    assert not shelf.asked


def test_the_next_try_fetches_only_what_was_not_whole(shelf: Shelf, sha256: str, target: Path) -> None:
    shelf.cut = {GRAPH}
    with pytest.raises(FetchError, match=rf"'{GRAPH}' ended after \d+ of \d+ bytes"):
        fetch(f"{shelf.address}/shop/ranker", target, sha256)
    assert not target.exists()
    shelf.cut = set()
    said: list[str] = []
    fetch(f"{shelf.address}/shop/ranker", target, sha256, say=said.append)
    assert open_bundle(target, sha256)
    shutil.rmtree(target)
    staged = target.parent / f".{target.name}.partial"
    shutil.copytree(shelf.folder / "shop" / "ranker", staged)
    shelf.asked.clear()
    fetch(f"{shelf.address}/shop/ranker", target, sha256)
    assert [path for path, _ in shelf.asked] == [f"/shop/ranker/{MANIFEST}"]


def test_another_manifest_than_was_asked_for_is_refused_before_any_file(shelf: Shelf, target: Path) -> None:
    with pytest.raises(BundleError, match=f"{MANIFEST} has sha256 .*, {'0' * 64} was asked for"):
        fetch(f"{shelf.address}/shop/ranker", target, "0" * 64)
    assert len(shelf.asked) == 1


def test_an_altered_file_is_refused(shelf: Shelf, sha256: str, target: Path) -> None:
    graph = shelf.folder / "shop" / "ranker" / GRAPH
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError, match=f"'{GRAPH}' has sha256 .* the manifest says"):
        fetch(f"{shelf.address}/shop/ranker", target, sha256)
    assert not target.exists()


def test_a_file_without_end_is_not_written_to_the_disk(shelf: Shelf, sha256: str, target: Path) -> None:
    graph = shelf.folder / "shop" / "ranker" / GRAPH
    graph.write_bytes(graph.read_bytes() + b"\0" * 3_000_000)
    with pytest.raises(BundleError, match="is longer than the"):
        fetch(f"{shelf.address}/shop/ranker", target, sha256)
    assert (target.parent / f".{target.name}.partial" / GRAPH).stat().st_size <= 2**20


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "manifest.json"])
def test_a_name_that_leads_out_of_the_bundle_is_refused(shelf: Shelf, target: Path, name: str) -> None:
    manifest = shelf.folder / "shop" / "ranker" / MANIFEST
    document = json.loads(manifest.read_text())
    document["files"][name] = document["files"][GRAPH]
    manifest.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="no name of a file inside a bundle"):
        fetch(f"{shelf.address}/shop/ranker", target, sha256_of(manifest))
    assert not list(target.parent.parent.glob("**/outside"))


def test_another_bundle_at_the_target_is_left_alone(shelf: Shelf, target: Path, sha256: str) -> None:
    shutil.copytree(shelf.folder / "shop" / "ranker", target)
    with pytest.raises(BundleError, match="was asked for"):
        fetch(f"{shelf.address}/shop/ranker", target, "0" * 64)
    assert open_bundle(target, sha256)


def test_a_redirect_to_another_place_does_not_get_the_authorization(
    shelf: Shelf, sha256: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTAGE_FETCH_AUTHORIZATION", "Bearer secret")
    for door in _serve(Shelf(shelf.folder, redirect_to=shelf.address)):
        fetch(f"{door.address}/shop/ranker", target, sha256)
        assert {headers.get("authorization") for _, headers in door.asked} == {"Bearer secret"}
    assert {headers.get("authorization") for _, headers in shelf.asked} == {None}


def test_a_missing_bundle_is_told_without_what_grants_access(shelf: Shelf, sha256: str, target: Path) -> None:
    ran = CliRunner().invoke(app, [f"{shelf.address}/nowhere?signature=secret", str(target), "--sha256", sha256])
    assert ran.exit_code == 3
    assert "HTTP 404" in ran.output
    assert "secret" not in ran.output


def test_wrong_use_is_2(target: Path, sha256: str) -> None:
    ran = CliRunner().invoke(app, ["ftp://somewhere/ranker", str(target), "--sha256", sha256])
    assert ran.exit_code == 2
    assert "is none of https://, s3://" in ran.output
    with pytest.raises(PilotageError, match="64 hexadecimal digits"):
        fetch("https://127.0.0.1:1/ranker", target, "abc")


def test_a_source_that_is_not_there_is_infrastructure(target: Path, sha256: str, free_tcp_port: int) -> None:
    ran = CliRunner().invoke(app, [f"http://127.0.0.1:{free_tcp_port}/ranker", str(target), "--sha256", sha256])
    assert ran.exit_code == 3
    assert "cannot be reached" in ran.output


def test_a_worker_is_not_ready_with_another_bundle_than_was_pinned(
    tiny_bundle: RankingBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process has one registry of metrics, and it may belong to another file's service.
    monkeypatch.setattr("prometheus_client.REGISTRY", CollectorRegistry())
    catalog = Catalog()
    catalog.load(ServiceSettings(bundle=str(tiny_bundle.path), bundle_sha256="0" * 64, state_dir=tmp_path))
    assert f"{'0' * 64} was asked for" in (catalog.not_ready or "")
