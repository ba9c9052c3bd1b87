"""Locks between workers, so that one of them embeds a label set and the others read what it has written.

The kernel frees a lock when its worker ends, however that happens; another then goes on from what is on disk.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class SetLock:
    """One lock that is held."""

    def __init__(self, descriptor: int | None, held: set[bytes], key: bytes) -> None:
        self._descriptor = descriptor
        self._held = held
        self._key = key

    def release(self) -> None:
        """Let others have it."""
        self._held.discard(self._key)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class SetLocks:
    """Locks by key.

    Parameters
    ----------
    folder
        Shared by the workers; where it cannot be written, workers do not know of each other, which costs work alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: set[bytes] = set()

    def take(self, key: bytes) -> SetLock | None:
        """Take a lock, None where this process or another has it."""
        if key in self._held:
            return None
        descriptor = None
        if self._folder is not None:
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self._folder / f"{key.hex()[:32]}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return None
        self._held.add(key)
        return SetLock(descriptor, self._held, key)
