"""The thread that runs a model's towers: images first, stacked where that is faster, and texts in short steps between them.

Runs take tens of milliseconds and release the interpreter, so that the event loop goes on meanwhile. One thread a model: ONNX Runtime has
threads of its own inside a run, and two runs at once would only share the same cores.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from serving.clip.labels import Matrix
from serving.clip.towers import Pixels
from serving.contract.errors import CallerGone, DeadlineExceeded
from serving.runtime.cost import CostModel

log = logging.getLogger("pilotage")

INFINITY = float("inf")


class Steps(Protocol):
    """Work in short steps."""

    def step(self) -> bool:
        """Do one; whether it was the last. Raises nothing."""
        ...


class ImageJob:
    """Images of one request, or a part of them, that wait for their run.

    Parameters
    ----------
    pixels
        ``(B, S, S, 3) uint8``.
    deadline_s
        On `time.perf_counter`'s clock.
    gone
        Says whether the caller has left.
    deliver
        Called once, on the thread of the towers, with the embeddings ``(B, D)`` or with why there are none.

    Attributes
    ----------
    run_started_s, run_ended_s
        When its run began and ended.
    """

    def __init__(
        self, pixels: Pixels, deadline_s: float, gone: Callable[[], bool], deliver: Callable[[ImageJob, Matrix | Exception], None]
    ) -> None:
        self.pixels = pixels
        self.deadline_s = deadline_s
        self.gone = gone
        self.deliver = deliver
        self.run_started_s = self.run_ended_s = 0.0


class TowerThread:
    """The thread and what waits for it.

    Parameters
    ----------
    embed
        Pixels ``(B, S, S, 3)`` to embeddings ``(B, D)``.
    cost
        Seconds of a run by its images.
    max_images
        Most images stacked into one run.
    on_run
        Told on this thread how many jobs each run had.
    """

    def __init__(
        self,
        name: str,
        embed: Callable[[Pixels], Matrix],
        cost: CostModel,
        *,
        max_images: int,
        on_run: Callable[[int], None] = lambda jobs: None,
    ) -> None:
        self._embed = embed
        self.cost = cost
        self._max_images = max_images
        self._on_run = on_run
        self._images: deque[ImageJob] = deque()
        self._texts: deque[Steps] = deque()
        self._background: deque[Steps] = deque()
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"towers-{name}", daemon=True)
        self._thread.start()

    def put_images(self, jobs: Sequence[ImageJob]) -> None:
        """Let images wait for their run."""
        with self._wake:
            self._images.extend(jobs)
            self._wake.notify()

    def put_texts(self, job: Steps, *, background: bool = False) -> None:
        """Let a job of texts have its steps; one in the background has them when no other waits."""
        with self._wake:
            (self._background if background else self._texts).append(job)
            self._wake.notify()

    def close(self) -> None:
        """End the thread, once nothing waits any more."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the end after `close`."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._images or self._texts or self._background or self._closed):
                    self._wake.wait()
                if not (self._images or self._texts or self._background):
                    return
            self._turn()

    def _turn(self) -> None:
        """One run of images, then one step of texts, of what waits of each: neither keeps the other waiting for long."""
        batch = self._next_batch()
        if batch:
            self._run(batch)
        queue = self._texts or self._background
        if queue and queue[0].step():
            queue.popleft()
        elif len(queue) > 1:
            queue.rotate(-1)  # a short list must not wait for a long one

    def _next_batch(self) -> list[ImageJob]:
        """Take jobs while one more delays those in the run by less than it saves those behind; see `serving.runtime.run_queue`."""
        now_s = time.perf_counter()
        batch: list[ImageJob] = []
        total = 0
        with self._wake:
            while self._images:
                job = self._images[0]
                images = len(job.pixels)
                if batch:
                    grows_s = self.cost.predict(total + images, len(batch) + 1) - self.cost.predict(total, len(batch))
                    saves_s = self.cost.predict(images) - grows_s
                    if total + images > self._max_images or grows_s * len(batch) > saves_s * len(self._images):
                        break
                self._images.popleft()
                refusal = self._refusal(job, now_s)
                if refusal is None:
                    batch.append(job)
                    total += images
                else:
                    _deliver(job, refusal)
        return batch

    def _refusal(self, job: ImageJob, now_s: float) -> Exception | None:
        if job.deadline_s != INFINITY and now_s + self.cost.predict(len(job.pixels)) > job.deadline_s:
            return DeadlineExceeded("the deadline would pass before the image tower has run")
        return CallerGone("the caller closed the connection") if job.gone() else None

    def _run(self, batch: Sequence[ImageJob]) -> None:
        pixels = batch[0].pixels if len(batch) == 1 else np.concatenate([job.pixels for job in batch])
        started_s = time.perf_counter()
        try:
            embeddings = self._embed(pixels)
        except Exception as error:
            if len(batch) > 1:  # one request must not take its neighbours with it
                for job in batch:
                    self._run([job])
                return
            _deliver(batch[0], error)
            return
        ended_s = time.perf_counter()
        self.cost.observe(len(pixels), ended_s - started_s, len(batch))
        self._on_run(len(batch))
        at = 0
        for job in batch:
            job.run_started_s, job.run_ended_s = started_s, ended_s
            _deliver(job, embeddings[at : at + len(job.pixels)])
            at += len(job.pixels)


def _deliver(job: ImageJob, result: Matrix | Exception) -> None:
    try:
        job.deliver(job, result)
    except Exception:  # a fault of ours: the other requests of the run must still be answered
        log.exception("an answer could not be delivered")
