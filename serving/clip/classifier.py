"""Classification: a request's images and labels in, probabilities out. Knows no HTTP.

One request goes: decode → read its images → image tower → labels' embeddings → score. Decoding happens on a small pool of threads, runs on
the thread of the towers; where labels are known, nothing but the image tower is left to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Lock
from typing import Protocol

import numpy as np

from serving.clip.answers import Classified, needs_null, score
from serving.clip.embedder import LabelEmbedder
from serving.clip.label_book import LabelBook, Missing
from serving.clip.label_rules import refuse
from serving.clip.label_sets import LabelSet, LabelSets
from serving.clip.labels import Matrix, Row
from serving.clip.prompts import normalized
from serving.clip.requests import ClassifyRequest, image_files
from serving.clip.set_locks import SetLocks
from serving.clip.tower_thread import ImageJob, TowerThread
from serving.clip.towers import MAX_IMAGES_A_RUN, Pixels, Towers
from serving.contract.errors import CallerGone, DeadlineExceeded, RequestError, Violation

INFINITY = float("inf")

LONGEST_STEP_S = 0.05
"""Of texts, between two runs of images: by so much an image waits longer while labels are embedded."""

NOTHING = "something else"
"""Stands for "none of these" in the templates of a request, where the caller names nothing better."""

LABELS, NULL = "labels", "null"

Deliver = Callable[[Classified | Exception], None]


class ImageReader(Protocol):
    """Makes the pixels of one image file; `serving.clip.images.ImageReader`."""

    def read(self, content: bytes) -> Pixels:
        """``(S, S, 3) uint8``; raises `RequestError`."""
        ...


class _Asked:
    """One request on its way: what it has so far, and how many parts are outstanding."""

    def __init__(self, deliver: Deliver, deadline_s: float, gone: Callable[[], bool]) -> None:
        self.began_s = time.perf_counter()
        self.deadline_s = deadline_s
        self.gone = gone
        self.decoded_s = self.read_s = 0.0
        self.run_started_s = self.run_ended_s = 0.0
        self.request: ClassifyRequest
        self.labels: Sequence[str] = ()
        self.embeddings: list[Row | None] = []
        self.matrices: dict[str, Matrix] = {}
        self._deliver: Deliver | None = deliver
        self._outstanding = 1  # itself being taken apart
        self._lock = Lock()

    @property
    def marks_s(self) -> tuple[float, ...]:
        """Times before and after its stages until the run's end."""
        return self.began_s, self.decoded_s, self.read_s, self.run_started_s, self.run_ended_s

    def expect(self, parts: int) -> None:
        """Wait for so many parts more."""
        with self._lock:
            self._outstanding += parts

    def part_done(self) -> bool:
        """Count a part; whether it was the last one."""
        with self._lock:
            self._outstanding -= 1
            return self._outstanding == 0

    def answer(self, result: Classified | Exception) -> None:
        """Deliver the first result; what comes later is dropped."""
        with self._lock:
            deliver, self._deliver = self._deliver, None
        if deliver is not None:
            deliver(result)

    def stop(self) -> Exception | None:
        """Why the request is not worth more work."""
        if self._deliver is None:
            return CallerGone("the request was answered already")
        if time.perf_counter() > self.deadline_s:
            return DeadlineExceeded("the deadline passed before the labels were embedded")
        return CallerGone("the caller closed the connection") if self.gone() else None


