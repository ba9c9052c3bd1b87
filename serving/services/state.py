"""What the workers of a pod share on disk: label sets and embeddings of labels."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from serving.clip.label_sets import LabelSets
from serving.clip.set_locks import SetLocks
from serving.contract.errors import SettingsError

PRIVATE = 0o700
"""Label sets are the callers' business; and what others could write here would be read as ours."""


@dataclass(frozen=True)
class State:
    """The shared folder.

    Attributes
    ----------
    embeddings
        Folder of label embeddings.
    """

    label_sets: LabelSets
    embeddings: Path
    locks: SetLocks


def open_state(folder: Path | None) -> State:
    """Open the shared folder, made if need be.

    Parameters
    ----------
    folder
        None takes one of the user's own below the system's temporary folder.

    Raises
    ------
    SettingsError
        It cannot be made or written, or the one below the temporary folder, where all may write, is somebody else's.
    """
    is_default = folder is None
    if folder is None:
        folder = Path(tempfile.gettempdir()) / f"pilotage-{os.getuid()}"
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise SettingsError(f"PILOTAGE_STATE_DIR={str(folder)!r} cannot be made: {error.strerror}") from error
    if is_default and owner != os.getuid():
        raise SettingsError(f"{folder} belongs to user {owner}, not to this one, {os.getuid()}; set PILOTAGE_STATE_DIR to another folder")
    if not os.access(folder, os.W_OK):
        raise SettingsError(f"PILOTAGE_STATE_DIR={str(folder)!r} cannot be written by this user, {os.getuid()}")
    return State(LabelSets(folder / "label-sets"), folder / "label-embeddings", SetLocks(folder / "locks"))
