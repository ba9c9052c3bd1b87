"""Layers as two thin ones: where that saves, and what it keeps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optimize.passes.base import Context, OptionError, PassNotApplicable
from optimize.passes.low_rank import LowRank, principal_outputs
from tests.graphs import drawn, graph, kinds, run, same_answers

SIGNATURE = "(float[B, 20] x) => (float[B, M] y)"
FEEDS = {"x": drawn(6, 20)}
FLAT = drawn(20, 3, seed=1) @ drawn(3, 30, seed=2)
CONSTANTS = {"w": FLAT, "t": np.ascontiguousarray(FLAT.T), "b": drawn(30, seed=3)}


@pytest.mark.parametrize("context", [Context(), Context(calibration=({"x": drawn(200, 20, seed=5)},))], ids=["weights", "activations"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = MatMul(x, w)", {"MatMul": 2}),
        ("m = MatMul(x, w) y = Add(m, b)", {"MatMul": 2, "Add": 1}),
        ("y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, t, b)", {"Gemm": 2}),
    ],
)
def test_a_layer_of_that_rank_answers_as_before(body: str, expected: dict[str, int], context: Context) -> None:
    after = LowRank(rank=3).apply(graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS), context)
    found = kinds(after)
    if context.calibration:  # means, zero here but for rounding, go into a bias
        found.pop("Add", None)
        expected = {kind: count for kind, count in expected.items() if kind != "Add"}
    assert found == expected
    np.testing.assert_allclose(run(after, FEEDS)[0], run(graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS), FEEDS)[0], rtol=1e-4, atol=1e-4)


def test_more_axes_than_two_stay() -> None:
    model = graph("(float[B, 5, 20] x) => (float[B, 5, 30] y) { y = MatMul(x, w) }", **CONSTANTS)
    assert same_answers(LowRank(rank=3), model, {"x": drawn(2, 5, 20)}, atol=1e-4) == {"MatMul": 2}


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_what_is_lost_is_what_the_singular_values_say(shape: tuple[int, int]) -> None:
    weight = drawn(*shape).astype(np.float64)
    components, error = principal_outputs(weight, None, 4)
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    np.testing.assert_allclose(weight @ components @ components.T, (left[:, :4] * values[:4]) @ right[:4], atol=1e-9)
    assert error == pytest.approx((values[4:] ** 2).sum() / (values**2).sum())


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_activations_choose_better_than_weights(shape: tuple[int, int]) -> None:
    weight, spread = drawn(*shape).astype(np.float64), np.linspace(0.05, 2, shape[0])
    x = drawn(4000, shape[0], seed=4) * spread
    covariance = np.cov(x.T, bias=True)
    errors = []
    for given in (None, covariance):
        components, said = principal_outputs(weight, given, 5)
        lost = (x - x.mean(axis=0)) @ (weight - weight @ components @ components.T)
        errors.append((lost**2).sum() / (((x - x.mean(axis=0)) @ weight) ** 2).sum())
    assert errors[1] < errors[0]
    assert errors[1] == pytest.approx(said, rel=1e-6)


def test_means_of_activations_go_into_the_bias() -> None:
    model = graph(f"{SIGNATURE} {{ y = MatMul(x, w) }}", w=drawn(20, 30))
    seen = drawn(500, 20, seed=4) + 3
    after = LowRank(rank=4, max_error=1).apply(model, Context(calibration=({"x": seen},)))
    np.testing.assert_allclose(run(after, {"x": seen})[0].mean(axis=0), run(model, {"x": seen})[0].mean(axis=0), atol=1e-3)


def _refused(step: LowRank, model: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(PassNotApplicable, match=reason):
        step.apply(model)


def test_layers_that_do_not_become_cheaper_or_lose_too_much_stay() -> None:
    full = graph(f"{SIGNATURE} {{ y = MatMul(x, w) }}", w=drawn(20, 30))
    _refused(LowRank(rank=12), full, "makes cheaper")  # 12 * 50 is as many as 20 * 30
    _refused(LowRank(rank=11, max_error=0.01), full, "the least that one would lose")
    assert kinds(LowRank(rank=11, max_error=1).apply(full)) == {"MatMul": 2}
    _refused(LowRank(rank=3), graph(f"{SIGNATURE} {{ r = Relu(w) y = MatMul(x, r) }}", **CONSTANTS), "the model has no linear layer")


@pytest.mark.parametrize("options", [{"rank": 0}, {"max_error": 1.5}, {"max_error": float("nan")}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        LowRank(**options)  # type: ignore[arg-type]
