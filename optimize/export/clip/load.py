"""A CLIP checkpoint, from a local folder of either layout or, by id and pinned revision, from a hub."""

from __future__ import annotations

import re
from pathlib import Path

from optimize.export.clip.checkpoint import Checkpoint, CheckpointError, fingerprint
from optimize.export.clip.hugging_face import read_hugging_face
from optimize.export.clip.open_clip import CONFIG, read_open_clip
from serving.contract.errors import PilotageError
from serving.contract.manifest import Source

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.txt.gz")
"""Never pickles, never code."""


class HubUnreachable(PilotageError):
    """The hub did not give the checkpoint."""

    exit_code = 3


def load_checkpoint(reference: str, *, revision: str | None = None, templates: str = "single") -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    reference
        A folder, or ``OWNER/NAME`` on the hub.
    revision
        Commit on the hub: 40 hexadecimal digits. A branch or tag may move, and is refused.
    templates
        Name of the template set for requests that name none.

    Raises
    ------
    CheckpointError
        The folder holds no checkpoint that is served, or the reference is none.
    HubUnreachable
        There is no network, or the hub has no such revision.
    """
    folder = Path(reference)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{reference} is a folder here; a revision goes with an id on the hub")
        name = folder.resolve().name
    elif HUB_ID.fullmatch(reference):
        folder, name = _fetch(reference, revision), reference
    else:
        raise CheckpointError(f"{reference}: no such folder, and no id on the hub, which would be OWNER/NAME")
    parts = (read_open_clip if (folder / CONFIG).is_file() else read_hugging_face)(folder, templates)
    return Checkpoint(parts, Source(name=name, revision=revision, fingerprint=fingerprint(parts.files)))


def _fetch(name: str, revision: str | None) -> Path:
    if revision is None or not COMMIT.fullmatch(revision):
        raise CheckpointError(
            f"{name}: no such folder; for the model of this id on the hub, name the commit with --revision, 40 hexadecimal digits "
            f"(given: {revision or 'none'}): what a branch holds may change"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FETCHED)))
    except Exception as error:  # the client raises types of several libraries
        first = " ".join(str(error).split())[:300]
        raise HubUnreachable(
            f"{name} at {revision[:12]} could not be fetched: {type(error).__name__}: {first}; without a network, copy the checkpoint's "
            "folder here and name that"
        ) from error
