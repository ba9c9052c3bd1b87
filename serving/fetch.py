"""``python -m serving.fetch``: bring a bundle from HTTPS or an object store, before a pod serves it.

A bundle is fetched as it lies in its folder: the manifest, whose SHA-256 the caller knows, then each file that it lists, hashed as it
arrives. There is no archive, and so nothing to unpack. Files that are whole are kept when a later one fails: the next try goes on there.

Exit codes: 0 the bundle is there, 2 wrong use, or another bundle than was asked for, 3 the source cannot be reached.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Protocol, cast

import typer

from serving.contract.bundle import MAX_MANIFEST_BYTES, open_bundle, parse_manifest, require_sha256, sha256_of
from serving.contract.errors import BundleError, PilotageError
from serving.contract.files import sync
from serving.contract.manifest import MANIFEST_NAME, FileEntry

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

STORES = ("s3", "gs", "abfs", "abfss")
"""What pyarrow opens by its address; credentials are found as that store's own tools find them."""

AUTHORIZATION = "PILOTAGE_FETCH_AUTHORIZATION"
"""Variable with the header ``Authorization`` for HTTP sources; a redirect to another place does not get it."""

TIMEOUT_S = 30.0
"""Longest silence of an HTTP source: a healthy one sends something every second, and the kubelet starts a failed download again."""

PIECE_BYTES = 2**20


class FetchError(PilotageError):
    """The source cannot be reached, or ended before a file did; to try again may help."""

    exit_code = 3


class Stream(Protocol):
    """What is read from, and closed."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


Source = Callable[[str], Stream]
"""Opens one file of the bundle by its name."""


@app.command()
def main(
    source: Annotated[str, typer.Argument(help="The bundle's folder: https://…, s3://BUCKET/…, gs://… or abfs://….")],
    target: Annotated[Path, typer.Argument(help="Folder that the bundle becomes.")],
    sha256: Annotated[str, typer.Option("--sha256", help="SHA-256 of the bundle's manifest.json.")],
) -> None:
    """Fetch a bundle and check every byte of it."""
    try:
        fetch(source, target, sha256, say=lambda line: typer.echo(line, err=True))
    except PilotageError as error:
        typer.echo(f"fetch: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        typer.echo(f"fetch: {target} cannot be written: {error}", err=True)
        raise typer.Exit(FetchError.exit_code) from error


def fetch(address: str, target: Path, sha256: str, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Bring the bundle at `address` to `target`; nothing is done where it is there already.

    Parameters
    ----------
    sha256
        Of the bundle's manifest, in hexadecimal digits.
    say
        Told what was fetched, a line a file.

    Raises
    ------
    BundleError
        The bundle is not the one that was asked for, or `target` holds another one.
    FetchError
        The source cannot be reached, or has no such file.
    PilotageError
        `address` or `sha256` is none, or the disk is too small.
    """
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise PilotageError(f"--sha256 {sha256[:80]!r} is not what `sha256sum manifest.json` prints, 64 hexadecimal digits")
    if target.exists():  # the init container of a pod may run again, with the volume as it was
        open_bundle(target, sha256)
        say(f"{target} is there already")
        return
    source = open_source(address)
    shown = _without_query(address)
    with closing(source(MANIFEST_NAME)) as stream:
        content = _read(stream, MANIFEST_NAME, MAX_MANIFEST_BYTES + 1)
    require_sha256(content, sha256, shown)
    entries = parse_manifest(content, shown).files
    staging = target.parent / f".{target.name}.partial"
    staging.mkdir(parents=True, exist_ok=True)
    _require_room(staging, entries)
    for name, entry in sorted(entries.items()):
        _bring(source, name, entry, staging / _inside(name), say)
    (staging / MANIFEST_NAME).write_bytes(content)
    for path in [*staging.rglob("*"), staging]:
        sync(path)
    staging.rename(target)
    sync(target.parent)
    open_bundle(target, sha256)
    say(f"{target} holds the bundle")


