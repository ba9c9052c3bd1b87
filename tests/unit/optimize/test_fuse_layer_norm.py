"""Normalizations that are spelled out, and sums before them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optimize.passes.base import PassNotApplicable
from optimize.passes.fuse_layer_norm import FuseLayerNorm
from tests.grafts import scalars
from tests.graphs import drawn, graph, kinds, same_answers

SIGNATURE = "(float[B, S, 8] x, float[B, S, 8] z) => (float[B, S, 8] y)"
CONSTANTS = {"w": drawn(8, seed=1), "b": drawn(8, seed=2), "last": np.array([-1]), "first": np.array([1])} | scalars(two=2.0, e=1e-5)
FEEDS = {"x": drawn(2, 3, 8), "z": drawn(2, 3, 8, seed=3)}
NORM = "m = ReduceMean(x, last) d = Sub(x, m) s = Pow(d, two) v = ReduceMean(s, last) ve = Add(v, e) r = Sqrt(ve) n = Div(d, r)"


def _model(body: str, opset: int = 20) -> onnx.ModelProto:
    return graph(f"{SIGNATURE} {{ {body} }}", opset, **CONSTANTS)


@pytest.mark.parametrize(
    "body",
    [
        f"{NORM} nw = Mul(n, w) y = Add(nw, b)",
        f"{NORM} y = Mul(w, n)",
        "m = ReduceMean(x, last) d = Sub(x, m) s = Mul(d, d) v = ReduceMean(s, last) ve = Add(e, v) r = Sqrt(ve) i = Reciprocal(r) "
        "n = Mul(d, i) nw = Mul(n, w) y = Add(b, nw)",
    ],
)
def test_every_spelling_becomes_one_operator(body: str) -> None:
    assert same_answers(FuseLayerNorm(), _model(body), FEEDS) == {"LayerNormalization": 1}


@pytest.mark.parametrize(("opset", "kind"), [(20, "SimplifiedLayerNormalization"), (23, "RMSNormalization")])
def test_without_a_mean_it_is_the_root_mean_square(opset: int, kind: str) -> None:
    body = "s = Mul(x, x) v = ReduceMean(s, last) ve = Add(v, e) r = Sqrt(ve) n = Div(x, r) y = Mul(n, w)"
    assert same_answers(FuseLayerNorm(), _model(body, opset), FEEDS) == {kind: 1}


def test_less_the_mean_of_something_else_it_is_the_root_mean_square_of_the_difference() -> None:
    body = NORM.replace("Sub(x, m)", "Sub(z, m)") + " y = Mul(n, w)"
    assert same_answers(FuseLayerNorm(), _model(body), FEEDS) == {"ReduceMean": 1, "Sub": 1, "SimplifiedLayerNormalization": 1}


def test_the_sum_and_the_bias_before_it_go_in() -> None:
    body = "p = Relu(z) pb = Add(p, b) t = Add(x, pb) y = LayerNormalization(t, w, b)"
    assert same_answers(FuseLayerNorm(residual=True), _model(body), FEEDS) == {"Relu": 1, "SkipLayerNormalization": 1}
    with pytest.raises(PassNotApplicable, match="the model has no"):
        FuseLayerNorm().apply(_model(body))


def test_a_sum_that_others_read_is_handed_on() -> None:
    body = "t = Add(x, z) n = LayerNormalization(t, w) y = Add(t, n)"
    assert same_answers(FuseLayerNorm(residual=True), _model(body), FEEDS) == {"Add": 1, "SkipLayerNormalization": 1}


def test_a_biased_branch_that_others_read_keeps_its_bias() -> None:
    body = "pb = Add(z, b) t = Add(x, pb) n = LayerNormalization(t, w) y = Add(pb, n)"
    assert same_answers(FuseLayerNorm(residual=True), _model(body), FEEDS) == {"Add": 2, "SkipLayerNormalization": 1}


@pytest.mark.parametrize(
    "body",
    [
        NORM.replace("last", "first") + " y = Mul(n, w)",  # over another axis
        f"{NORM} y = Mul(n, z)",  # a scale that is no constant
        NORM.replace("Div(d, r)", "Div(x, r)") + " y = Mul(n, w)",  # another numerator
        "one = ReduceMean(z, first) t = Add(x, one) y = LayerNormalization(t, w)",  # a sum that broadcasts
        "t = Add(x, z) y = LayerNormalization <axis = 1> (t, z)",  # over more than the last axis
    ],
)
def test_near_misses_are_left_alone(body: str) -> None:
    with pytest.raises(PassNotApplicable, match="the model has no"):
        FuseLayerNorm(residual=True).apply(_model(body))


def test_an_opset_without_the_operator_is_left_alone() -> None:
    text = f"{SIGNATURE} {{ {NORM.replace('(x, last)', ' <axes = [-1]> (x)').replace('(s, last)', ' <axes = [-1]> (s)')} y = Mul(n, w) }}"
    with pytest.raises(PassNotApplicable, match="the model has no"):
        FuseLayerNorm().apply(graph(text, 13, **CONSTANTS))
    assert kinds(FuseLayerNorm().apply(graph(text, 17, **CONSTANTS))) == {"LayerNormalization": 1}
