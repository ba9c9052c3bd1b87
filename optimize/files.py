"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.contract.errors import PilotageError


@contextmanager
def replace_folder(target: Path, marker: str) -> Iterator[Path]:
    """Fill a temporary folder; rename it to `target` when the block ends well, remove it when it does not.

    Parameters
    ----------
    marker
        A file that such a folder has: a `target` that exists without it is somebody else's and is left alone.

    Raises
    ------
    PilotageError
        `target` exists and has no `marker`, or is a file.
    """
    if target.exists() and not (target / marker).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise PilotageError(f"{target} exists and has no {marker}: it is left alone, choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        for path in [*staging.rglob("*"), staging]:
            sync(path)
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            os.rename(target, retired / "old")
            os.rename(staging, target)
            shutil.rmtree(retired)
        else:
            os.rename(staging, target)
        sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_whole(path: Path, content: str) -> None:
    """Write a text file under a temporary name, sync it and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.tmp")
    staging.write_text(content, encoding="utf-8")
    sync(staging)
    os.replace(staging, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
