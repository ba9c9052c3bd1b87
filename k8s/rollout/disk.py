"""The journal and the lease as files of one machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from k8s.errors import Conflict, NotHeld
from k8s.rollout.ports import Stored
from k8s.rollout.record import Record, Request
from serving.contract.files import write_bytes

RECORD_NAME, REQUEST_NAME, HISTORY_NAME, LEASE_NAME = "record.json", "request.json", "history", "engine.lock"


class DiskJournal:
    """A folder: ``record.json``, ``request.json``, and ``history/`` with one file a finished rollout.

    Parameters
    ----------
    folder
        Made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> Stored | None:
        """Return the record of the current or last rollout."""
        try:
            content = (self._folder / RECORD_NAME).read_bytes()
        except FileNotFoundError:
            return None
        return Stored(Record.from_json(content), _version(content))

    def save(self, record: Record, expected_version: str | None) -> str:
        """Write the record; a finished one that gives way goes into the history."""
        content = record.to_json().encode()
        with self._alone():
            stored = self.load()
            if (stored.version if stored else None) != expected_version:
                raise Conflict(f"{self._folder / RECORD_NAME} was written by somebody else since it was read")
            if stored is not None and stored.record.id != record.id:
                write_bytes(self._folder / HISTORY_NAME / f"{stored.record.id}.json", stored.record.to_json().encode())
            write_bytes(self._folder / RECORD_NAME, content)
        return _version(content)

    def history(self) -> list[Record]:
        """Return finished rollouts and the current one, oldest first."""
        finished = [Record.from_json(path.read_bytes()) for path in sorted((self._folder / HISTORY_NAME).glob("*.json"))]
        current = self.load()
        return finished if current is None else [*finished, current.record]

    def request(self) -> Request | None:
        """Return what a person asked for last."""
        try:
            return Request.model_validate_json((self._folder / REQUEST_NAME).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def ask(self, request: Request) -> None:
        """Write down what a person asks for."""
        write_bytes(self._folder / REQUEST_NAME, request.model_dump_json().encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / ".record.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class DiskLease:
    """A locked file: the operating system gives it back when the process dies, however it dies.

    Parameters
    ----------
    name
        Of the engine, for whoever finds it locked.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path, self._name = folder / LEASE_NAME, name
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lease."""
        if self._descriptor is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            raise NotHeld(f"engine {holder or 'of another process'} is at work in {self._path.parent}") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, self._name.encode())
        self._descriptor = descriptor

    def renew(self) -> None:
        """Keep it: nothing to do, the lock lasts as long as the process."""
        if self._descriptor is None:
            raise NotHeld(f"the lease in {self._path.parent} was never taken")

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
