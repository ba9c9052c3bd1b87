"""What `benchmarks.optimize` makes fast: a ranker with trained weights, and CLIP's image tower with seeded ones.

Letters: ``N`` candidates, ``B`` pictures, ``V`` values of a list.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from benchmarks.naive_model import Ids, NaiveDcnV2, naive_weights
from optimize.data import clicks
from optimize.data.interactions import Split
from optimize.export.feeds import request_feeds
from optimize.export.inputs import example_of
from optimize.export.module import export_module
from optimize.export.to_onnx import export_ranking
from optimize.features.encode import encode
from optimize.models.dcn_v2 import DcnV2
from optimize.models.registry import DcnV2Settings, build
from optimize.passes.base import Feeds
from optimize.search.budget import Bootstrap
from optimize.search.metrics import METRICS, MetricName
from optimize.search.rankers import DECISIVE_SIZE, SIZES, part_of
from optimize.search.subject import Part
from optimize.training import loop
from optimize.training.metrics import log_losses
from serving.contract.errors import PilotageError
from serving.contract.fields import REQUEST_INDEX, FeatureSpec, load_spec

SEED = 0
SPEC = Path(__file__).parent / "wide_clicks.toml"
CANDIDATES = DECISIVE_SIZE
CALIBRATION_RUNS = 32

TRAINING = loop.TrainingSettings(patience=2, learning_rate=2e-3, embedding_decay=20.0)
"""As in optimize/recipes/clicks/dcn_v2.toml."""

MAX_NE_INCREASE_PCT = 0.1
MIN_COSINE = 0.99

LOOKS = 16
"""Recipes that are judged on the same impressions, at most: the interval holds for all of them at once."""

TOWER_OPSET = 20
"""That of our own exports. The operator for attention that came with 23 was as fast, and stock quantization breaks on it."""

TOWER_HEADS, TOWER_WIDTH, TOWER_LAYERS = 12, 768, 12
"""Of ViT-B, the defaults of transformers' configuration."""

PICTURE = 224
PICTURES = 16
"""Pictures of a part whose embeddings are compared; noise, as the weights are."""

BATCH = 8
"""Pictures of the larger run that a search times beside the single one."""

Product = tuple[int, int, int]
"""Rows, width in and width out of one matrix product."""


Answers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Budget:
    """How far answers may be from those of the reference.

    Attributes
    ----------
    measure
        Answers of the reference and of a graph → figures by name.
    decisive
        The figure that has a bound.
    """

    measure: Callable[[Answers, Answers], dict[str, float]]
    decisive: str
    bound: float
    unit: str
    at_most: bool

    def allows(self, figures: Mapping[str, float]) -> bool:
        """Whether the decisive figure is inside its bound; one that is no number is not."""
        value = figures[self.decisive]
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True)
class Subject:
    """A model to make fast.

    Attributes
    ----------
    family
        ``dcn_v2`` or ``image_tower``: decides on recipes.
    graph
        As exported, float32.
    eager
        One forward pass in PyTorch on the same request.
    feeds
        Of that request.
    products
        Matrix products of one forward pass as PyTorch computes it → how many times.
    validation, test, budget
        The search chooses by the first; arms are compared on the second, and how.
    timing
        Size → feeds of one run, for the search; `decisive_size` is that of `feeds`.
    metric
        Of the search's budget, whose limit is that of `budget`.
    """

    name: str
    family: str
    graph: onnx.ModelProto
    eager: Callable[[], object]
    feeds: Feeds
    calibration: tuple[Feeds, ...]
    products: Mapping[Product, int]
    validation: Part
    test: Part
    budget: Budget
    timing: Mapping[int, Feeds] = field(default_factory=dict)
    decisive_size: int = 1
    metric: MetricName = "cosine"

    @property
    def operations(self) -> float:
        """Multiplications and additions in matrix products of one forward pass."""
        return operations_of(self.products)


def operations_of(products: Mapping[Product, int]) -> float:
    """Multiplications and additions: two for each weight and row."""
    return float(sum(2 * rows * inner * outer * count for (rows, inner, outer), count in products.items()))


def ranker(impressions: int, epochs: int, tell: Callable[[str], None]) -> Subject:
    """A DCN-v2 trained on synthetic clicks; PyTorch's side is the same network as its paper draws it, on ids already hashed.

    Parameters
    ----------
    impressions
        Rows of the data set: 80 % to train on, 10 % to stop training by, 10 % to compare answers on.
    """
    spec = load_spec(SPEC)
    tell("drawing clicks")
    data = clicks.split(clicks.ClickSettings(impressions=impressions, seed=SEED), "random")
    train, validation = encode(spec, data.train.columns), encode(spec, data.validation.columns)
    model = untrained(spec)

    def on_epoch(report: loop.EpochReport) -> None:
        tell(f"training: epoch {report.epoch}, validation AUC {report.validation_auc:.4f}")

    settings = TRAINING.model_copy(update={"epochs": epochs})
    loop.train(model, loop.TrainingData(train, data.train.label, validation, data.validation.label), settings, SEED, on_epoch)
    return ranking_subject(model, data)


def untrained(spec: FeatureSpec) -> DcnV2:
    """The network before training."""
    torch.manual_seed(SEED)
    model = build(DcnV2Settings(), spec)
    if not isinstance(model, DcnV2):
        raise PilotageError(f"the default architecture is {type(model).__name__}, not DcnV2")
    return model.eval()


