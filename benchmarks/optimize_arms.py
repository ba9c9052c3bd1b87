"""What `benchmarks.optimize` compares: the graph as it is, what others make of it, and recipes of our passes."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.optimize_subjects import TOWER_HEADS, TOWER_WIDTH, Answers, Subject
from optimize.export.files import files_of, save_graph
from optimize.passes.base import Context, Feeds, PassNotApplicable
from optimize.passes.int8_layers import WeightType
from optimize.passes.registry import parse_pass
from serving.contract.errors import PilotageError
from serving.runtime.session import GraphSession

FP32, STOCK, OURS = "ort_fp32", "stock_int8", "ours"
WEIGHTS: tuple[WeightType, ...] = ("int8", "int7", "uint8")
"""The fastest that is accurate depends on the processor."""

RIVAL_RUNS = 8
"""Calibration runs of NNCF: it holds all values between layers of the tower, and takes two minutes with these."""

EXACT = {
    "dcn_v2": ("clean_up",),
    "image_tower": ("conv_to_matmul", "used_position", "fuse_attention", "fuse_gelu", "merge_projections"),
}
"""Passes that change nothing but rounding, in the order that each leaves most to the next."""


RANKS = (8, 32)
"""On the whole data set, 8, 16 and 32 changed NE alike, by less than 0.01 %, and 8 is the fastest: clicks that twelve topics and six ages
explain span few directions. A model that has seen less spans more."""

CROSSES = ("repeat_thin", "fold_crosses")
"""Exact too, on layers that are factored."""

TABLES = "table_bits:scales=column"
ROW_TABLES = "table_bits:block_size=64"
"""One scale a row: all rows here are of 64 numbers at most, and looking up rows of one block is three times as fast as of several."""

KEPT = ("model/*linear_8*", "model/*linear_1*", "model/*linear_5*")
"""Patterns of layers, factored or not. In int8, the output layer and the request's half of the first deep layer made NE worse by 0.13 %
together, all others by nothing that could be measured. In float32 they cost nothing: one column, and one row a request."""


class ArmUnavailable(PilotageError):
    """A rival that is not installed, or that fails on this model; the message says how."""


@dataclass(frozen=True)
class Arm:
    """A graph on disk, loaded.

    Attributes
    ----------
    quality
        Figures of the subject's budget.
    answers
        To the subject's test part.
    """

    session: GraphSession
    size_bytes: int
    quality: Mapping[str, float]
    answers: Answers


def recipes(family: str, *, flags: Container[str], is_whole: bool) -> dict[str, tuple[str, ...]]:
    """Our candidates for a subject: what is exact, for the ranker factored layers and small tables, and int8 with each type of weights.

    Parameters
    ----------
    flags
        Of the processor.
    is_whole
        False for the few that are the fastest on such a processor.
    """
    likely: WeightType = "int8" if "avx512_vnni" in flags or "avx_vnni" in flags else "int7"
    weights = WEIGHTS if is_whole else (likely,)
    exact = EXACT[family]
    if family == "image_tower":
        offered: dict[str, tuple[str, ...]] = {each: (*exact, f"int8_dynamic:weight_type={each}") for each in weights}
        if is_whole:
            offered |= {f"static_{each}": (*exact, f"int8_static:weight_type={each}") for each in weights}
            offered[f"smooth_{likely}"] = (*exact, "smooth_quant", f"int8_dynamic:weight_type={likely}")
            offered[f"smooth_static_{likely}"] = (*exact, "smooth_quant", f"int8_static:weight_type={likely}")
        return offered
    kept = "+".join(KEPT)
    offered = {}
    for rank in RANKS if is_whole else RANKS[-1:]:
        factored = (*exact, f"low_rank:rank={rank}")
        offered[f"rank{rank}"] = (*factored, *CROSSES, TABLES)
        if is_whole:
            offered[f"rank{rank}_row_tables"] = (*factored, *CROSSES, ROW_TABLES)
            offered[f"rank{rank}_plain_crosses"] = (*factored, TABLES)
            offered |= {f"rank{rank}_{each}": (*factored, f"int8_dynamic:keep={kept},weight_type={each}", TABLES) for each in weights}
    if is_whole:
        offered |= {each: (*exact, f"int8_dynamic:keep={kept},weight_type={each}", TABLES) for each in weights}
        offered[f"{likely}_all"] = (*exact, f"int8_dynamic:weight_type={likely}", TABLES)
        offered[f"static_{likely}"] = (*exact, f"int8_static:keep={kept},weight_type={likely}", TABLES)
        offered[f"smooth_{likely}_all"] = (*exact, "smooth_quant", f"int8_dynamic:weight_type={likely}", TABLES)
        offered[f"smooth_static_{likely}_all"] = (*exact, "smooth_quant", f"int8_static:weight_type={likely}", TABLES)
    return offered


class Kitchen:
    """Applies recipes to a subject; the model after each first few passes that recipes share is made once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._made: dict[tuple[str, ...], onnx.ModelProto] = {(): subject.graph}

    def cook(self, recipe: tuple[str, ...]) -> onnx.ModelProto:
        """Apply passes one after the other; one that has nothing to do is left out."""
        if recipe not in self._made:
            graph = self.cook(recipe[:-1])
            with contextlib.suppress(PassNotApplicable):
                graph = parse_pass(recipe[-1]).apply(graph, Context(calibration=self.subject.calibration))
            self._made[recipe] = graph
        return self._made[recipe]