class Classifier:
    """One bundle that answers.

    Parameters
    ----------
    towers
        Loaded; they are warmed here.
    reader
        Of image files.
    book
        Embeddings of labels.
    sets
        Named label sets.
    locks
        Between the workers that would embed the same set.
    text_budget_s
        Most time that the texts of one request may take.
    on_run
        Told on another thread how many requests, or parts of them, each run of the image tower had.
    """

    def __init__(
        self,
        towers: Towers,
        reader: ImageReader,
        book: LabelBook,
        sets: LabelSets,
        locks: SetLocks,
        *,
        text_budget_s: float,
        on_run: Callable[[int], None] = lambda jobs: None,
    ) -> None:
        self.towers = towers
        self.image_cost, self.text_cost = towers.warm_up(LONGEST_STEP_S)
        self._scoring = towers.spec.scoring
        self._reader = reader
        self._sets = sets
        self._pool = ThreadPoolExecutor(towers.threads, "clip-read")
        name = towers.manifest.name
        self._thread = TowerThread(name, towers.embed_images, self.image_cost, max_images=MAX_IMAGES_A_RUN, on_run=on_run)
        self.labels = LabelEmbedder(towers, book, locks, self._thread, self._pool, self.text_cost, budget_s=text_budget_s)
        self._pool.submit(self.labels.prepare_all, sets.names(), sets.get)

    def ask(
        self,
        decode: Callable[[], ClassifyRequest],
        deliver: Deliver,
        *,
        deadline_s: float = INFINITY,
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        """Classify, on other threads than the caller's.

        Parameters
        ----------
        decode
            Makes the request of its body; raises `RequestError`.
        deliver
            Called once, on another thread, with the answer or with what became of the request.
        deadline_s
            On `time.perf_counter`'s clock.
        gone
            Says whether the caller has left.
        """
        self._pool.submit(self._begin, decode, _Asked(deliver, deadline_s, gone))

    def classify(self, request: ClassifyRequest) -> Classified:
        """Classify and wait for the answer; raises `RequestError`, `ServingError`."""
        answered = Event()
        found: list[Classified | Exception] = []

        def deliver(result: Classified | Exception) -> None:
            found.append(result)
            answered.set()

        self.ask(lambda: request, deliver)
        answered.wait()
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def prepare(self, label_set: LabelSet) -> None:
        """Embed a set in the background; returns at once."""
        self._pool.submit(self.labels.prepare_all, [label_set.name], lambda _: label_set)

    def close(self, wait_s: float = 0.0) -> None:
        """End the threads, and wait for that if asked to. Nothing may be asked any more, and nothing be under way but in the background."""
        self.labels.close()
        self._pool.shutdown(wait=False)
        self._thread.close()
        if wait_s:
            self._thread.join(wait_s)

    def _begin(self, decode: Callable[[], ClassifyRequest], asked: _Asked) -> None:
        try:
            if (reason := asked.stop()) is not None:
                raise reason
            asked.request = decode()
            files = image_files(asked.request, self.towers.spec.embedding_size)
            asked.decoded_s = time.perf_counter()
            missing = self._find_labels(asked)
            pixels = self._read_images(asked, files)
            asked.read_s = asked.run_started_s = asked.run_ended_s = time.perf_counter()
        except Exception as error:
            asked.answer(error)
            return
        places = [place for place, embedding in enumerate(asked.embeddings) if embedding is None]
        jobs = []
        for at in range(0, len(pixels), MAX_IMAGES_A_RUN):
            part = slice(at, at + MAX_IMAGES_A_RUN)
            jobs.append(ImageJob(pixels[part], asked.deadline_s, asked.gone, partial(self._images_ran, asked, places[part])))
        asked.expect(len(missing) + len(jobs))
        for name, each in missing.items():
            self.labels.embed(each, asked.stop, partial(self._labels_embedded, asked, name))
        self._thread.put_images(jobs)
        self._part_done(asked)

    def _find_labels(self, asked: _Asked) -> dict[str, Missing]:
        """Find the embeddings of a request's labels, or what is missing for them."""
        request = asked.request
        label_set = None if request.label_set is None else self._sets.get(request.label_set)
        asked.labels = label_set.labels if label_set is not None else tuple(request.labels or ())
        if not asked.labels:
            return {}
        lists = {LABELS: asked.labels}
        if needs_null(request, self._scoring):
            null = request.none_of_these if isinstance(request.none_of_these, str) else NOTHING
            if isinstance(request.none_of_these, str) and null in asked.labels:
                refuse("$.none_of_these", "it is one of the labels; it must stand for what they are not", null)
            lists[NULL] = (null,)
        templates = self.labels.templates(request.templates, label_set)
        missing = {}
        for name, labels in lists.items():
            found = self.labels.book.find(labels, templates)
            if isinstance(found, Missing):
                missing[name] = found
            else:
                asked.matrices[name] = found
        if missing:
            self.labels.admit(missing, label_set, asked.deadline_s)
        return missing

    def _read_images(self, asked: _Asked, files: Sequence[bytes | list[float]]) -> Pixels:
        """Read image files to ``(B, S, S, 3)``; embeddings among them are kept as they are."""
        read = []
        for index, file in enumerate(files):
            if not isinstance(file, bytes):
                asked.embeddings.append(normalized(np.array(file)))
                continue
            asked.embeddings.append(None)
            try:
                read.append(self._reader.read(file))
            except RequestError as error:
                path = f"$.images[{index}]"
                raise type(error)(f"{path}: {error.message}", [Violation(path, error.message)]) from error
        size = self.towers.spec.image.size
        return np.stack(read) if read else np.zeros((0, size, size, 3), np.uint8)

    def _labels_embedded(self, asked: _Asked, name: str, matrix: Matrix | Exception) -> None:
        if isinstance(matrix, Exception):
            asked.answer(matrix)
            return
        asked.matrices[name] = matrix
        self._part_done(asked)

    def _images_ran(self, asked: _Asked, places: Sequence[int], job: ImageJob, embeddings: Matrix | Exception) -> None:
        if isinstance(embeddings, Exception):
            asked.answer(embeddings)
            return
        if asked.run_started_s == asked.read_s:
            asked.run_started_s = job.run_started_s  # of the first part
        asked.run_ended_s = job.run_ended_s
        for place, embedding in zip(places, embeddings, strict=True):
            asked.embeddings[place] = embedding
        self._part_done(asked)

    def _part_done(self, asked: _Asked) -> None:
        if not asked.part_done():
            return
        try:
            complete_s = time.perf_counter()
            embeddings = np.stack(asked.embeddings)  # type: ignore[arg-type]  # all are there by now
            images = score(asked.request, self._scoring, embeddings, asked.matrices.get(LABELS), asked.matrices.get(NULL))
            marks_s = (*asked.marks_s, complete_s, time.perf_counter())
        except Exception as error:
            asked.answer(error)
            return
        asked.answer(Classified(asked.labels, images, marks_s))
