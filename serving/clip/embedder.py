"""Embeds what labels are missing: at once for a request that waits for them, or behind everything else for a label set."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from threading import Event

from serving.clip.label_book import LabelBook, Missing
from serving.clip.label_rules import refuse
from serving.clip.label_sets import LabelSet, UnknownLabelSet
from serving.clip.labels import Matrix, Row
from serving.clip.prompts import Templates, templates_of
from serving.clip.set_locks import SetLocks
from serving.clip.text_job import TextJob
from serving.clip.tower_thread import TowerThread
from serving.clip.towers import Towers
from serving.contract.errors import CallerGone, DeadlineExceeded, NotReady, Overloaded
from serving.runtime.cost import CostModel

log = logging.getLogger("pilotage")

Rows = dict[bytes, Row]
Stop = Callable[[], Exception | None]


class LabelSetNotReady(NotReady):
    """The labels of a set are still being embedded."""

    code = "label_set_not_ready"


class LabelEmbedder:
    """The text half of one model.

    Parameters
    ----------
    book
        What is embedded already.
    locks
        Between the workers that would embed the same set.
    thread, pool
        Where the tower runs, and where disks are written: a sync may take long, and the towers need not wait for it.
    cost
        Seconds of a run of the text tower by its texts.
    budget_s
        Most time that the texts of one request may take.
    """

    def __init__(
        self, towers: Towers, book: LabelBook, locks: SetLocks, thread: TowerThread, pool: Executor, cost: CostModel, *, budget_s: float
    ) -> None:
        self.book = book
        self._towers = towers
        self._locks = locks
        self._thread = thread
        self._pool = pool
        self._cost = cost
        self._budget_s = budget_s
        self._closing = Event()
        self._backlog = 0  # texts that requests wait for; a count that a race may put off by a few is good enough to admit by

    def close(self) -> None:
        """Give up what goes on in the background."""
        self._closing.set()

    def templates(self, given: str | Sequence[str] | None, label_set: LabelSet | None = None) -> Templates:
        """Templates of a request, else of the label set, else of the model."""
        if given is None and label_set is not None and label_set.templates is not None:
            return label_set.templates
        return templates_of(given, self._towers.spec.templates)

    def embedded(self, label_set: LabelSet) -> int:
        """How many labels of a set are embedded."""
        return self.book.count(label_set.labels, self.templates(None, label_set))

    def prepare(self, label_set: LabelSet) -> None:
        """Embed a set in the background, if need be, unless another worker is at it."""
        found = self.book.find(label_set.labels, self.templates(None, label_set))
        if isinstance(found, Missing):
            self._embed_behind(found)

    def prepare_all(self, names: Sequence[str], get: Callable[[str], LabelSet]) -> None:
        """Prepare sets that were registered before this worker started."""
        for name in names:
            try:
                self.prepare(get(name))
            except UnknownLabelSet:
                continue  # deleted meanwhile, or damaged, which is logged
            except Exception:
                log.exception("label set %r cannot be embedded", name)

    def admit(self, missing: Mapping[str, Missing], label_set: LabelSet | None, deadline_s: float) -> None:
        """Refuse a request whose labels cannot be embedded while it waits.

        Parameters
        ----------
        missing
            What is missing, under ``labels`` for its labels.

        Raises
        ------
        InvalidRequest
            Its own labels take longer than a request may.
        LabelSetNotReady
            The same with those of a set, which are being embedded from now on.
        Overloaded, DeadlineExceeded
            Those of others go first, and then it would be too late.
        """
        texts = sum(each.texts for each in missing.values())
        own_s = self._seconds(texts)
        if own_s > self._budget_s:
            count = sum(len(each.wanted) for each in missing.values())
            if label_set is not None and "labels" in missing:
                self._embed_behind(missing["labels"])
                raise LabelSetNotReady(
                    f"{count} of {len(label_set.labels)} labels of the set {label_set.name!r} are still to be embedded, in {own_s:.0f} s "
                    f"or more; GET /v1/label-sets/{label_set.name} tells how far it is"
                )
            refuse(
                "$.labels",
                f"{count} labels that were not seen before are {texts} texts, which take some {own_s:.0f} s; the limit "
                f"is {self._budget_s:g} s; register them as a label set, which is embedded in the background, or send fewer",
            )
        wait_s = self._seconds(self._backlog) + own_s
        left_s = deadline_s - time.perf_counter()
        if wait_s > left_s:
            raise DeadlineExceeded(
                f"labels that were not seen before take some {wait_s * 1e3:.0f} ms, the deadline is in {left_s * 1e3:.0f} ms"
            )
        if wait_s > self._budget_s:
            raise Overloaded(f"labels of other requests go first, these would take {wait_s:.1f} s, the limit is {self._budget_s:g} s")

    def embed(self, missing: Missing, stop: Stop, ready: Callable[[Matrix | Exception], None]) -> None:
        """Embed for a request that waits; `ready` is called on the thread of the towers."""

        def deliver(rows: Rows | Exception) -> None:
            self._backlog -= missing.texts
            ready(rows if isinstance(rows, Exception) else self.book.complete(missing, rows))

        self._backlog += missing.texts
        self._thread.put_texts(self._job(missing, stop, deliver))

    def _embed_behind(self, missing: Missing) -> None:
        lock = self._locks.take(missing.list_key)
        if lock is None:
            return

        def deliver(rows: Rows | Exception) -> None:
            lock.release()
            if not isinstance(rows, Exception):
                self.book.complete(missing, rows)
            elif not isinstance(rows, CallerGone):
                log.error("a label set could not be embedded", exc_info=rows)

        def stop() -> Exception | None:
            return CallerGone("the model is being replaced") if self._closing.is_set() else None

        self._thread.put_texts(self._job(missing, stop, deliver), background=True)

    def _job(self, missing: Missing, stop: Stop, deliver: Callable[[Rows | Exception], None]) -> TextJob:
        return TextJob(
            missing.wanted,
            missing.templates,
            embed=self._run,
            texts_a_step=self._towers.texts_a_run,
            kept=self.book.rows,
            store=self._store,
            stop=stop,
            deliver=deliver,
        )

    def _run(self, texts: Sequence[str]) -> Matrix:
        started_s = time.perf_counter()
        embeddings = self._towers.embed_texts(texts)
        self._cost.observe(len(texts), time.perf_counter() - started_s)
        return embeddings

    def _store(self, keys: Sequence[bytes], embeddings: Matrix) -> None:
        try:
            self._pool.submit(self.book.store.add, keys, embeddings)
        except RuntimeError:  # the pool takes nothing any more: the model is being replaced
            self.book.store.add(keys, embeddings)

    def _seconds(self, texts: int) -> float:
        """Of the text tower for so many texts."""
        whole, rest = divmod(texts, self._towers.texts_a_run)
        return whole * self._cost.predict(self._towers.texts_a_run) + (self._cost.predict(rest) if rest else 0.0)
