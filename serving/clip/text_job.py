"""Embedding labels that were not seen before, in short steps between which images are served.

A hundred labels with ViT-B/32 take seconds where an image takes tens of milliseconds: done in one go, they would hold up everybody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from serving.clip.labels import Kept, Matrix, Row
from serving.clip.prompts import Templates, ensemble

STORE_EVERY = 256
"""Labels between two writes to disk: a file each would be synced, and list long; a stopped worker loses so many."""


class TextJob:
    """The labels of one list that are to be embedded.

    Parameters
    ----------
    embed
        Texts to normalized embeddings ``(T, D)``.
    texts_a_step
        Most texts in one step.
    kept
        Where embeddings are kept as they come; what another job put there meanwhile is not embedded twice.
    store
        Called with keys and embeddings for the disk, now and then, and at the end.
    stop
        Why nobody waits for the job any more; None while somebody does.
    deliver
        Called once, with all rows by key, or with why there are none.
    """

    def __init__(
        self,
        wanted: Sequence[tuple[bytes, str]],
        templates: Templates,
        *,
        embed: Callable[[Sequence[str]], Matrix],
        texts_a_step: int,
        kept: Kept,
        store: Callable[[Sequence[bytes], Matrix], None],
        stop: Callable[[], Exception | None],
        deliver: Callable[[dict[bytes, Row] | Exception], None],
    ) -> None:
        self._wanted = deque(wanted)
        self._templates = templates
        self._embed = embed
        self._texts_a_step = texts_a_step
        self._kept = kept
        self._store = store
        self._stop = stop
        self._deliver = deliver
        self._begun: deque[bytes] = deque()  # keys of labels whose texts were taken, and not all embedded
        self._texts: deque[str] = deque()
        self._embedded: list[Matrix] = []
        self._rows: dict[bytes, Row] = {}
        self._unstored: list[bytes] = []

    def step(self) -> bool:
        """Embed some texts; whether that was the last step."""
        try:
            if (reason := self._stop()) is not None:
                raise reason
            texts = self._next_texts()
            if texts:
                self._embedded.append(self._embed(texts))
                self._finish_labels()
            done = not (self._wanted or self._begun)
            self._write(all_of_them=done)
        except Exception as error:
            self._write(all_of_them=True)
            self._deliver(error)
            return True
        if done:
            self._deliver(self._rows)
        return done

    def _next_texts(self) -> list[str]:
        while self._wanted and len(self._texts) < self._texts_a_step:
            key, label = self._wanted.popleft()
            row = self._kept.get(key)
            if row is not None:
                self._rows[key] = row
                continue
            self._begun.append(key)
            self._texts.extend(self._templates.texts_of(label))
        return [self._texts.popleft() for _ in range(min(len(self._texts), self._texts_a_step))]

    def _finish_labels(self) -> None:
        """Join the texts of labels that are embedded whole; texts come label by label."""
        embedded, each = np.concatenate(self._embedded), len(self._templates.texts)
        self._embedded = [embedded]
        count = len(embedded) // each
        if not count:
            return
        joined = ensemble(embedded[: count * each].reshape(count, each, -1))
        self._embedded = [embedded[count * each :]]
        for row in joined:
            key = self._begun.popleft()
            self._rows[key] = row
            self._kept.keep(key, row)
            self._unstored.append(key)

    def _write(self, *, all_of_them: bool) -> None:
        if self._unstored and (all_of_them or len(self._unstored) >= STORE_EVERY):
            keys, self._unstored = self._unstored, []
            self._store(keys, np.stack([self._rows[key] for key in keys]))
