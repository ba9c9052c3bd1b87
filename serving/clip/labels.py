"""Embeddings of labels that were seen before: single ones by content, and whole lists as the matrices that scoring multiplies with.

A key is the SHA-256 of everything that the embedding follows from: the text tower with its tokenizer, the templates, the label. So
nothing is ever out of date, and workers, restarts and versions of a model that share a text tower share their work.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.clip.prompts import Templates

Row = npt.NDArray[np.float32]
"""``(D,) float32``, of length 1."""

Matrix = npt.NDArray[np.float32]
"""``(K, D) float32``, contiguous."""

KEY_BYTES = 32
ENTRY_BYTES = 256
"""Of an entry in memory beside its numbers: key, array object, place in the table; `tracemalloc` counts 252."""


def label_keys(fingerprint: str, templates: Templates, labels: Iterable[str]) -> list[bytes]:
    """Keys of labels, `KEY_BYTES` each.

    Parameters
    ----------
    fingerprint
        Of the text tower, its tokenizer and how texts are prepared for it.
    """
    common = hashlib.sha256()
    for part in (fingerprint.encode(), templates.content):
        common.update(len(part).to_bytes(8, "little") + part)
    keys = []
    for label in labels:
        own = common.copy()
        own.update(label.encode())
        keys.append(own.digest())
    return keys


def list_key(fingerprint: str, templates: Templates, labels: Sequence[str]) -> bytes:
    """Key of a list of labels in its order; much quicker than all of their keys."""
    digest = hashlib.sha256()
    for part in (fingerprint.encode(), templates.content, "\0".join(labels).encode()):  # no label has a control character
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


class Kept:
    """Arrays by key, the least recently used dropped first when their bytes pass a bound. Used by several threads.

    Parameters
    ----------
    max_bytes
        Of all arrays with their entries.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._arrays: OrderedDict[Hashable, npt.NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._arrays)

    def get(self, key: Hashable) -> npt.NDArray[Any] | None:
        """The array under `key`, None where it is not kept."""
        return self.find([key])[0]

    def find(self, keys: Sequence[Hashable]) -> list[npt.NDArray[Any] | None]:
        """The arrays under `keys`, None where one is not kept."""
        with self._lock:
            found = [self._arrays.get(key) for key in keys]
            for key, array in zip(keys, found, strict=True):
                if array is not None:
                    self._arrays.move_to_end(key)
            return found

    def count(self, keys: Sequence[Hashable]) -> int:
        """How many of `keys` are kept; says nothing of their use."""
        with self._lock:
            return sum(key in self._arrays for key in keys)

    def keep(self, key: Hashable, array: npt.NDArray[Any]) -> None:
        """Keep one array; it is dropped at once if it alone passes the bound."""
        self.keep_all([(key, array)])

    def keep_all(self, pairs: Iterable[tuple[Hashable, npt.NDArray[Any]]]) -> None:
        """Keep arrays."""
        with self._lock:
            for key, array in pairs:
                self._drop(key)
                self._arrays[key] = array if array.base is None else array.copy()  # a view would keep all that it is a part of
                self.size_bytes += array.nbytes + ENTRY_BYTES
            while self.size_bytes > self.max_bytes:
                self._drop(next(iter(self._arrays)))

    def _drop(self, key: Hashable) -> None:
        array = self._arrays.pop(key, None)
        if array is not None:
            self.size_bytes -= array.nbytes + ENTRY_BYTES
