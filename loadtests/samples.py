"""Raw samples of a load test: one row a request.

``samples.npz`` has one array a column (no pickle inside). Names are stored once, and the rows point at them. Version 1, which knew neither
intended starts nor kinds of errors, can still be read.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract.errors import SettingsError
from serving.contract.files import write_bytes

SAMPLES_NAME = "samples.npz"
SAMPLES_SCHEMA_VERSION = 2

NO_ERROR = -1
"""In the column ``error``: the request did not fail."""

NOT_TOLD = -1
"""In the column ``status``: the file is of version 1 and does not say."""

THE_ARM = "service"
"""Name of the only arm, where no arms were asked for."""

COLUMNS: dict[str, type[np.generic]] = {
    "intended_s": np.float64,
    "started_s": np.float64,
    "latency_ms": np.float64,
    "ok": np.bool_,
    "status": np.int16,
    "endpoint": np.int16,
    "arm": np.int8,
    "error": np.int16,
    "answer_bytes": np.int64,
    "size": np.int64,
}

NAMES = {"endpoint": "endpoints", "arm": "arms", "error": "error_kinds"}
"""Columns that point at names, and what the names are called."""

MARKS = ("open_loop", "cut_short")
COUNTS = ("unanswered", "unsent", "starved", "lost_workers")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was measured. ``S`` is the number of requests that ended, in order of their end.

    Attributes
    ----------
    intended_s
        ``(S,) float64``, when each should have been sent by the schedule, seconds since the schedule's start; in a closed loop when it was.
    started_s
        ``(S,) float64``, when it was sent, on the same clock.
    latency_ms
        ``(S,) float64``, to the last byte of the answer: from the intended start in an open loop, from sending in a closed one (connecting
        included, where it has to).
    ok
        ``(S,) bool``.
    status
        ``(S,) int16``, HTTP status; 0 where there was no answer, `NOT_TOLD` where the file does not say.
    endpoint, arm, error
        ``(S,) int16, int8, int16``, numbers of `endpoints`, `arms` and `error_kinds`; error is `NO_ERROR` for a success.
    answer_bytes
        ``(S,) int64``, size of the answer's body.
    size
        ``(S,) int64``, candidates or images of the request.
    open_loop
        Whether requests were sent by a schedule, whatever the service did.
    unanswered
        Requests that were still under way when the test was cut off, or of which a lost worker did not tell, and are therefore in no row.
    unsent
        Requests whose time had come and that were never sent, for want of a free user.
    starved
        Requests that found no free user when their time came: they were sent late, or not at all.
    lost_workers
        Generator processes that ended before they had sent their share and told what came of it.
    cut_short
        The test was ended by somebody before its schedule was.
    """

    intended_s: NDArray[np.float64]
    started_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    ok: NDArray[np.bool_]
    status: NDArray[np.int16]
    endpoint: NDArray[np.int16]
    arm: NDArray[np.int8]
    error: NDArray[np.int16]
    answer_bytes: NDArray[np.int64]
    size: NDArray[np.int64]
    endpoints: tuple[str, ...]
    arms: tuple[str, ...] = (THE_ARM,)
    error_kinds: tuple[str, ...] = ()
    open_loop: bool = False
    unanswered: int = 0
    unsent: int = 0
    starved: int = 0
    lost_workers: int = 0
    cut_short: bool = False

    def __len__(self) -> int:
        """Count the requests that ended."""
        return len(self.started_s)

    @property
    def lag_ms(self) -> NDArray[np.float64]:
        """How late each request was sent, ``(S,) float64``."""
        return (self.started_s - self.intended_s) * 1000

    @property
    def ended_s(self) -> NDArray[np.float64]:
        """When each request ended, ``(S,) float64``."""
        return (self.intended_s if self.open_loop else self.started_s) + self.latency_ms / 1000

    @property
    def errors(self) -> dict[str, int]:
        """Failed requests by kind; sums up to the number of rows that are not ok."""
        counts = Counter(self.error[~self.ok].tolist())
        return {self.error_kinds[number]: count for number, count in counts.items()}

    def rows(self, chosen: NDArray[Any]) -> Samples:
        """Some of the rows, by mask or by number; what is counted beside the rows stays as it is."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in COLUMNS})

    def of_arm(self, name: str) -> Samples:
        """Rows of one arm."""
        return self.rows(self.arm == self.arms.index(name))


def joined(parts: Sequence[Samples]) -> Samples:
    """Put the samples of several processes or chunks together, in order of their end; names are numbered anew, counts add up."""
    names = {key: tuple(dict.fromkeys(name for part in parts for name in getattr(part, key))) for key in NAMES.values()}
    told: dict[str, Any] = {
        **names,
        **{name: np.concatenate([_renumbered(part, name, names) for part in parts]).astype(kind) for name, kind in COLUMNS.items()},
        **{name: any(getattr(part, name) for part in parts) for name in MARKS},
        **{name: sum(getattr(part, name) for part in parts) for name in COUNTS},
    }
    whole = Samples(**told)
    return whole.rows(np.argsort(whole.ended_s, kind="stable"))


def _renumbered(part: Samples, column: str, names: dict[str, tuple[str, ...]]) -> NDArray[Any]:
    values: NDArray[Any] = getattr(part, column)
    if column not in NAMES:
        return values
    key = NAMES[column]
    # The last entry is what NO_ERROR, -1, picks.
    numbers = np.array([*(names[key].index(name) for name in getattr(part, key)), NO_ERROR])
    return np.asarray(numbers[values])


def encode_samples(samples: Samples, *, compressed: bool = True) -> bytes:
    """Return the content of a ``samples.npz``; without compression it takes a fifth of the time and four times the bytes."""
    buffer = io.BytesIO()
    columns: dict[str, Any] = {field.name: getattr(samples, field.name) for field in fields(samples)}
    for key in NAMES.values():
        # An empty array of text must have a width.
        columns[key] = np.array(columns[key], dtype=np.str_) if columns[key] else np.zeros(0, "U1")
    (np.savez_compressed if compressed else np.savez)(buffer, schema_version=np.int64(SAMPLES_SCHEMA_VERSION), **columns)
    return buffer.getvalue()


def write_samples(samples: Samples, target: Path, *, compressed: bool = True) -> None:
    """Write a ``samples.npz``, completely or not at all."""
    write_bytes(target, encode_samples(samples, compressed=compressed))


def read_samples(path: Path) -> Samples:
    """Read what `write_samples` wrote, or a file of version 1.

    Raises
    ------
    SettingsError
        It cannot be read, or is no file of these schema versions.
    """
    try:
        return decode_samples(path.read_bytes())
    except (OSError, SettingsError) as error:
        raise SettingsError(f"{path} cannot be read as samples of a load test: {error}") from error


def decode_samples(content: bytes) -> Samples:
    """Read the content of a ``samples.npz``.

    Raises
    ------
    SettingsError
        It is none of these schema versions.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            version = int(file["schema_version"])
            if version not in (1, SAMPLES_SCHEMA_VERSION):
                raise SettingsError(f"it is of schema version {version}; this program reads 1 and {SAMPLES_SCHEMA_VERSION}")
            samples = _version_1(file) if version == 1 else _version_2(file)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SettingsError(str(error)) from error
    for name in COLUMNS:
        if getattr(samples, name).shape != (len(samples),):
            raise SettingsError(f"its columns differ in length: {name} has shape {getattr(samples, name).shape}, not ({len(samples)},)")
    for column, key in NAMES.items():
        least = NO_ERROR if column == "error" else 0
        if not _within(getattr(samples, column), least, len(getattr(samples, key))):
            raise SettingsError(f"column {column} points beyond {key}, which has {len(getattr(samples, key))} names")
    if not np.array_equal(samples.ok, samples.error == NO_ERROR):
        raise SettingsError("columns ok and error contradict each other: a request has a kind of error exactly when it is not ok")
    return samples


def _within(numbers: NDArray[Any], least: int, end: int) -> bool:
    return not len(numbers) or bool(numbers.min() >= least and numbers.max() < end)


def _columns(file: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: file[name].astype(COLUMNS[name]) for name in names}


def _version_2(file: Any) -> Samples:
    told: dict[str, Any] = _columns(file, COLUMNS)
    told |= {key: tuple(file[key].tolist()) for key in NAMES.values()}
    told |= {name: bool(file[name]) for name in MARKS} | {name: int(file[name]) for name in COUNTS}
    return Samples(**told)


def _version_1(file: Any) -> Samples:
    columns = _columns(file, ("started_s", "latency_ms", "ok", "answer_bytes"))
    ok, rows = columns["ok"], len(columns["started_s"])
    return Samples(
        **columns,
        intended_s=columns["started_s"],
        size=file["candidates"].astype(np.int64),
        status=np.full(rows, NOT_TOLD, dtype=np.int16),
        endpoint=np.zeros(rows, dtype=np.int16),
        arm=np.zeros(rows, dtype=np.int8),
        error=np.where(ok, NO_ERROR, 0).astype(np.int16),
        endpoints=("rank",),
        error_kinds=() if ok.all() else ("not told by the file",),
    )
