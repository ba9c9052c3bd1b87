"""Takes samples down while the load runs.

They are appended to plain arrays, because that costs about a microsecond and no allocation that the garbage collector tracks; everything
else waits until the load has stopped, or is done in chunks.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from loadtests.samples import COLUMNS, NO_ERROR, THE_ARM, Samples

MAX_ERROR_KINDS = 50
"""Kinds of errors told apart. A kind may hold a word that the service sent; a service gone mad must not
fill the memory of the generator with new words."""

OTHER_ERRORS = "other errors"

TYPECODES = {"f": "d", "b": "b", "i": "q"}
"""Of Python's arrays, by numpy's kind of the column."""


class Recorder:
    """Collects samples of one process.

    Parameters
    ----------
    arms
        Names of the arms, in the order of their numbers.
    open_loop
        Whether latency counts from the intended start.
    """

    def __init__(self, arms: Sequence[str] = (THE_ARM,), *, open_loop: bool = False) -> None:
        self._arms, self._open_loop = tuple(arms), open_loop
        self._columns: dict[str, array[Any]] = {name: array(TYPECODES[np.dtype(kind).kind]) for name, kind in COLUMNS.items()}
        self._appends = [column.append for column in self._columns.values()]
        self._endpoints: dict[str, int] = {}
        self._kinds: dict[str, int] = {}
        self.sent = 0
        """Requests begun; the user counts them up before it sends."""

    def __len__(self) -> int:
        """Count the requests that ended."""
        return len(self._columns["started_s"])

    def add(
        self,
        intended_s: float,
        started_s: float,
        latency_ms: float,
        error: str | None,
        status: int,
        endpoint: str,
        arm: int,
        answer_bytes: int,
        size: int,
    ) -> None:
        """Append one request; `error` is the kind of its failure, None for a success. The other values are those of `Samples`."""
        number = self._endpoints.setdefault(endpoint, len(self._endpoints))
        kind = NO_ERROR if error is None else self._kind(error)
        row: tuple[float, ...] = (intended_s, started_s, latency_ms, error is None, status, number, arm, kind, answer_bytes, size)
        for append, value in zip(self._appends, row, strict=True):
            append(value)

    def _kind(self, error: str) -> int:
        known = error in self._kinds or len(self._kinds) < MAX_ERROR_KINDS
        return self._kinds.setdefault(error if known else OTHER_ERRORS, len(self._kinds))

    def chunk(self, first: int) -> Samples:
        """Return the rows from number `first` on, copied."""
        columns: dict[str, Any] = {name: np.array(column[first:], dtype=COLUMNS[name]) for name, column in self._columns.items()}
        return Samples(
            **columns,
            endpoints=tuple(self._endpoints),
            arms=self._arms,
            error_kinds=tuple(self._kinds),
            open_loop=self._open_loop,
        )

    def samples(self) -> Samples:
        """Return everything so far, with the count of those that are still under way."""
        return replace(self.chunk(0), unanswered=self.sent - len(self))
