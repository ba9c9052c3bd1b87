"""Attention heads: which may go, which do, and where all stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optimize.passes.base import Context, PassNotApplicable
from optimize.passes.prune_heads import PruneHeads
from tests.graphs import drawn, graph, kinds, run

WIDTH, HEADS, POSITIONS = 12, 4, 5
SIZE = WIDTH // HEADS
SIGNATURE = f"(float[B, {POSITIONS}, {WIDTH}] x) => (float[B, {POSITIONS}, 7] y)"
FEEDS = {"x": drawn(2, POSITIONS, WIDTH)}
CALIBRATION = Context(calibration=tuple({"x": drawn(4, POSITIONS, WIDTH, seed=s)} for s in range(4)))
PROJECT = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
BIASED = "mq = MatMul(x, wq) q = Add(mq, bq) k = MatMul(x, wk) mv = MatMul(x, wv) v = Add(bv, mv)"
OUT = "m = MatMul(a, wo) y = Add(m, bo)"
MS = "a = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v)"
STANDARD = "a = Attention <q_num_heads = 4, kv_num_heads = 4>"
PACKED = "a = com.microsoft.Attention <num_heads = 4> (x, packed, bias)"
SPELLED = """rq = Reshape(q, parts) hq = Transpose <perm = [0, 2, 1, 3]> (rq) rk = Reshape(k, parts) hk = Transpose <perm = [0, 2, 3, 1]> (rk)
    rv = Reshape(v, parts) hv = Transpose <perm = [0, 2, 1, 3]> (rv) s = MatMul(hq, hk) w = Softmax <axis = -1> (s) o = MatMul(w, hv)
    t = Transpose <perm = [0, 2, 1, 3]> (o) a = Reshape(t, whole)"""
GRAPHS = {
    "contrib": f"{PROJECT} {MS} {OUT}",
    "contrib_bias": f"{PROJECT} {MS.replace('v)', 'v, bias)')} {OUT}",
    "own_biases": f"{BIASED} {MS} {OUT}",
    "mask_of_all": f"{PROJECT} {MS.replace('v)', 'v, , , mask)')} {OUT}",
    "mask_a_head": f"{PROJECT} {MS.replace('v)', 'v, , , head_mask)')} {OUT}",
    "standard": f"{PROJECT} {STANDARD} (q, k, v) {OUT}",
    "standard_mask": f"{PROJECT} {STANDARD} (q, k, v, head_mask) {OUT}",
    "packed": f"{PACKED} {OUT}",
    "spelled_out": f"{PROJECT} {SPELLED} {OUT}",
}


def _constants(dead: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Weights in which these heads always give nothing."""
    gone = np.isin(np.arange(WIDTH) // SIZE, dead)
    made = {f"w{each}": drawn(WIDTH, WIDTH, seed=i) for i, each in enumerate("qkv")} | {
        "wo": drawn(WIDTH, 7, seed=3),
        "bo": drawn(7, seed=4),
    }
    made |= {"bq": drawn(WIDTH, seed=5), "bv": drawn(WIDTH, seed=6), "bias": drawn(3 * WIDTH, seed=7)}
    made["wv"][:, gone], made["wo"][gone] = 0, 0
    made["packed"] = np.concatenate([made["wq"], made["wk"], made["wv"]], axis=1)
    made |= {"mask": drawn(1, 1, POSITIONS, POSITIONS), "head_mask": drawn(1, HEADS, POSITIONS, POSITIONS, seed=9)}
    return made | {"parts": np.array([0, 0, HEADS, SIZE]), "whole": np.array([0, 0, WIDTH])}


@pytest.mark.parametrize("context", [Context(), CALIBRATION], ids=["weights", "activations"])
@pytest.mark.parametrize("body", GRAPHS.values(), ids=GRAPHS)
def test_heads_that_give_nothing_go_without_a_trace(body: str, context: Context) -> None:
    model = graph(f"{SIGNATURE} {{ {body} }}", 23, **_constants(dead=(1, 3)))
    after = PruneHeads(share=0.5).apply(model, context)
    (node,) = (each for each in after.graph.node if each.op_type in ("MultiHeadAttention", "Attention"))
    assert {a.i for a in node.attribute if "num_heads" in a.name} == {HEADS // 2}
    shapes = [tuple(t.dims) for t in after.graph.initializer if len(t.dims) == 2]
    assert (WIDTH // 2, 7) in shapes
    assert (WIDTH, WIDTH) not in shapes
    np.testing.assert_allclose(run(after, FEEDS)[0], run(model, FEEDS)[0], rtol=1e-4, atol=1e-4)


def test_what_a_head_gives_on_average_stays_in_the_bias() -> None:
    model = graph(f"{SIGNATURE} {{ {GRAPHS['own_biases']} }}", 23, **_constants())
    after = PruneHeads(share=0.5).apply(model, CALIBRATION)
    before, found = (np.mean([run(each, feeds)[0] for feeds in CALIBRATION.calibration], axis=(0, 1, 2)) for each in (model, after))
    np.testing.assert_allclose(found, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "body",
    [
        f"{PROJECT} {MS} p = Relu(a) {OUT.replace('(a', '(p')}",  # not read by a layer
        f"{PROJECT.replace('v = MatMul', 'u = MatMul')} v = Relu(u) {MS} {OUT}",  # values that no layer gives
        f"q = MatMul(x, wq) v = MatMul(x, wv) {MS.replace('(q, k, v)', '(q, q, v)')} {OUT}",  # one layer for queries and keys
        f"{PROJECT} {MS.replace('v)', 'v, , , given)')} {OUT}",  # a mask of heads that is computed
        f"{PROJECT} q2 = Reshape(q, parts) {STANDARD} (q, k, v) {OUT}",  # queries that others read
        f"{PROJECT} {OUT.replace('(a', '(v')}",  # no attention
    ],
)
def test_near_misses_are_left_alone(body: str) -> None:
    signature = SIGNATURE.replace(" x)", f" x, float[1, {HEADS}, {POSITIONS}, {POSITIONS}] given)")
    model = graph(f"{signature.replace('y)', 'y, float[B, S, N, D] q2)') if 'q2' in body else signature} {{ {body} }}", 23, **_constants())
    with pytest.raises(PassNotApplicable, match="the model has no multi-head attention"):
        PruneHeads(share=0.5).apply(model)


def test_a_share_of_less_than_one_head_is_refused() -> None:
    model = graph(f"{SIGNATURE} {{ {GRAPHS['contrib']} }}", 23, **_constants())
    with pytest.raises(PassNotApplicable, match="too few heads"):
        PruneHeads(share=0.2).apply(model)
    assert kinds(PruneHeads(share=0.25).apply(model)) == kinds(model)
    onnx.checker.check_model(PruneHeads(share=0.25).apply(model))