def ranking_subject(model: DcnV2, data: Split) -> Subject:
    """A request of `CANDIDATES` from the test part, its impressions to compare answers on, requests of the training part to calibrate."""
    spec = model.spec
    naive = NaiveDcnV2(spec, DcnV2Settings())
    naive.load_state_dict(naive_weights(model))
    naive.eval()
    timing = {size: request_feeds(spec, data.test, np.arange(size) % len(data.test)) for size in SIZES}
    feeds = timing[CANDIDATES]
    inputs = _naive_inputs(spec, feeds)
    starts = range(0, min(len(data.train) - CANDIDATES, CALIBRATION_RUNS * CANDIDATES) + 1, CANDIDATES)
    with torch.inference_mode():
        products = products_of(naive, lambda: naive(*inputs))
    return Subject(
        "dcn_v2",
        "dcn_v2",
        export_ranking(model),
        lambda: naive(*inputs),
        feeds,
        tuple(request_feeds(spec, data.train, np.arange(start, start + CANDIDATES)) for start in starts),
        products,
        part_of(spec, data.validation),
        part_of(spec, data.test),
        Budget(partial(ne_figures, data.test.label), "ne_change_high", MAX_NE_INCREASE_PCT, "%", at_most=True),
        timing,
        CANDIDATES,
        "ne",
    )


def image_tower(layers: int = TOWER_LAYERS) -> Subject:
    """The image tower of CLIP ViT-B/32, one picture; with fewer `layers` it is called so, and is another model."""
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(SEED)
    model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(projection_dim=512, num_hidden_layers=layers)).eval()
    pictures = np.random.default_rng(SEED).normal(size=(2 * PICTURES + CALIBRATION_RUNS, 1, 3, PICTURE, PICTURE)).astype(np.float32)
    picture = torch.from_numpy(pictures[0])
    embedding = _Embedding(model)
    with torch.inference_mode():
        products = products_of(model, lambda: model(pixel_values=picture))
    feeds = [{"pixel_values": each} for each in pictures]
    return Subject(
        "image_tower" if layers == TOWER_LAYERS else f"image_tower_{layers}_layers",
        "image_tower",
        export_module(embedding, example_of(embedding, {"pixel_values": picture}), outputs=["image_embeds"], opset=TOWER_OPSET),
        lambda: model(pixel_values=picture),
        feeds[0],
        tuple(feeds[2 * PICTURES :]),
        products,
        Part(tuple(feeds[PICTURES : 2 * PICTURES])),
        Part(tuple(feeds[:PICTURES])),
        Budget(cosine_figures, "cosine_min", MIN_COSINE, "", at_most=False),
        {1: feeds[0], BATCH: {"pixel_values": pictures[:BATCH, 0]}},
    )


def ne_figures(label: Answers, reference: Answers, found: Answers) -> dict[str, float]:
    """Change of normalized entropy in percent, positive is worse: the estimate and the upper end of its interval."""
    if not np.isfinite(found).all():
        return {"ne_change": math.inf, "ne_change_high": math.inf}
    before, after = log_losses(label, reference), log_losses(label, found)
    change = Bootstrap(len(label), looks=LOOKS, seed=SEED).change(METRICS["ne"], before, after)
    return {"ne_change": change.value, "ne_change_high": change.high}


def cosine_figures(reference: Answers, found: Answers) -> dict[str, float]:
    """The least and the mean cosine of embeddings ``(B, D)``."""
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (reference * found).sum(axis=1) / lengths
    return {"cosine_min": float(cosines.min()), "cosine_mean": float(cosines.mean())}


def products_of(module: nn.Module, forward: Callable[[], object]) -> Counter[Product]:
    """Matrix products that linear layers and convolutions over patches compute in one forward pass."""
    found: Counter[Product] = Counter()

    def record(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(layer, nn.Linear):
            found[output.numel() // layer.out_features, layer.in_features, layer.out_features] += 1
        elif isinstance(layer, nn.Conv2d):
            inner = layer.weight[0].numel()
            found[output.numel() // layer.out_channels, inner, layer.out_channels] += 1

    hooks = [layer.register_forward_hook(record) for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found


class _Embedding(nn.Module):
    """The embedding alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return self.model(pixel_values=pixel_values).image_embeds


def _naive_inputs(spec: FeatureSpec, feeds: Feeds) -> tuple[dict[str, Ids], torch.Tensor]:
    """What `NaiveDcnV2` takes for a request: the user's values beside every candidate, lists without their padding."""
    index = feeds[REQUEST_INDEX]
    spread = {field.name: feeds[field.name] if field.part == "candidate" else feeds[field.name][index] for field in spec.fields}
    encoded = encode(spec, spread)
    ids: dict[str, Ids] = {}
    for hashed in spec.hashed:
        rows = encoded.rows[hashed.name].astype(np.int64)
        ids[hashed.name] = _flat(rows) if spec.is_list(hashed) else torch.from_numpy(rows)
    numbers = sorted(spec.numeric, key=spec.is_per_candidate)
    return ids, torch.from_numpy(np.stack([encoded.numbers[number.name] for number in numbers], axis=1))


def _flat(rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices without the padding of ``(N, V)``, and where each row's begin."""
    present = rows != 0
    offsets = np.concatenate([[0], present.sum(axis=1).cumsum()[:-1]])
    return torch.from_numpy(rows[present]), torch.from_numpy(offsets)
