"""Static int8: ranges by calibration, what is written, and calibration data that does not do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from optimize.passes.activations import MIN_RUNS
from optimize.passes.base import CalibrationError, Context, Feeds, PassNotApplicable
from optimize.passes.ranges import Range, by_entropy, by_percentile, ranges
from optimize.passes.registry import UnknownPass, parse_pass
from tests.graphs import drawn, graph, kinds, run

STEP = parse_pass("int8_static")

CLOSE = 0.03
"""As in test_int8_dynamic: two roundings a layer. Measured here: 0.009 to 0.012."""

TWO_AXES = "(float[N,24] x) => (float[N,16] y) { p = MatMul(x, w) y = Add(p, b) }"
THREE_AXES = "(float[B,N,24] x) => (float[B,N,16] y) { p = MatMul(x, w) y = Add(p, b) }"
LONE = "(float[N,24] x) => (float[N,16] y) { y = MatMul(x, w) }"


def _model(text: str = TWO_AXES, **more: np.ndarray) -> onnx.ModelProto:
    constants = {"w": drawn(24, 16, seed=1), "b": drawn(16, seed=2)} | more
    return graph(text, **{name: value for name, value in constants.items() if name in text})


def _runs(*shape: int, count: int = 16) -> list[Feeds]:
    return [{"x": drawn(*shape, seed=100 + i)} for i in range(count)]


def _error(after: onnx.ModelProto, before: onnx.ModelProto, x: np.ndarray) -> float:
    expected, found = run(before, {"x": x})[0], run(after, {"x": x})[0]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("options", ["", ":per_channel=false", ":symmetric=true", ":method=percentile", ":weight_type=int7"])
@pytest.mark.parametrize(("text", "shape"), [(TWO_AXES, (8, 24)), (LONE, (8, 24)), (THREE_AXES, (2, 8, 24))])
def test_a_layer_keeps_its_answers(options: str, text: str, shape: Sequence[int]) -> None:
    model = _model(text)
    after = parse_pass(f"int8_static{options}").apply(model, Context(calibration=_runs(*shape)))
    # One scale for all channels and a range around 0 cost some of the 8 bits.
    assert _error(after, model, drawn(*shape)) < 2 * CLOSE
    assert kinds(after)["QuantizeLinear"] == 1


def test_two_axes_become_a_gemm_with_its_bias_in_32_bits() -> None:
    after = STEP.apply(_model(), Context(calibration=_runs(8, 24)))
    assert kinds(after) == {"QuantizeLinear": 1, "DequantizeLinear": 3, "Gemm": 1}
    assert {t.data_type for t in after.graph.initializer} >= {onnx.TensorProto.INT32, onnx.TensorProto.UINT8}


def test_a_bias_too_large_for_32_bits_stays_float() -> None:
    model = _model(w=drawn(24, 16) * 1e-9, b=drawn(16) * 1e3)
    after = STEP.apply(model, Context(calibration=_runs(8, 24)))
    assert kinds(after)["Add"] == 1
    assert _error(after, model, drawn(8, 24)) < 1e-6


def test_an_answer_does_not_depend_on_the_other_rows() -> None:
    model, x = _model(), drawn(8, 24)
    wide = np.concatenate([x, 1000 * x])
    static = STEP.apply(model, Context(calibration=_runs(8, 24)))
    np.testing.assert_array_equal(run(static, {"x": wide})[0][:8], run(static, {"x": x})[0])
    dynamic = parse_pass("int8_dynamic").apply(model)
    assert np.abs(run(dynamic, {"x": wide})[0][:8] - run(dynamic, {"x": x})[0]).max() > 0.1, "which dynamic int8 does"


def test_a_value_that_was_always_zero_stays_zero() -> None:
    after = STEP.apply(_model(LONE), Context(calibration=[{"x": np.zeros((4, 24), np.float32)}] * MIN_RUNS))
    assert (run(after, {"x": np.zeros((4, 24), np.float32)})[0] == 0).all()


def test_what_is_shared_is_quantized_once() -> None:
    model = graph("(float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = MatMul(x, w) c = Add(a, b) y = MatMul(c, w) }", w=drawn(8, 8))
    after = STEP.apply(model, Context(calibration=_runs(4, 8)))
    assert kinds(after)["QuantizeLinear"] == 2
    assert [t.name for t in after.graph.initializer if len(t.dims) == 2] == ["w_quantized"]


def test_a_layer_behind_a_layer_reads_what_is_left_of_it() -> None:
    model = graph("(float[N,8] x) => (float[N,8] y, float[N,8] a) { a = MatMul(x, v) y = MatMul(a, w) }", v=drawn(8, 8), w=drawn(8, 8))
    after = STEP.apply(model, Context(calibration=_runs(4, 8)))
    assert kinds(after) == {"QuantizeLinear": 2, "DequantizeLinear": 4, "Gemm": 2}, "no float product is left"


def test_symmetric_activations_are_signed_around_zero() -> None:
    after = parse_pass("int8_static:symmetric=true").apply(_model(), Context(calibration=_runs(8, 24)))
    (zero,) = (t for t in after.graph.initializer if t.name == "x_zero_point")
    assert (zero.data_type, onnx.numpy_helper.to_array(zero)) == (onnx.TensorProto.INT8, 0)


def test_minmax_is_all_that_was_seen() -> None:
    runs = _runs(8, 24)
    seen = np.concatenate([feeds["x"] for feeds in runs])
    assert ranges(_model(), ["x"], runs, "minmax") == {"x": Range(float(seen.min()), float(seen.max()))}
    positive = [{"x": np.abs(feeds["x"]) + 1} for feeds in runs]
    assert ranges(_model(), ["x"], positive, "minmax")["x"].low == 0.0, "0 has to have a value of its own"


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_a_rare_extreme_is_clipped(method: str) -> None:
    runs = [{"x": drawn(200, 24, seed=seed)} for seed in range(MIN_RUNS)]
    runs[3]["x"][5, 5] = 1000.0
    found = ranges(_model(), ["x"], runs, method)["x"]  # type: ignore[arg-type]
    assert 3 < found.high < 100
    assert found.low < -3


def test_an_even_distribution_is_kept_whole() -> None:
    counts, full = np.full(2048, 100), Range(-2.0, 2.0)
    assert by_entropy(counts, full) == full
    assert by_percentile(counts, full).high == pytest.approx(2.0, rel=1e-3)


def test_a_value_of_one_sign_keeps_its_side() -> None:
    counts = np.zeros(2048, np.int64)
    counts[:200] = np.arange(200, 0, -1) ** 2
    found = by_entropy(counts, Range(0.0, 1.0))
    assert found.low == 0.0
    assert 0.05 < found.high < 0.2


def test_calibration_that_does_not_do_is_told() -> None:
    model, good = _model(), _runs(8, 24)

    def refused(runs: Sequence[Feeds], message: str) -> None:
        with pytest.raises(CalibrationError, match=message):
            STEP.apply(model, Context(calibration=runs))

    refused([], r"pass 'int8_static' needs calibration data, at least 8 runs, and got 0")
    refused(good[:7], r"at least 8 runs, and got 7")
    refused([*good, {"z": good[0]["x"]}], r"run 16 and the model's inputs differ in 'x', 'z'; the model takes x")
    refused([*good, {}], r"differ in 'x'")
    refused([{"x": drawn(8, 23)}, *good], r"run 0: input 'x' has size 24 on axis 1, not 23")
    refused([{"x": drawn(24)}, *good], r"input 'x' has 2 axes, not 1")
    refused([{"x": np.zeros((8, 24))}, *good], r"input 'x' takes float32, not float64")
    refused([{"x": np.array([["a"] * 24], object)}, *good], r"takes float32, not strings")
    refused([*good, {"x": np.full((8, 24), np.nan, np.float32)}], r"run 16: the value 'x' has elements that are not finite")


def test_a_model_that_does_not_run_on_calibration_data_is_told() -> None:
    model = graph("(int64[N] ids) => (float[N,3] y) { rows = Gather(table, ids) y = MatMul(rows, w) }", table=drawn(5, 4), w=drawn(4, 3))
    with pytest.raises(CalibrationError, match=r"does not run on calibration run 2: .*out of data bounds"):
        STEP.apply(model, Context(calibration=[{"ids": np.array([i * 2])} for i in range(MIN_RUNS)][1:] * 2))
    after = STEP.apply(model, Context(calibration=[{"ids": np.array([i % 5])} for i in range(MIN_RUNS)]))
    assert [t.name for t in after.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2] == ["table"]


def test_a_model_with_nothing_to_quantize_is_refused_before_it_runs() -> None:
    with pytest.raises(PassNotApplicable, match="the model has no matrix product"):
        STEP.apply(graph("(float[N] x) => (float[N] y) { y = Relu(x) }"), Context())
    with pytest.raises(PassNotApplicable, match="the model has no DequantizeLinear by channel: its opset is 12, at least 13"):
        STEP.apply(graph(LONE, opset=12, w=drawn(24, 16)), Context())
    with pytest.raises(UnknownPass, match="method='kl'"):
        parse_pass("int8_static:method=kl")


def test_a_model_too_large_for_one_message_is_calibrated_from_files(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = STEP.apply(_model(), Context(calibration=_runs(8, 24))).SerializeToString(deterministic=True)
    monkeypatch.setattr("optimize.passes.activations.SERIALIZED_BYTES", 1)
    assert STEP.apply(_model(), Context(calibration=_runs(8, 24))).SerializeToString(deterministic=True) == expected
