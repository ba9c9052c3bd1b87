"""From a list of labels to the matrix that scoring multiplies with: ready, from what is kept, or what is missing for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from serving.clip.label_store import LabelStore
from serving.clip.labels import Kept, Matrix, Row, label_keys, list_key
from serving.clip.prompts import Templates


@dataclass(frozen=True)
class Missing:
    """A list of which some labels were not embedded yet.

    Attributes
    ----------
    wanted
        Keys and labels of those.
    """

    list_key: bytes
    templates: Templates
    keys: Sequence[bytes]
    known: Mapping[bytes, Row]
    wanted: Sequence[tuple[bytes, str]]

    @property
    def texts(self) -> int:
        """Texts that are to be embedded."""
        return len(self.wanted) * len(self.templates.texts)


class LabelBook:
    """What one text tower has embedded so far.

    Parameters
    ----------
    fingerprint
        Of the text tower.
    store
        On disk.
    max_bytes
        Of memory: one half for single labels, one for whole lists.
    """

    def __init__(self, fingerprint: str, store: LabelStore, max_bytes: int) -> None:
        self.fingerprint = fingerprint
        self.store = store
        self.rows = Kept(max_bytes // 2)
        self.matrices = Kept(max_bytes // 2)
        self._reading = Lock()
        self._read_disk()

    def find(self, labels: Sequence[str], templates: Templates) -> Matrix | Missing:
        """Return the embeddings ``(K, D) float32`` of `labels`, contiguous, or what is missing for them."""
        whole = list_key(self.fingerprint, templates, labels)
        matrix = self.matrices.get(whole)
        if matrix is not None:
            return matrix
        keys = label_keys(self.fingerprint, templates, labels)
        rows = self.rows.find(keys)
        if any(row is None for row in rows):
            self._read_disk()
            rows = self.rows.find(keys)
        known = {key: row for key, row in zip(keys, rows, strict=True) if row is not None}
        wanted = [(key, label) for key, label in zip(keys, labels, strict=True) if key not in known]
        missing = Missing(whole, templates, keys, known, wanted)
        return missing if wanted else self.complete(missing, {})

    def complete(self, missing: Missing, rows: Mapping[bytes, Row]) -> Matrix:
        """Make the matrix, now that what was missing is in `rows`, and keep it."""
        matrix = np.stack([missing.known[key] if key in missing.known else rows[key] for key in missing.keys])
        self.matrices.keep(missing.list_key, matrix)
        return matrix

    def count(self, labels: Sequence[str], templates: Templates) -> int:
        """How many of `labels` are embedded, by this worker or another."""
        if self.matrices.count([list_key(self.fingerprint, templates, labels)]):
            return len(labels)
        self._read_disk()
        return self.rows.count(label_keys(self.fingerprint, templates, labels))

    def _read_disk(self) -> None:
        with self._reading:  # who comes second must find what the first has read
            for keys, rows in self.store.read_new():
                self.rows.keep_all(zip(keys, rows, strict=True))