def open_source(address: str) -> Source:
    """Find out how the files at `address` are opened.

    Raises
    ------
    PilotageError
        Nothing here opens such an address.
    """
    scheme = urllib.parse.urlsplit(address).scheme
    if scheme in ("http", "https"):
        return _http(address)
    if scheme in STORES:
        return _store(address)
    raise PilotageError(f"{_without_query(address)!r} is none of https://, {', '.join(f'{store}://' for store in STORES)}")


def _http(address: str) -> Source:
    parts = urllib.parse.urlsplit(address)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=ssl.create_default_context()))

    def open_file(name: str) -> Stream:
        url = urllib.parse.urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{urllib.parse.quote(name)}"))
        request = urllib.request.Request(url)  # noqa: S310 - http or https, see `open_source`
        if AUTHORIZATION in os.environ:
            request.add_unredirected_header("Authorization", os.environ[AUTHORIZATION])
        try:
            return cast(IO[bytes], opener.open(request, timeout=TIMEOUT_S))
        except urllib.error.HTTPError as error:
            error.close()
            raise FetchError(f"{_without_query(url)} was answered with HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(f"{_without_query(url)} cannot be reached: {getattr(error, 'reason', error)}") from None

    return open_file


def _store(address: str) -> Source:
    from pyarrow import fs  # brings the stores' own clients, which know their signatures and where credentials come from

    authorities = os.environ.get("SSL_CERT_FILE")
    if authorities and address.startswith("s3:"):
        address += f"{'&' if '?' in address else '?'}{urllib.parse.urlencode({'tls_ca_file_path': authorities})}"
    try:
        store, folder = fs.FileSystem.from_uri(address)
    except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
        raise PilotageError(f"{_without_query(address)} cannot be opened: {error}") from None

    def open_file(name: str) -> Stream:
        try:
            return cast(IO[bytes], store.open_input_stream(f"{folder.rstrip('/')}/{name}"))
        except (OSError, ValueError) as error:
            raise FetchError(f"{_without_query(address)}: {name!r} cannot be read: {error}") from None

    return open_file


def _bring(source: Source, name: str, entry: FileEntry, path: Path, say: Callable[[str], None]) -> None:
    """Fetch one file, hashed as it is written; one that is whole from an earlier try is kept."""
    if path.is_file() and path.stat().st_size == entry.size_bytes and sha256_of(path) == entry.sha256:
        say(f"{name}: {entry.size_bytes / 1e6:.1f} MB, from an earlier try")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    started_s, digest, size_bytes = time.monotonic(), hashlib.sha256(), 0
    with closing(source(name)) as stream, path.open("wb") as file:
        while piece := _read(stream, name):
            size_bytes += len(piece)
            if size_bytes > entry.size_bytes:
                raise BundleError(f"{name!r} is longer than the {entry.size_bytes} bytes of the manifest: this is not the bundle's file")
            digest.update(piece)
            file.write(piece)
    if size_bytes < entry.size_bytes:
        raise FetchError(f"{name!r} ended after {size_bytes} of {entry.size_bytes} bytes")
    if digest.hexdigest() != entry.sha256:
        raise BundleError(f"{name!r} has sha256 {digest.hexdigest()}, the manifest says {entry.sha256}: this is not the bundle's file")
    took_s = max(time.monotonic() - started_s, 1e-3)
    say(f"{name}: {size_bytes / 1e6:.1f} MB in {took_s:.1f} s")


def _read(stream: Stream, name: str, most_bytes: int = PIECE_BYTES) -> bytes:
    try:
        return stream.read(most_bytes)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise FetchError(f"{name!r} broke off: {error}") from None


def _inside(name: str) -> Path:
    """The name as a path that stays in the bundle's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or name == MANIFEST_NAME:
        raise BundleError(f"the manifest lists {name!r}, which is no name of a file inside a bundle")
    return Path(path)


def _require_room(folder: Path, entries: dict[str, FileEntry]) -> None:
    needed = sum(entry.size_bytes for entry in entries.values())
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if needed > free:
        raise PilotageError(f"the bundle has {needed} bytes, {folder} has room for {free}: give its volume more")


def _without_query(address: str) -> str:
    """An address as it may be shown: what grants access stands in the query or before the host."""
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2]))


if __name__ == "__main__":
    sys.exit(app())
