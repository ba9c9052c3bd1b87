"""Cross layers rewritten, and thin values repeated: the same answers, fewer sweeps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optimize.passes.base import PassNotApplicable
from optimize.passes.fold_crosses import FoldCrosses
from optimize.passes.repeat_thin import RepeatThin
from tests.graphs import drawn, graph, kinds, same_answers

D, R, N = 12, 3, 5
FEEDS = {"x": drawn(N, D)}

FACTORED = "h{i} = Gemm(x{l}, V{i}, c{i}) g{i} = Gemm(h{i}, U{i}, b{i}) m{i} = Mul(x, g{i}) x{i} = Add(m{i}, x{l})"
WHOLE = "g{i} = Gemm(x{l}, W{i}, b{i}) m{i} = Mul(g{i}, x) x{i} = Add(x{l}, m{i})"


def _constants(layers: int) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {"deep": drawn(D, 4, seed=90), "shift": drawn(1, seed=91), "out": drawn(D + 4, 1, seed=92)}
    made |= {"only": drawn(D, 1, seed=93), "two": drawn(D, 2, seed=94)}
    for i in range(1, layers + 1):
        shapes = {"V": (D, R), "c": (R,), "U": (R, D), "b": (D,), "W": (D, D)}
        made |= {f"{name}{i}": 0.3 * drawn(*shape, seed=10 * i + k) for k, (name, shape) in enumerate(shapes.items())}
    return made


def _crosses(*layers: str, end: str) -> onnx.ModelProto:
    body = " ".join(text.format(i=i, l=i - 1) for i, text in enumerate(layers, 1)).replace("x0", "x")
    names = body + end
    constants = {
        name: value
        for name, value in _constants(len(layers)).items()
        if name in names.replace("(", " ").replace(",", " ").replace(")", " ").split()
    }
    return graph(f"(float[N, {D}] x) => (float[N, M] y) {{ {body} {end} }}", **constants)


DEEP = "d = MatMul(x, deep) r = Relu(d) joined = Concat <axis = 1> (x{n}, r) y = Gemm(joined, out, shift)"


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_the_last_factored_layer_goes_into_the_output_and_sums_into_products(layers: int) -> None:
    model = _crosses(*[FACTORED] * layers, end=DEEP.format(n=layers))
    after = same_answers(FoldCrosses(), model, FEEDS, atol=1e-5)
    assert after["Add"] == 1, "what the last layer brings the output"
    assert after["Mul"] == layers, "one a layer, the last one of thin values"
    assert after["Concat"] == 0


def test_an_output_of_the_crosses_alone_needs_no_other_product() -> None:
    after = same_answers(FoldCrosses(), _crosses(FACTORED, FACTORED, end="y = Gemm(x2, only, shift)"), FEEDS, atol=1e-5)
    assert after == {"Gemm": 4, "Mul": 2, "ReduceSum": 1, "Add": 1}


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("y = Gemm(x2, two)", "two columns"),
        ("y = Identity(x2)", "no product"),
        ("z = Relu(x2) y = Add(x2, z)", "two readers"),
        ("r = Relu(x) joined = Concat <axis = 0> (x2, r) y = MatMul(joined, only)", "joined by rows"),
    ],
)
def test_a_last_layer_that_is_read_otherwise_is_computed(end: str, why: str) -> None:
    after = same_answers(FoldCrosses(), _crosses(FACTORED, FACTORED, end=end), FEEDS, atol=1e-5)
    assert after["ReduceSum"] == 0, why
    assert after["Mul"] == 2


def test_whole_layers_save_the_first_sum_alone() -> None:
    model = _crosses(WHOLE, WHOLE, WHOLE, end="y = Gemm(x3, only, shift)")
    assert same_answers(FoldCrosses(), model, FEEDS, atol=1e-5)["Add"] == kinds(model)["Add"] - 1


def test_a_first_layer_in_two_halves_takes_the_one_into_one_of_them() -> None:
    text = "g = Gemm(x, W1, b1) k = Gemm(x, W2, b2) s = Add(g, k) m = Mul(x, s) y = Add(m, x)"
    constants = {name: value for name, value in _constants(2).items() if name in text and len(name) == 2}
    after = same_answers(FoldCrosses(), graph(f"(float[N, {D}] x) => (float[N, {D}] y) {{ {text} }}", **constants), FEEDS, atol=1e-5)
    assert after == {"Gemm": 2, "Add": 1, "Mul": 1}


@pytest.mark.parametrize(
    "text",
    [
        "g = Gemm(x, W1, b1) m = Mul(x, g) y = Add(m, g)",
        "g = Gemm(x, W1, b1) m = Mul(x, g) z = Add(m, x) y = Add(z, m)",
        "g = Relu(x) m = Mul(x, g) y = Add(m, x)",
        "g = Gemm(x, W1, b1) m = Mul(x, g) z = Add(m, x) y = Add(z, g)",
    ],
)
def test_what_is_no_cross_layer_is_left(text: str) -> None:
    constants = {name: value for name, value in _constants(1).items() if name in text}
    with pytest.raises(PassNotApplicable, match="no cross layer"):
        FoldCrosses().apply(graph(f"(float[N, {D}] x) => (float[N, {D}] y) {{ {text} }}", **constants))


HALVES = "w = Gemm(b, P, q) k = Gather <axis = 0> (w, of) g = Gemm(a, W, v) y = Add({order})"
REQUESTS = {"a": drawn(N, D), "b": drawn(2, R), "of": np.array([0, 1, 1, 0, 1])}
INPUTS = f"(float[N, {D}] a, float[B, {R}] b, int64[N] of) => (float[N, {D}] y)"
WEIGHTS = {"P": drawn(R, D), "q": drawn(D, seed=1), "W": drawn(D, D, seed=2), "v": drawn(D, seed=3)}


@pytest.mark.parametrize("order", ["g, k", "k, g"])
def test_thin_values_are_repeated_instead_of_wide_ones(order: str) -> None:
    model = graph(f"{INPUTS} {{ {HALVES.format(order=order)} }}", **WEIGHTS)
    assert same_answers(RepeatThin(), model, REQUESTS, atol=1e-5) == {"Gather": 1, "Concat": 1, "Gemm": 1}


def test_layers_without_bias_and_by_two_operators_are_joined_too() -> None:
    text = "w = MatMul(b, P) k = Gather <axis = 0> (w, of) g = MatMul(a, W) y = Add(g, k)"
    model = graph(f"{INPUTS} {{ {text} }}", P=WEIGHTS["P"], W=WEIGHTS["W"])
    assert same_answers(RepeatThin(), model, REQUESTS, atol=1e-5) == {"Gather": 1, "Concat": 1, "MatMul": 1}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("Gather <axis = 0> (w, of)", "Gather <axis = 1> (w, of)"), "columns are picked"),
        (("y = Add(g, k)", "z = Add(g, k) y = Add(z, k)"), "what is repeated is read twice"),
        (("y = Add(g, k)", "y = Mul(g, k)"), "no sum"),
        (("g = Gemm(a, W, v)", "e = Gemm(a, W, v) g = Relu(e)"), "the other side is no layer"),
    ],
)
def test_what_is_no_sum_of_two_layers_is_left(change: tuple[str, str], why: str) -> None:
    model = graph(f"{INPUTS} {{ {HALVES.format(order='g, k').replace(*change)} }}", **WEIGHTS)
    with pytest.raises(PassNotApplicable, match="low_rank makes such layers"):
        RepeatThin().apply(model)


def test_a_request_s_layer_that_is_not_thin_is_left() -> None:
    wide = {**WEIGHTS, "P": drawn(D, D)}
    model = graph(f"{INPUTS.replace(f'B, {R}', f'B, {D}')} {{ {HALVES.format(order='g, k')} }}", **wide)
    with pytest.raises(PassNotApplicable):
        RepeatThin().apply(model)
