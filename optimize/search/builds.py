"""Candidates → graphs on disk, or why there is none."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import onnx

from optimize.export.files import files_of, save_graph
from optimize.passes.base import Context, Pass, PassNotApplicable
from optimize.search.cache import Cache, DiskError, code_digest, key_of, told
from optimize.search.candidates import DOES_NOT_APPLY, Candidate
from optimize.search.machine import package_versions
from optimize.search.subject import Subject
from serving.contract.errors import PilotageError
from serving.contract.manifest import Signature, difference
from serving.runtime.session import GraphSession

MAX_GROWTH = 1.1
"""A variant may be so much larger than the reference: a rewrite may store a small constant twice, but a pass that does more than that has
gone wrong. Beside it `FREE_BYTES` are free: scales and zero points weigh on a model of some kilobytes."""

FREE_BYTES = 64 * 1024


class Refused(Exception):
    """A candidate that is out, and why."""


class Builds:
    """Builds candidates of one subject, and keeps what they became."""

    def __init__(self, subject: Subject, cache: Cache, *, threads: int) -> None:
        self._subject, self._cache, self._threads = subject, cache, threads
        self._context = Context(calibration=tuple(subject.calibration))
        self._chain: list[tuple[str, onnx.ModelProto]] = []
        self._reference_bytes = 0
        self._reference_signature: Signature | None = None
        self._open: tuple[str, GraphSession] | None = None

    def key(self, candidate: Candidate) -> str:
        """Digest of everything that the graph depends on."""
        calibration = self._subject.calibration_digest if candidate.needs_calibration() else ""
        versions = {**package_versions(), "passes": code_digest("passes")}
        return key_of(self._subject.digest, [step.name for step in candidate.steps], calibration, versions)

    def build(self, candidate: Candidate) -> Path:
        """Path of the candidate's graph.

        Raises
        ------
        Refused
            A pass does not apply or fails, or its result cannot be served in the reference's place.
        DiskError
            The disk is full.
        """
        key = self.key(candidate)
        refusal = self._cache.read("refusals", key)
        if refusal is not None:
            raise Refused(refusal)
        folder = self._cache.read_folder("graphs", key)
        if folder is None:
            try:
                folder = self._made(candidate, key)
            except MemoryError as error:  # another day it may fit
                raise Refused("could not be built: there was not enough memory") from error
            except Refused as refused:
                self._cache.write("refusals", key, str(refused))
                raise
        path = folder / f"{candidate.file_stem}.onnx"
        if not candidate.steps:
            self._reference_bytes = size_of(path)
        return path

    def session(self, candidate: Candidate) -> GraphSession:
        """A session of the candidate's graph; the last one stays open, for a model of some 100 MB takes a second to load.

        Raises
        ------
        Refused
            As `build`.
        """
        key, path = self.key(candidate), self.build(candidate)
        if self._open is None or self._open[0] != key:
            self._open = None  # its memory first
            self._open = key, GraphSession(path, threads=self._threads)
        return self._open[1]

    def size_bytes(self, candidate: Candidate) -> int:
        """Of graph and weights, also of a graph that is not kept.

        Raises
        ------
        Refused
            As `build`.
        """
        key = self.key(candidate)
        size: int | None = self._cache.read("sizes", key)
        if size is None:
            size = size_of(self.build(candidate))
            self._cache.write("sizes", key, size)
        return size

    def clear(self) -> None:
        """Let go of the models and the session that are held to build and judge the next one faster."""
        self._chain.clear()
        self._open = None

    def forget(self, candidate: Candidate) -> None:
        """Remove a graph that will not be used; what was found out about it stays."""
        self._cache.drop_folder("graphs", self.key(candidate))

    def _made(self, candidate: Candidate, key: str) -> Path:
        with self._cache.writing_folder("graphs", key) as folder:
            path = folder / f"{candidate.file_stem}.onnx"
            save_graph(self._applied(candidate.steps), path)
            self._open = None
            try:
                session = GraphSession(path, threads=self._threads)
            except PilotageError as error:
                raise Refused(f"cannot be served: {error}".replace(str(path), path.name)) from error
            self._check(candidate, session)
        made = self._cache.read_folder("graphs", key)
        if made is None:
            raise DiskError(f"{self._cache.folder} lost what was written to it; does something else clean it up?")
        self._open = key, session
        return made

    def _applied(self, steps: Sequence[Pass]) -> onnx.ModelProto:
        """Apply the steps, from the longest beginning that the candidate before had too."""
        shared = 0
        while shared < min(len(steps), len(self._chain)) and steps[shared].name == self._chain[shared][0]:
            shared += 1
        del self._chain[shared:]
        graph = self._chain[-1][1] if self._chain else self._subject.reference
        for step in steps[shared:]:
            graph = self._step(step, graph)
            self._chain.append((step.name, graph))
        return graph

    def _step(self, step: Pass, graph: onnx.ModelProto) -> onnx.ModelProto:
        try:
            return step.apply(graph, self._context)
        except PassNotApplicable as error:
            raise Refused(f"{step.name} {DOES_NOT_APPLY}: {error}") from error
        except PilotageError as error:
            raise Refused(f"{step.name}: {error}") from error
        except MemoryError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                with told(Path(error.filename or "a temporary file")):
                    raise
            raise Refused(f"{step.name} failed: {type(error).__name__}: {error}") from error

    def _check(self, candidate: Candidate, session: GraphSession) -> None:
        size = size_of(session.path)
        if not candidate.steps:
            if self._subject.signature is not None:
                session.require(self._subject.signature)
            self._reference_signature = session.signature
            return
        if self._reference_signature is None:
            self._reference_signature = GraphSession(self.build(Candidate(())), threads=1).signature
        gap = difference(self._reference_signature, session.signature)
        if gap:
            raise Refused(f"does not fit the reference's signature: {gap}")
        limit = MAX_GROWTH * self._reference_bytes + FREE_BYTES
        if size > limit:
            has, had, most = (f"{value / 1e6:.2f} MB" for value in (size, self._reference_bytes, limit))
            raise Refused(f"has {has}, the reference {had}; at most {most} are allowed")


def size_of(path: Path) -> int:
    """Bytes of a graph and its weights."""
    return sum(file.stat().st_size for file in files_of(path))
