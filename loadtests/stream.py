"""Samples while the load runs: ``chunk-000001.npz``, ``chunk-000002.npz``, …, and at the very end ``end.json``.

Each file appears complete, under its final name. Whoever judges a canary reads one after the other, until the end says that no more will
come, how many there were and whether the generator kept to its schedule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from loadtests.lag import GeneratorLag, assess
from loadtests.samples import COUNTS, Samples, read_samples, write_samples
from serving.contract.errors import SettingsError
from serving.contract.files import write_bytes

END_NAME = "end.json"


class StreamEnd(BaseModel):
    """``end.json``.

    Attributes
    ----------
    chunks
        How many were written.
    requests, unanswered
        In all chunks; and under way when the test was cut off.
    cut_short
        Somebody ended the test before its schedule was through.
    generator
        Whether it kept to its schedule.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    chunks: int
    requests: int
    unanswered: int
    cut_short: bool
    generator: GeneratorLag


def chunk_path(folder: Path, number: int) -> Path:
    """Path of a chunk, from number 1."""
    return folder / f"chunk-{number:06d}.npz"


class StreamWriter:
    """Writes chunks into a folder; what an earlier test left there is removed first."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._chunks = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (folder / END_NAME, *folder.glob("chunk-*.npz")):
            stale.unlink(missing_ok=True)

    def add(self, samples: Samples) -> None:
        """Write a chunk; nothing where it would tell nothing."""
        if not tells_nothing(samples):
            self._chunks += 1
            write_samples(samples, chunk_path(self._folder, self._chunks), compressed=False)

    def end(self, whole: Samples) -> None:
        """Say that this was all."""
        write_bytes(self._folder / END_NAME, end_of(self._chunks, whole).model_dump_json(indent=2).encode() + b"\n")


def tells_nothing(samples: Samples) -> bool:
    """Whether nothing happened: no request ended, and none was lost."""
    return not len(samples) and not any(getattr(samples, name) for name in COUNTS)


def end_of(chunks: int, whole: Samples) -> StreamEnd:
    """Sum a test up."""
    return StreamEnd(chunks=chunks, requests=len(whole), unanswered=whole.unanswered, cut_short=whole.cut_short, generator=assess(whole))


class StreamReader:
    """Reads chunks in their order, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._chunks = folder, 0

    def new(self) -> list[Samples]:
        """Return what has been written since the last call."""
        found = []
        while (path := chunk_path(self._folder, self._chunks + 1)).exists():
            found.append(read_samples(path))
            self._chunks += 1
        return found

    def end(self) -> StreamEnd | None:
        """Return the end, None while there may be more; ask for `new` chunks once more when it is there.

        Raises
        ------
        SettingsError
            The file is none of this schema version.
        """
        path = self._folder / END_NAME
        try:
            return StreamEnd.model_validate_json(path.read_bytes()) if path.exists() else None
        except (OSError, ValidationError) as error:
            raise SettingsError(f"{path} cannot be read as the end of a stream of samples: {error}") from error
