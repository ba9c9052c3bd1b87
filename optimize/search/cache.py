"""What a search found out, kept by content: the name of an entry is a digest of everything that its value depends on.

Entries appear whole or not at all, so a search that is killed at any moment goes on from what is there, and a repeated one only reads.
An entry that cannot be read counts as absent.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.contract.errors import PilotageError
from serving.contract.files import sync, write_bytes

T = TypeVar("T")

MARKER = "pilotage-cache"
KEY_DIGITS = 24
"""96 bits of SHA-256: two of a million entries collide with a chance of 6e-18."""


class DiskError(PilotageError):
    """The search cannot write what it found."""

    exit_code = 3


class Cache:
    """A folder of entries.

    Parameters
    ----------
    fresh
        Ignore what was there before; entries that this object wrote are read.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.folder = folder
        self.hits = 0
        self._fresh = fresh
        self._written: set[Path] = set()
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / MARKER, b"Results of searches, by content. May be deleted at any time.\n")
            for left in folder.glob("*/.*"):  # of a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def read(self, kind: str, key: str) -> Any:
        """Value of an entry; None where there is none."""
        with suppress(OSError, ValueError):
            return self._hit(json.loads(self._path(kind, f"{key}.json").read_bytes()))
        return None

    def write(self, kind: str, key: str, value: Any) -> None:
        """Write an entry that JSON can hold.

        Raises
        ------
        DiskError
            It cannot be written; what was there before still is.
        """
        self._write(self.folder / kind / f"{key}.json", json.dumps(value).encode())

    def read_arrays(self, kind: str, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Arrays of an entry; None where there is none."""
        with (
            suppress(OSError, ValueError, EOFError, zipfile.BadZipFile),
            np.load(self._path(kind, f"{key}.npz"), allow_pickle=False) as held,
        ):
            return self._hit(dict(held.items()))
        return None

    def write_arrays(self, kind: str, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write numeric arrays.

        Raises
        ------
        DiskError
            As in `write`.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        self._write(self.folder / kind / f"{key}.npz", buffer.getvalue())

    def read_folder(self, kind: str, key: str) -> Path | None:
        """Folder of an entry; None where there is none."""
        with suppress(OSError):
            return self._path(kind, key).resolve(strict=True)
        return None

    @contextmanager
    def writing_folder(self, kind: str, key: str) -> Iterator[Path]:
        """Give an empty folder to fill; it becomes the entry when the block ends well and is removed when it does not.

        Raises
        ------
        DiskError
            As in `write`.
        """
        target = self.folder / kind / key
        with told(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=target.parent))
        try:
            with told(target):
                yield staging
                for path in staging.iterdir():
                    sync(path)
                shutil.rmtree(target, ignore_errors=True)
                staging.rename(target)
                sync(target.parent)
            self._written.add(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def drop_folder(self, kind: str, key: str) -> None:
        """Remove an entry that is not worth its place."""
        shutil.rmtree(self.folder / kind / key, ignore_errors=True)

    def _path(self, kind: str, name: str) -> Path:
        path = self.folder / kind / name
        if self._fresh and path not in self._written:
            raise FileNotFoundError(path)
        return path

    def _write(self, path: Path, content: bytes) -> None:
        with told(path):
            write_bytes(path, content)
        self._written.add(path)

    def _hit(self, value: T) -> T:
        self.hits += 1
        return value


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn an operating system's error into one that says what to do.

    Raises
    ------
    DiskError
        Instead of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        free = f" ({shutil.disk_usage(path.anchor or '.').free / 1e6:.0f} MB free on the root file system)" if full else ""
        remedy = "free some space or name another folder; nothing was left half-written" if full else "name a folder that can be written"
        raise DiskError(f"{path} cannot be written: {error.strerror or error}{free}; {remedy}") from error


def key_of(*parts: object) -> str:
    """Digest of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def digest_of(*contents: bytes) -> str:
    """Digest of bytes."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:KEY_DIGITS]


@cache
def code_digest(*rooms: str) -> str:
    """Digest of the source of rooms of `optimize`: a pass that was mended is a new pass."""
    sources = [path for room in rooms for path in sorted(Path(__file__).parents[1].joinpath(room).glob("*.py"))]
    return digest_of(*(path.read_bytes() for path in sources))


def feeds_digest(feeds: Mapping[str, npt.NDArray[Any]]) -> str:
    """Digest of one run's feeds."""
    parts: list[bytes] = []
    for name in sorted(feeds):
        values = feeds[name]
        content = json.dumps(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
        parts += [f"{name} {values.dtype} {values.shape}".encode(), content]
    return digest_of(*parts)