def stock(subject: Subject) -> onnx.ModelProto:
    """ONNX Runtime's dynamic quantization with its own defaults."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save_model(subject.graph, str(source))
        quantize_dynamic(str(source), str(target))
        return onnx.load(str(target))


def nncf(subject: Subject) -> onnx.ModelProto:
    """NNCF's post-training quantization; for the tower with its settings for transformers, that bring SmoothQuant.

    Raises
    ------
    ArmUnavailable
        It is not installed, or fails.
    """
    try:
        library: Any = importlib.import_module("nncf")
    except ImportError as error:
        raise ArmUnavailable(f"not installed: {error}") from error
    kind = library.ModelType.TRANSFORMER if subject.family == "image_tower" else None
    try:
        with quiet():
            runs: list[Feeds] = list(subject.calibration[:RIVAL_RUNS])
            quantized: onnx.ModelProto = library.quantize(
                subject.graph, library.Dataset(runs), model_type=kind, subset_size=len(runs), fast_bias_correction=True
            )
    except Exception as error:  # whatever a rival raises is its result here
        raise ArmUnavailable(f"fails: {type(error).__name__}: {str(error)[:200]}") from error
    return quantized


def olive(subject: Subject) -> onnx.ModelProto:
    """Olive's passes: for the tower its transformer optimization, for both its dynamic quantization, each with its own defaults.

    Raises
    ------
    ArmUnavailable
        It is not installed, or fails.
    """
    try:
        load: Any = importlib.import_module
        handler, passes = load("olive.model").ONNXModelHandler, load("olive.passes.olive_pass")
        quantization = load("olive.passes.onnx.quantization").OnnxDynamicQuantization
        optimization = load("olive.passes.onnx.transformer_optimization").OrtTransformersOptimization
        processor = load("olive.hardware.accelerator").DEFAULT_CPU_ACCELERATOR
    except ImportError as error:
        raise ArmUnavailable(f"not installed: {error}") from error
    steps: list[tuple[Any, dict[str, object]]] = [(quantization, {})]
    if subject.family == "image_tower":
        steps.insert(0, (optimization, {"model_type": "clip", "num_heads": TOWER_HEADS, "hidden_size": TOWER_WIDTH}))
    try:
        # Its shape inference leaves files in the working directory.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quiet():
            source = Path(folder) / "fp32.onnx"
            onnx.save_model(subject.graph, str(source))
            model = handler(str(source))
            for i, (step, config) in enumerate(steps):
                made = passes.create_pass_from_dict(step, config, disable_search=True, accelerator_spec=processor)
                model = made.run(model, str(Path(folder) / f"step{i}"))
            return onnx.load(model.model_path)
    except Exception as error:  # whatever a rival raises is its result here
        raise ArmUnavailable(f"fails: {type(error).__name__}: {str(error)[:200]}") from error


RIVALS: dict[str, Callable[[Subject], onnx.ModelProto]] = {"nncf": nncf, "olive": olive}


def load(subject: Subject, graph: onnx.ModelProto, path: Path, *, threads: int, reference: Arm | None) -> Arm:
    """Write a graph, load it as a service would, and compare its answers with those of `reference`."""
    save_graph(graph, path)
    session = GraphSession(path, threads=threads)
    answers = subject.test.answers(session)
    before = answers if reference is None else reference.answers
    return Arm(session, sum(file.stat().st_size for file in files_of(path)), subject.budget.measure(before, answers), answers)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' remarks and progress bars off stdout and stderr."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
