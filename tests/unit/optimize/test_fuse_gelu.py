"""Activations that are spelled out, and what only looks like one."""

from __future__ import annotations

import pytest

from optimize.passes.base import PassNotApplicable
from optimize.passes.fuse_gelu import FuseGelu
from tests.grafts import scalars
from tests.graphs import drawn, graph, same_answers

SIGNATURE = "(float[B, 8] x) => (float[B, 8] y)"
CONSTANTS = scalars(root2=2**0.5, inverse_root2=0.5**0.5, one=1.0, half=0.5, c=0.044715, p=0.7978845608, three=3.0, alpha=1.702)
ERF = [
    "{ a = Div(x, root2) b = Erf(a) c1 = Add(b, one) d = Mul(x, c1) y = Mul(d, half) }",
    "{ a = Mul(inverse_root2, x) b = Erf(a) c1 = Add(one, b) d = Mul(half, c1) y = Mul(d, x) }",
    "{ a = Div(x, root2) b = Erf(a) c1 = Add(b, one) h = Mul(x, half) y = Mul(h, c1) }",
]
TANH = [
    "{ a = Pow(x, three) b = Mul(c, a) d = Add(x, b) e = Mul(p, d) f = Tanh(e) g = Add(f, one) h = Mul(g, half) y = Mul(x, h) }",
    "{ s = Mul(x, x) a = Mul(s, x) b = Mul(a, c) d = Add(b, x) e = Mul(d, p) f = Tanh(e) g = Add(one, f) h = Mul(x, g) y = Mul(half, h) }",
]
QUICK = ["{ a = Mul(x, alpha) b = Sigmoid(a) y = Mul(x, b) }", "{ b = Sigmoid(x) y = Mul(b, x) }"]


@pytest.mark.parametrize(
    ("body", "kind"), [*((body, "Gelu") for body in ERF), *((body, "FastGelu") for body in TANH), *((body, "QuickGelu") for body in QUICK)]
)
def test_every_spelling_becomes_one_operator(body: str, kind: str) -> None:
    assert same_answers(FuseGelu(), graph(SIGNATURE + body, **CONSTANTS), {"x": drawn(3, 8)}) == {kind: 1}


@pytest.mark.parametrize(
    "body",
    [
        "{ a = Div(x, root2) b = Erf(a) c1 = Add(b, one) y = Mul(x, c1) }",  # not halved
        "{ a = Div(x, root2) b = Erf(a) c1 = Add(b, half) d = Mul(x, c1) y = Mul(d, half) }",  # another addend
        "{ a = Div(x, half) b = Erf(a) c1 = Add(b, one) d = Mul(x, c1) y = Mul(d, half) }",  # another divisor
        "{ z = Relu(x) a = Div(x, root2) b = Erf(a) c1 = Add(b, one) d = Mul(z, c1) y = Mul(d, half) }",  # of something else
        "{ a = Div(x, root2) b = Erf(a) c1 = Add(b, one) d = Mul(x, c1) e = Mul(d, half) y = Add(e, c1) }",  # the sum is read again
        "{ a = Pow(x, three) b = Mul(half, a) d = Add(x, b) e = Mul(p, d) f = Tanh(e) g = Add(f, one) h = Mul(g, half) y = Mul(x, h) }",
        "{ s = Relu(x) b = Sigmoid(x) y = Mul(s, b) }",
        "{ a = Mul(x, alpha) b = Sigmoid(a) c1 = Mul(x, b) y = Add(c1, b) }",
    ],
)
def test_near_misses_are_left_alone(body: str) -> None:
    with pytest.raises(PassNotApplicable, match="no GELU"):
        FuseGelu().apply(graph(SIGNATURE + body, **CONSTANTS))


def test_half_precision_is_left_alone_which_the_cpu_has_no_operator_for() -> None:
    half = {name: value.astype("float16") for name, value in CONSTANTS.items()}
    with pytest.raises(PassNotApplicable, match="no GELU"):
        FuseGelu().apply(graph("(float16[B, 8] x) => (float16[B, 8] y)" + ERF[0], **half))
