"""Mixed precision: which layers stay float32, and that what is promised of the answers holds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optimize.passes.base import CalibrationError, Context, Feeds, PassNotApplicable
from optimize.passes.mixed_precision import MixedPrecision, sensitivities
from optimize.passes.registry import UnknownPass, parse_pass
from tests.graphs import drawn, graph, kinds, run

WIDTH = 16
SIZES = np.exp2(np.arange(WIDTH) - 4.0).astype(np.float32)
"""Of what the layer `uneven` reads: one scale for all of them leaves nothing of the small ones."""


def _model() -> onnx.ModelProto:
    """Three layers one after another, of which only `uneven` is hard to quantize."""
    w = {name: drawn(WIDTH, WIDTH, seed=i) / WIDTH**0.5 for i, name in enumerate("uvw")}
    return graph(
        f"""(float[N,{WIDTH}] x) => (float[N,{WIDTH}] y, int64[N] best) {{
            [even] a = MatMul(x, u) b = Tanh(a) c = Mul(b, sizes) [uneven] d = MatMul(c, v) e = Tanh(d) [last] y = MatMul(e, w)
            best = ArgMax <axis: int = 1, keepdims: int = 0> (y)
        }}""",
        sizes=SIZES,
        **(w | {"v": w["v"] / SIZES[:, None]}),
    )


RUNS: list[Feeds] = [{"x": drawn(32, WIDTH, seed=100 + i)} for i in range(12)]
CONTEXT = Context(calibration=RUNS)
BASES = ("int8_dynamic", "int8_static")


def _error(model: onnx.ModelProto, after: onnx.ModelProto) -> float:
    answers = [(run(model, feeds)[0], run(after, feeds)[0]) for feeds in RUNS]
    return float(np.sqrt(sum(np.square(a - b).sum() for a, b in answers) / sum(np.square(a).sum() for a, _ in answers)))


def _kept(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "MatMul"]


@pytest.mark.parametrize("base", BASES)
def test_the_sensitive_layer_is_found(base: str) -> None:
    found = sensitivities(_model(), CONTEXT, base)  # type: ignore[arg-type]
    assert [one.node for one in found] == ["even", "uneven", "last"]
    errors = [one.error for one in found]
    assert errors[1] > 5 * max(errors[0], errors[2])


@pytest.mark.parametrize("base", BASES)
def test_a_sensitivity_is_the_error_of_the_pass_on_that_layer_alone(base: str) -> None:
    model = _model()
    eight = Context(calibration=RUNS[:8])
    for one in sensitivities(model, eight, base):  # type: ignore[arg-type]
        others = "+".join(name for name in ("even", "uneven", "last") if name != one.node)
        after = parse_pass(f"{base}:keep={others}").apply(model, eight)
        answers = [(run(model, feeds)[0], run(after, feeds)[0]) for feeds in RUNS[:8]]
        change = sum(np.square(a - b).sum() for a, b in answers) / sum(np.square(a).sum() for a, _ in answers)
        assert one.error == pytest.approx(float(np.sqrt(change)), rel=1e-3)


@pytest.mark.parametrize("base", BASES)
def test_only_the_sensitive_layer_stays_float(base: str) -> None:
    model = _model()
    after = MixedPrecision(base=base, max_error=0.05).apply(model, CONTEXT)  # type: ignore[arg-type]
    assert _kept(after) == ["uneven"]
    assert _error(model, after) <= 0.05
    assert _error(model, parse_pass(base).apply(model, CONTEXT)) > 0.05, "which quantizing it too would break"


@pytest.mark.parametrize("max_error", [0.008, 0.015, 0.03, 0.1, 0.5])
def test_the_promise_holds(max_error: float) -> None:
    model = _model()
    after = MixedPrecision(max_error=max_error).apply(model, CONTEXT)
    assert kinds(after)["MatMulInteger"] >= 1
    assert _error(model, after) <= max_error * 1.001, "the trial and the graph that is returned differ in rounding alone"


@pytest.mark.parametrize("base", BASES)
def test_a_wide_limit_gives_the_base(base: str) -> None:
    after = MixedPrecision(base=base, max_error=10.0).apply(_model(), CONTEXT)  # type: ignore[arg-type]
    assert after.SerializeToString(deterministic=True) == parse_pass(base).apply(_model(), CONTEXT).SerializeToString(deterministic=True)


def test_a_limit_that_no_layer_keeps_is_refused() -> None:
    with pytest.raises(PassNotApplicable, match=r"within max_error=1e-05: '(even|last)' alone changes the answers by 0\.00\d"):
        MixedPrecision(max_error=1e-5).apply(_model(), CONTEXT)


def test_answers_that_cannot_be_compared_are_refused() -> None:
    words = graph("(float[N,4] x) => (int64[N] y) { h = MatMul(x, w) y = ArgMax <axis: int = 1, keepdims: int = 0> (h) }", w=drawn(4, 3))
    runs: list[Feeds] = [{"x": drawn(2, 4)}] * 8
    with pytest.raises(PassNotApplicable, match="no float32 output to compare"):
        MixedPrecision().apply(words, Context(calibration=runs))
    broken = graph("(float[N,4] x) => (float[N,3] y) { h = MatMul(x, w) y = Div(h, zero) }", w=drawn(4, 3), zero=np.zeros(1, np.float32))
    with pytest.raises(CalibrationError, match="run 0: the model's answers are not finite"):
        MixedPrecision().apply(broken, Context(calibration=runs))
    with pytest.raises(CalibrationError, match="pass 'mixed_precision' needs calibration data, at least 8 runs, and got 0"):
        MixedPrecision().apply(_model())
    with pytest.raises(UnknownPass, match="max_error=0"):
        parse_pass("mixed_precision:max_error=0")
    with pytest.raises(UnknownPass, match="base='fp16'"):
        parse_pass("mixed_precision:base=fp16")
