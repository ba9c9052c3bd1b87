"""Labels that were not seen before: embedded step by step, whole, each once, and kept as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from serving.clip import text_job
from serving.clip.labels import Kept, label_keys
from serving.clip.prompts import ensemble, normalized, templates_of
from serving.clip.text_job import TextJob
from serving.contract.errors import CallerGone, ModelOutputError

DIM = 6


def _embedding(text: str) -> np.ndarray:
    seed = int.from_bytes(text.encode()[-6:], "little") % 2**32
    return normalized(np.random.default_rng(seed).normal(size=DIM))


class Run:
    def __init__(self, labels: Sequence[str], templates: str = "single", texts_a_step: int = 4, **more: Any) -> None:
        self.templates = templates_of(templates, "single")
        self.labels = labels
        self.keys = label_keys("tower", self.templates, labels)
        self.kept = Kept(10**6)
        self.steps: list[list[str]] = []
        self.stored: list[int] = []
        self.delivered: list[Any] = []
        self.reason: Exception | None = None
        self.job = TextJob(
            list(zip(self.keys, labels, strict=True)),
            self.templates,
            embed=more.get("embed", self.embed),
            texts_a_step=texts_a_step,
            kept=self.kept,
            store=lambda keys, rows: self.stored.append(len(keys)),
            stop=lambda: self.reason,
            deliver=self.delivered.append,
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.steps.append(list(texts))
        return np.stack([_embedding(text) for text in texts])

    def whole(self) -> dict[bytes, np.ndarray]:
        for _ in range(10_000):
            if self.job.step():
                break
        (rows,) = self.delivered
        assert isinstance(rows, dict)
        return rows


@pytest.mark.parametrize("templates", ["single", "simple", "imagenet80"])
@pytest.mark.parametrize("texts_a_step", [1, 3, 32])
def test_labels_are_embedded_as_the_ensemble_of_their_texts_whatever_the_steps(templates: str, texts_a_step: int) -> None:
    run = Run(["cat", "dog", "猫"], templates, texts_a_step)
    rows = run.whole()
    for key, label in zip(run.keys, run.labels, strict=True):
        expected = ensemble(np.stack([_embedding(text) for text in run.templates.texts_of(label)])[None])[0]
        np.testing.assert_allclose(rows[key], expected, atol=1e-6)
        np.testing.assert_array_equal(run.kept.get(key), rows[key])
    assert max(len(step) for step in run.steps) <= texts_a_step
    assert sum(len(step) for step in run.steps) == 3 * len(run.templates.texts)


def test_what_another_request_has_embedded_meanwhile_is_not_embedded_again() -> None:
    run = Run(["a", "b", "c"], texts_a_step=1)
    run.job.step()
    run.kept.keep(run.keys[1], np.ones(DIM, np.float32))
    rows = run.whole()
    assert run.steps == [["a photo of a a."], ["a photo of a c."]]
    assert rows[run.keys[1]].tolist() == [1] * DIM


def test_a_job_that_nobody_waits_for_stops_and_keeps_what_it_has() -> None:
    run = Run(["a", "b", "c"], texts_a_step=1)
    run.job.step()
    run.reason = CallerGone("left")
    assert run.job.step()
    assert run.delivered == [run.reason]
    assert (run.kept.count(run.keys), run.stored) == (1, [1])


def test_a_failure_of_the_tower_is_delivered() -> None:
    def fail(texts: Sequence[str]) -> np.ndarray:
        raise ModelOutputError("not an embedding")

    run = Run(["a"], embed=fail)
    assert run.job.step()
    assert isinstance(run.delivered[0], ModelOutputError)


def test_long_lists_reach_the_disk_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_job, "STORE_EVERY", 10)
    run = Run([f"label {i}" for i in range(25)], texts_a_step=5)
    run.whole()
    assert run.stored == [10, 10, 5]
