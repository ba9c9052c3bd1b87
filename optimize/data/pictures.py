"""Labelled pictures on disk: a folder a label, or ``captions.jsonl``, to judge zero-shot classification on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract.bundle import sha256_of
from serving.contract.errors import PilotageError

CAPTIONS_NAME = "captions.jsonl"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MIN_LABELS = 2


class PicturesError(PilotageError):
    """A folder that is no evaluation set; the message says what one looks like."""


@dataclass(frozen=True)
class Pictures:
    """Image files and what they show.

    Attributes
    ----------
    labels
        Every label once, ``K`` of them.
    label
        ``(B,) int64``, the label of each file.
    """

    name: str
    files: tuple[Path, ...]
    labels: tuple[str, ...]
    label: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.int64]) -> Pictures:
        """Some of the pictures, all of the labels."""
        return Pictures(self.name, tuple(self.files[row] for row in rows), self.labels, self.label[rows])

    def fingerprint(self) -> str:
        """SHA-256 over contents, labels and their order."""
        digest = hashlib.sha256(json.dumps([self.labels, self.label.tolist()]).encode())
        for file in self.files:
            digest.update(sha256_of(file).encode())
        return digest.hexdigest()


def load_pictures(folder: Path) -> Pictures:
    """List the pictures of a folder, in the order of their names.

    Parameters
    ----------
    folder
        Has a folder for each label, called like it, with the pictures in it; or ``captions.jsonl``, a line ``{"picture": FILE, "caption":
        LABEL}`` each, as ``pilotage scenes`` writes it.

    Raises
    ------
    PicturesError
        It has neither, or pictures of fewer than `MIN_LABELS` labels.
    """
    if not folder.is_dir():
        raise PicturesError(f"{folder}: no such folder")
    captions = folder / CAPTIONS_NAME
    pairs = _captioned(captions) if captions.is_file() else _sorted_by_folder(folder)
    labels = tuple(sorted({label for _, label in pairs}))
    if len(labels) < MIN_LABELS:
        raise PicturesError(
            f"{folder} has pictures of {len(labels)} labels, {MIN_LABELS} are needed; it has a folder for each label with "
            f"{', '.join(sorted(SUFFIXES))} files in it, or {CAPTIONS_NAME}"
        )
    place = {label: i for i, label in enumerate(labels)}
    return Pictures(
        folder.resolve().name, tuple(file for file, _ in pairs), labels, np.array([place[label] for _, label in pairs], np.int64)
    )


def _sorted_by_folder(folder: Path) -> list[tuple[Path, str]]:
    found = []
    for label in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        found += [(file, label.name) for file in sorted(label.iterdir()) if file.suffix.lower() in SUFFIXES]
    return found


def _captioned(captions: Path) -> list[tuple[Path, str]]:
    found = []
    for number, line in enumerate(captions.read_text("utf-8").splitlines(), 1):
        try:
            entry: Any = json.loads(line)
            name, label = str(entry["picture"]), str(entry["caption"])
        except (ValueError, KeyError, TypeError) as error:
            raise PicturesError(f'{captions}, line {number} is not {{"picture": FILE, "caption": LABEL}}') from error
        file = next((path for path in _places(captions.parent, name) if path.is_file()), None)
        if file is None:
            raise PicturesError(f"{captions}, line {number}: there is no file {name}")
        found.append((file, label))
    return found


def _places(folder: Path, name: str) -> Sequence[Path]:
    """Beside the captions, whatever folder they were written in, or where they say."""
    return folder / Path(name).name, folder / name, Path(name)
