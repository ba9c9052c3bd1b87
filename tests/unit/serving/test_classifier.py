"""The classifier: known labels cost the image tower alone, unseen ones are embedded once, sets behind everything else."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.clip.classifier import Classifier
from serving.clip.embedder import LabelSetNotReady
from serving.clip.images import ImageReader
from serving.clip.label_book import LabelBook
from serving.clip.label_sets import LabelSets
from serving.clip.label_store import LabelStore
from serving.clip.requests import ClassifyTypes
from serving.clip.set_locks import SetLocks
from serving.clip.tokenize import TextEncoder, canonical
from serving.clip.towers import Towers, text_fingerprint
from serving.contract.bundle import ClipBundle
from serving.contract.errors import BundleError, CallerGone, DeadlineExceeded, InvalidRequest, ModelOutputError, Overloaded, RequestError
from tests.clip_bundles import COLOURS, LENGTH, picture, tiny_clip_bundle

WAIT_S = 20
MIB = 2**20
TYPES = ClassifyTypes(32, 20_000)
LABELS = [*COLOURS, "a dog"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ClipBundle:
    return tiny_clip_bundle(tmp_path_factory.mktemp("clip") / "bundle")


class Bench:
    """A classifier whose text runs are counted, and may be held up."""

    def __init__(self, bundle: ClipBundle, state: Path, budget_s: float = 20.0, cache_mib: int = 64) -> None:
        self.towers = Towers(bundle, threads=1)
        self.texts: list[str] = []
        self.go = threading.Event()
        self.go.set()
        embed = self.towers.embed_texts

        def counted(texts: Any) -> Any:
            assert self.go.wait(WAIT_S)
            self.texts.extend(texts)
            return embed(texts)

        self.sets = LabelSets(state / "sets")
        store = LabelStore(state / "embeddings", self.towers.fingerprint, self.towers.spec.embedding_size, cache_mib * MIB)
        book = LabelBook(self.towers.fingerprint, store, cache_mib * MIB)
        reader = ImageReader(self.towers.spec.image, max_bytes=MIB, max_pixels=MIB)
        warm_up = self.towers.warm_up

        def warmed(longest_step_s: float) -> Any:
            costs = warm_up(longest_step_s)
            self.towers.embed_texts = counted  # type: ignore[method-assign]
            return costs

        self.towers.warm_up = warmed  # type: ignore[method-assign]
        self.classifier = Classifier(self.towers, reader, book, self.sets, SetLocks(state / "locks"), text_budget_s=budget_s)

    def ask(self, colours: Any = ("red",), **options: Any) -> Any:
        return self.classifier.classify(request(colours, **options))

    def start(self, deadline_s: float = float("inf"), gone: Callable[[], bool] = lambda: False, **options: Any) -> list[Any]:
        results: list[Any] = []
        self.classifier.ask(lambda: request(("red",), **options), results.append, deadline_s=deadline_s, gone=gone)
        return results

    def until(self, happened: Callable[[], Any]) -> Any:
        limit = time.monotonic() + WAIT_S
        while not (found := happened()):
            assert time.monotonic() < limit
            time.sleep(0.005)
        return found


def request(colours: Any = ("red",), **options: Any) -> Any:
    images = [base64.b64encode(picture(colour)).decode() for colour in colours]
    return TYPES.decode(json.dumps({"images": images, "labels": LABELS, **options}).encode())


@pytest.fixture
def bench_of(bundle: ClipBundle, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**more: Any) -> Bench:
        made.append(Bench(more.pop("bundle", bundle), tmp_path, **more))
        return made[-1]

    yield make
    for bench in made:
        bench.go.set()
        bench.classifier.close()


def _best(answer: Any) -> list[str | None]:
    return [None if image.best is None else answer.labels[image.best] for image in answer.images]


def test_labels_that_were_seen_cost_no_text_run(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of()
    assert _best(bench.ask(["blue", "red"])) == ["blue", "red"]
    assert len(bench.texts) == 4
    for options in ({}, {"labels": LABELS[::-1]}, {"labels": ["a dog", "red"]}, {"templates": ["a photo of a {}."]}):
        bench.ask(**options)
    assert len(bench.texts) == 4
    bench.ask(labels=[*LABELS, "a new one"])
    assert bench.texts[4:] == ["a photo of a a new one."]
    bench.ask(templates="simple")
    assert len(bench.texts) == 5 + 4 * 7


def test_probabilities_are_the_softmax_over_the_towers_own_cosines(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of()
    (image,) = bench.ask(["red"]).images
    pixels = ImageReader(bench.towers.spec.image, max_bytes=MIB, max_pixels=MIB).read(picture("red"))[None]
    texts = bench.towers.embed_texts([f"a photo of a {label}." for label in LABELS])
    cosines = (bench.towers.embed_images(pixels) @ texts.T)[0][image.order]
    np.testing.assert_allclose(image.similarities, cosines, atol=1e-5)
    powers = np.exp(20.0 * cosines)
    np.testing.assert_allclose(image.probabilities, powers / powers.sum(), rtol=1e-3, atol=1e-7)


def test_a_batch_gives_what_single_images_give(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of()
    colours = [(i * 12 % 256, i * 40 % 256, 200 - i * 9) for i in range(19)]
    together = bench.ask(colours, embeddings=True).images
    for colour, image in zip(colours, together, strict=True):
        alone = bench.ask([colour], embeddings=True).images[0]
        np.testing.assert_allclose(image.embedding, alone.embedding, atol=1e-5)
        assert image.order.tolist() == alone.order.tolist()


def test_a_model_trained_with_a_sigmoid_uses_its_bias_and_no_null_prompt(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    sigmoid = tiny_clip_bundle(tmp_path / "sigmoid", kind="sigmoid", logit_scale=10.0, logit_bias=-5.0)
    bench = bench_of(bundle=sigmoid)
    (image,) = bench.ask(["red"], none_of_these=True).images
    np.testing.assert_allclose(image.probabilities, 1 / (1 + np.exp(5.0 - 10.0 * image.similarities)), rtol=1e-4)
    assert image.none_of_these == pytest.approx(1 - image.probabilities[0], abs=1e-6)
    assert len(bench.texts) == 4
    assert sum(bench.ask(["red"], multi_label=False).images[0].probabilities) == pytest.approx(1, abs=1e-5)


def test_a_restart_and_another_worker_find_what_was_embedded(bench_of: Callable[..., Bench]) -> None:
    first, second = bench_of(), bench_of()
    first.ask()
    first.until(lambda: list(first.classifier.labels.book.store._shards()))
    second.ask()
    assert second.texts == []
    third = bench_of()
    third.ask()
    assert third.texts == []


def test_ten_thousand_labels_in_one_set_are_embedded_behind_and_then_cost_one_product(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(budget_s=1e-4)
    labels = [*COLOURS, *(f"number {i}" for i in range(9_997))]
    made, _ = bench.sets.put("many", tuple(labels), None)
    bench.go.clear()
    bench.classifier.prepare(made)
    with pytest.raises(LabelSetNotReady, match="labels of the set 'many' are still to be embedded"):
        bench.ask(labels=None, label_set="many")
    bench.go.set()
    bench.until(lambda: bench.classifier.labels.embedded(made) == 10_000)
    bench.until(lambda: bench.classifier.labels.book.matrices.size_bytes)
    count = len(bench.texts)
    answer = bench.ask(["green"], labels=None, label_set="many", top_k=5)
    assert (_best(answer), len(answer.images[0].order), len(bench.texts)) == (["green"], 5, count)


def test_one_worker_embeds_a_set_and_the_other_reads_it(bench_of: Callable[..., Bench]) -> None:
    first, second = bench_of(budget_s=1e-4), bench_of(budget_s=1e-4)
    made, _ = first.sets.put("set", tuple(f"number {i}" for i in range(300)), None)
    first.go.clear()
    first.classifier.prepare(made)
    first.until(lambda: first.classifier.labels._locks._held)
    second.classifier.prepare(made)
    with pytest.raises(LabelSetNotReady):
        second.ask(labels=None, label_set="set")
    first.go.set()
    second.until(lambda: second.classifier.labels.embedded(made) == 300)
    assert (second.texts, len(first.texts)) == ([], 300)


def test_sets_that_were_registered_before_are_embedded_at_start(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    made, _ = LabelSets(tmp_path / "sets").put("early", ("cat", "dog"), None)
    LabelSets(tmp_path / "sets").put("damaged", ("cat",), None)
    (tmp_path / "sets" / "damaged.json").write_text("{")
    bench = bench_of()
    bench.until(lambda: bench.classifier.labels.embedded(made) == 2)


def test_images_of_others_are_answered_while_many_labels_are_embedded(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of()
    bench.ask()
    slow = bench.start(labels=[f"number {i}" for i in range(5000)], templates="simple")
    bench.until(lambda: len(bench.texts) > 4)
    answers = [bench.ask(["green"]) for _ in range(5)]
    assert slow == []
    assert [_best(answer) for answer in answers] == [["green"]] * 5
    assert len(bench.until(lambda: slow)[0].labels) == 5000


def test_labels_that_would_take_too_long_are_refused_with_what_to_do(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(budget_s=1e-5)
    with pytest.raises(InvalidRequest, match="register them as a label set"):
        bench.ask(labels=[f"number {i}" for i in range(1000)])
    assert bench.texts == []


def test_labels_of_others_that_go_first_are_an_overload(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(budget_s=20.0)
    each_s = bench.classifier.labels._seconds(1000)
    bench.classifier.labels._budget_s = 1.5 * each_s
    bench.go.clear()
    waiting = bench.start(labels=[f"number {i}" for i in range(1000)])
    bench.until(lambda: bench.classifier.labels._backlog)
    with pytest.raises(Overloaded, match="labels of other requests go first"):
        bench.ask(labels=[f"other {i}" for i in range(1000)])
    bench.go.set()
    assert len(bench.until(lambda: waiting)[0].labels) == 1000
    bench.ask(labels=["a last one"])


def test_a_deadline_or_a_caller_who_left_stops_the_work_and_keeps_what_was_done(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of()
    labels = [f"number {i}" for i in range(2000)]
    left = threading.Event()
    bench.go.clear()
    gone = bench.start(gone=left.is_set, labels=labels)
    bench.until(lambda: bench.classifier.labels._backlog)
    bench.go.set()
    bench.until(lambda: bench.texts)
    left.set()
    assert isinstance(bench.until(lambda: gone)[0], CallerGone)
    done = len(bench.texts)
    assert 0 < done < 2000
    bench.ask(labels=labels)
    assert len(bench.texts) == 2000
    late = bench.start(deadline_s=time.perf_counter() - 1)
    assert isinstance(bench.until(lambda: late)[0], DeadlineExceeded)


def test_unreadable_images_are_told_by_their_place(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of()
    images = [base64.b64encode(content).decode() for content in (picture("red"), b"no image")]
    with pytest.raises(RequestError, match=r"^\$\.images\[1\]: "):
        bench.classifier.classify(TYPES.request(images=images, labels=["a"]))


def test_a_tower_that_gives_no_embedding_is_our_fault(bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of()
    bench.ask()
    monkeypatch.setattr(bench.towers.image, "run", lambda feeds: [np.full((len(feeds["pixels"]), 16), np.nan, np.float32)])
    with pytest.raises(ModelOutputError, match="length is not 1"):
        bench.ask()


def test_the_fingerprint_follows_the_text_tower_and_not_the_image_tower(bundle: ClipBundle) -> None:
    manifest = bundle.manifest
    same = {**manifest.files, "image.onnx": manifest.files["text.onnx"], "report.html": manifest.files["text.onnx"]}
    assert text_fingerprint(manifest.model_copy(update={"files": same})) == text_fingerprint(manifest)
    for name in ("text.onnx", "tokenizer.json", "text.weights"):
        other = {**manifest.files, name: manifest.files["image.onnx"]}
        assert text_fingerprint(manifest.model_copy(update={"files": other})) != text_fingerprint(manifest), name


def test_texts_are_prepared_as_the_specification_says(bundle: ClipBundle) -> None:
    spec = bundle.manifest.clip.text
    path = bundle.path / "tokenizer.json"
    (ids,) = TextEncoder(path, spec).encode(["A Red Ball"]).values()
    assert ids.shape == (1, LENGTH)
    np.testing.assert_array_equal(ids, TextEncoder(path, spec).encode(["a red ball"])["input_ids"])
    long = TextEncoder(path, spec).encode(["x" * 200])["input_ids"]
    assert (long.shape, long[0, 0], long[0, -1]) == ((1, LENGTH), 1, 2), "cut, with its end kept"
    masked = TextEncoder(path, spec.model_copy(update={"uses_attention_mask": True, "padding": "longest"})).encode(["ab", "abcd"])
    assert masked["input_ids"].shape[1] < LENGTH
    assert (masked["attention_mask"] == (masked["input_ids"] != 0)).all()
    with pytest.raises(InvalidRequest, match="tokens, the model reads"):
        TextEncoder(path, spec.model_copy(update={"truncate": False})).encode(["x" * 200])
    assert canonical("  A photo,  of Dr. Who!\n", "siglip") == "a photo of dr who"
    assert (canonical("Ab!", "none"), canonical("Ab!", "lower")) == ("Ab!", "ab!")


def test_a_damaged_tokenizer_is_told(bundle: ClipBundle, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        TextEncoder(tmp_path / "tokenizer.json", bundle.manifest.clip.text)
