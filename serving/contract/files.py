"""Files and folders that appear whole or not at all: temporary name, sync, rename.

A reader never sees half of one. A file is replaced in one step. Replacing a folder takes two renames, since POSIX has no other
way: for the instant between them the name is missing, and should the machine stop right there, the old folder lies beside it
as ``.NAME.old.*``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.contract.errors import PilotageError

FILE_MODE, FOLDER_MODE = 0o644, 0o755
"""Temporary names are made for their owner alone; reports and bundles are read by other accounts too."""


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file.

    Raises
    ------
    OSError
        The folder cannot be made or written; the temporary file is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    staging = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        staging.chmod(FILE_MODE)
        sync(staging)
        staging.replace(target)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync(target.parent)


@contextmanager
def replace_folder(target: Path, marker: str) -> Iterator[Path]:
    """Give an empty folder to fill; rename it to `target` when the block ends well, remove it when it does not.

    Parameters
    ----------
    marker
        A file that such a folder has. A `target` that has files but not this one is somebody else's and is left alone.

    Raises
    ------
    PilotageError
        `target` exists and has no `marker`.
    OSError
        The folder cannot be written; what was at `target` is still there.
    """
    require_replaceable(target, marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staging
        for path in [*staging.rglob("*"), staging]:
            path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
            sync(path)
        _swap(staging, target)
        sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def require_replaceable(target: Path, marker: str) -> None:
    """Check that `replace_folder` would take `target`, before hours go into filling it.

    Raises
    ------
    PilotageError
        `target` exists and has no `marker`.
    """
    if target.exists() and not (target.is_dir() and ((target / marker).is_file() or not any(target.iterdir()))):
        raise PilotageError(f"{target} exists and has no {marker}: it is left alone, choose another folder")


def _swap(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`; what was there goes away only after it is replaced."""
    if not target.exists():
        staging.rename(target)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(retired / "old")
    try:
        staging.rename(target)
    except BaseException:
        (retired / "old").rename(target)
        retired.rmdir()
        raise
    shutil.rmtree(retired)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
