"""Raw samples of a load test: one row a request.

They are appended to plain arrays while the load runs, because that costs well under a microsecond and no
allocation that the garbage collector tracks; everything else waits until the load has stopped.
"""

from __future__ import annotations

import io
import zipfile
from array import array
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.contract.errors import SettingsError
from serving.contract.files import write_bytes

SAMPLES_NAME = "samples.npz"
SAMPLES_SCHEMA_VERSION = 1

MAX_ERROR_KINDS = 50
"""Kinds of errors told apart. A kind may hold a word that the service sent; a service gone mad must not
fill the memory of the generator with new words."""

OTHER_ERRORS = "other errors"


@dataclass(frozen=True)
class Samples:
    """What was measured. ``S`` is the number of requests that ended, in order of their end.

    Attributes
    ----------
    started_s
        ``(S,) float64``, seconds since the test began, on the monotonic clock.
    latency_ms
        ``(S,) float64``, from the moment a user sends (connecting included, where it has to) to the last byte of the answer.
    ok
        ``(S,) bool``.
    answer_bytes
        ``(S,) int64``, size of the answer's body.
    candidates
        ``(S,) int64``, candidates of the request.
    errors
        Failed requests by kind; sums up to the number of rows that are not ok.
    unanswered
        Requests that were still under way when the test was cut off, and are therefore in no row.
    """

    started_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    ok: NDArray[np.bool_]
    answer_bytes: NDArray[np.int64]
    candidates: NDArray[np.int64]
    errors: dict[str, int]
    unanswered: int = 0

    def __len__(self) -> int:
        """Count the requests that ended."""
        return len(self.started_s)


class Recorder:
    """Collects samples while the load runs."""

    def __init__(self) -> None:
        self._started_s = array("d")
        self._latency_ms = array("d")
        self._ok = array("b")
        self._answer_bytes = array("q")
        self._candidates = array("q")
        self._errors: Counter[str] = Counter()
        self.sent = 0
        """Requests begun; the user counts them up before it sends."""

    def add(self, started_s: float, latency_ms: float, error: str | None, answer_bytes: int, candidates: int) -> None:
        """Append one request; `error` is the kind of its failure, None for a success."""
        self._started_s.append(started_s)
        self._latency_ms.append(latency_ms)
        self._ok.append(error is None)
        self._answer_bytes.append(answer_bytes)
        self._candidates.append(candidates)
        if error is not None:
            known = error in self._errors or len(self._errors) < MAX_ERROR_KINDS
            self._errors[error if known else OTHER_ERRORS] += 1

    def samples(self) -> Samples:
        """Return everything so far, copied."""
        return Samples(
            started_s=np.array(self._started_s, dtype=np.float64),
            latency_ms=np.array(self._latency_ms, dtype=np.float64),
            ok=np.array(self._ok, dtype=np.bool_),
            answer_bytes=np.array(self._answer_bytes, dtype=np.int64),
            candidates=np.array(self._candidates, dtype=np.int64),
            errors=dict(self._errors),
            unanswered=self.sent - len(self._started_s),
        )


def read_samples(path: Path) -> Samples:
    """Read what `write_samples` wrote. Kinds of errors are not in the file, nor is how many requests were left unanswered.

    Raises
    ------
    SettingsError
        It cannot be read, or is no file of this schema version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            version = int(file["schema_version"])
            if version != SAMPLES_SCHEMA_VERSION:
                raise SettingsError(f"{path} holds samples of schema version {version}; this program reads {SAMPLES_SCHEMA_VERSION}")
            samples = Samples(
                started_s=file["started_s"].astype(np.float64),
                latency_ms=file["latency_ms"].astype(np.float64),
                ok=file["ok"].astype(np.bool_),
                answer_bytes=file["answer_bytes"].astype(np.int64),
                candidates=file["candidates"].astype(np.int64),
                errors={},
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SettingsError(f"{path} cannot be read as samples of a load test: {error}") from error
    columns = (samples.started_s, samples.latency_ms, samples.ok, samples.answer_bytes, samples.candidates)
    if any(column.shape != (len(samples),) for column in columns):
        raise SettingsError(f"{path} cannot be read as samples of a load test: its columns differ in length")
    failures = int(np.count_nonzero(~samples.ok))
    return replace(samples, errors={"not told by the file": failures} if failures else {})


def write_samples(samples: Samples, target: Path) -> None:
    """Write the rows as a compressed ``.npz`` with one array a column (no pickle inside)."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        schema_version=np.int64(SAMPLES_SCHEMA_VERSION),
        started_s=samples.started_s,
        latency_ms=samples.latency_ms,
        ok=samples.ok,
        answer_bytes=samples.answer_bytes,
        candidates=samples.candidates,
    )
    write_bytes(target, buffer.getvalue())
