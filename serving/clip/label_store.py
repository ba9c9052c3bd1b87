"""Embeddings of labels on disk: shared by the workers of a pod, and warm after a restart.

A *shard* is one file with the keys and embeddings of some labels, and a checksum over both. Shards appear whole (temporary name, sync,
rename) and are never changed, so that no worker waits for another. One that is damaged is removed; its labels are embedded again.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from serving.clip.labels import KEY_BYTES, Matrix
from serving.contract.files import write_bytes

log = logging.getLogger("pilotage")

MAGIC = b"PLTLBL01"
SUFFIX = ".shard"
MAX_SHARDS = 256
"""Files of one text tower; beyond it they are joined into one, since each miss lists them and a start reads them all."""

_HEAD = struct.Struct("<8sII")
_CHECKSUM_BYTES = 32


class LabelStore:
    """The shards of one text tower.

    Parameters
    ----------
    root
        Folder of all text towers' shards; None keeps nothing on disk.
    fingerprint
        Of the text tower.
    dim
        ``D``, of its embeddings.
    max_bytes
        Of all text towers' shards together; those not used for longest go first.
    """

    def __init__(self, root: Path | None, fingerprint: str, dim: int, max_bytes: int) -> None:
        self._root = root
        self._folder = root / fingerprint[:KEY_BYTES] if root is not None else None
        self._dim = dim
        self._max_bytes = max_bytes
        self._seen: set[str] = set()

    def read_new(self) -> Iterator[tuple[list[bytes], Matrix]]:
        """Yield keys and embeddings ``(K, D)`` of each shard that was written since the last call, by any worker."""
        for path in self._shards():
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            found = self._read(path)
            if found is not None:
                yield found

    def add(self, keys: Sequence[bytes], embeddings: Matrix) -> None:
        """Write a shard. A disk that cannot be written costs speed, not answers: it is logged."""
        if self._folder is None or not keys:
            return
        try:
            self._write(keys, embeddings)
            if len(shards := self._shards()) > MAX_SHARDS:
                self._join(shards)
            self._prune()
        except OSError as error:
            log.warning("label embeddings are not kept on disk: %s", error, extra={"folder": str(self._folder)})

    def _shards(self) -> list[Path]:
        if self._folder is None:
            return []
        with suppress(OSError):  # none was written yet
            return sorted(self._folder.glob(f"*{SUFFIX}"))
        return []

    def _write(self, keys: Sequence[bytes], embeddings: Matrix) -> Path:
        assert self._folder is not None
        content = _HEAD.pack(MAGIC, len(keys), self._dim) + b"".join(keys) + embeddings.astype("<f4", copy=False).tobytes()
        digest = hashlib.sha256(content)
        path = self._folder / f"{digest.hexdigest()[:32]}{SUFFIX}"
        self._seen.add(path.name)
        write_bytes(path, content + digest.digest())
        return path

    def _read(self, path: Path) -> tuple[list[bytes], Matrix] | None:
        try:
            content = path.read_bytes()
        except OSError:
            return None  # another worker has joined or pruned it
        found = parse_shard(content, self._dim)
        if found is None:
            log.warning("a damaged file of label embeddings is removed", extra={"file": str(path)})
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            path.touch()  # used: pruning takes others first
        return found

    def _join(self, shards: Sequence[Path]) -> None:
        """Put what many small shards have into one; a worker that reads one of them meanwhile finds it there."""
        rows: dict[bytes, Matrix] = {}
        for path in shards:
            if (found := self._read(path)) is not None:
                rows.update(zip(*found, strict=True))
        joined = self._write(list(rows), np.stack(list(rows.values())))
        for path in shards:
            if path != joined:
                path.unlink(missing_ok=True)

    def _prune(self) -> None:
        assert self._root is not None
        found = []
        for path in self._root.glob(f"*/*{SUFFIX}"):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size_bytes for _, size_bytes, _ in found)
        for _, size_bytes, path in sorted(found):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size_bytes


def parse_shard(content: bytes, dim: int) -> tuple[list[bytes], Matrix] | None:
    """Keys and embeddings of a shard; None when it is damaged or of another kind."""
    if len(content) < _HEAD.size + _CHECKSUM_BYTES:
        return None
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    magic, count, found_dim = _HEAD.unpack_from(body)
    size_bytes = _HEAD.size + count * (KEY_BYTES + 4 * dim)
    if magic != MAGIC or found_dim != dim or len(body) != size_bytes or hashlib.sha256(body).digest() != checksum:
        return None
    numbers_at = _HEAD.size + count * KEY_BYTES
    keys = [body[at : at + KEY_BYTES] for at in range(_HEAD.size, numbers_at, KEY_BYTES)]
    return keys, np.frombuffer(body, "<f4", offset=numbers_at).astype(np.float32).reshape(count, dim)
