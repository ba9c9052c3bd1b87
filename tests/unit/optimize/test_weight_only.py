"""Weights in blocks of small integers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from optimize.passes.base import PassNotApplicable
from optimize.passes.block_quantization import quantize_blocks
from optimize.passes.registry import UnknownPass, parse_pass
from optimize.passes.weight_only import WeightOnly
from tests.graphs import drawn, graph, kinds, run

SIGNATURE = "(float[B, 70] x) => (float[B, 24] y)"
EVERYTHING = {"min_weights": 1}


def _unpacked(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    if bits == 8:
        return packed[..., :count].astype(np.float32)
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)[..., :count].astype(np.float32)


def _restored(weight: np.ndarray, bits: int, block_size: int) -> np.ndarray:
    blocks = quantize_blocks(weight, bits, block_size)
    outputs, count = blocks.scales.shape
    zeros = _unpacked(blocks.zeros, bits, count)
    codes = _unpacked(blocks.codes, bits, block_size)
    return ((codes - zeros[..., None]) * blocks.scales[..., None]).reshape(outputs, -1)[:, : len(weight)].T


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_a_weight_is_off_by_half_a_step_of_its_block_at_most_where_ends_are_kept(bits: int, block_size: int, shift: float) -> None:
    weight = drawn(150, 8) + np.float32(shift)
    error = np.abs(_restored(weight, bits, block_size) - weight)
    ranges = []
    for start in range(0, 150, block_size):
        block = weight[start : start + block_size]
        ranges.append(np.maximum(block.max(0), 0) - np.minimum(block.min(0), 0))
    largest = np.max(ranges, axis=0) / (2**bits - 1)
    # 0.8 of the range is kept at least: an end is off by 0.2 of it, plus half a step.
    assert (error.max(0) <= 0.2 * largest * (2**bits - 1) + 0.5 * largest + 1e-6).all()
    plain = np.sqrt(np.mean(largest**2) / 12)
    assert np.sqrt(np.mean(error**2)) <= plain, "no worse than rounding over the whole range, evenly spread errors within a step"


def test_zeros_and_single_values_are_exact() -> None:
    assert (_restored(np.zeros((40, 3), np.float32), 4, 32) == 0).all()
    alone = np.zeros((40, 3), np.float32)
    alone[7] = 0.3, -0.7, 1e-30
    np.testing.assert_allclose(_restored(alone, 4, 32), alone, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("{ y = MatMul(x, w) }", (70, 24)),
        ("{ a = MatMul(x, w) y = Add(a, b) }", (70, 24)),
        ("{ y = Gemm(x, w, b) }", (70, 24)),
        ("{ y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b) }", (24, 70)),
    ],
)
def test_the_operator_multiplies_by_the_restored_weights(body: str, shape: tuple[int, int], block_size: int, bits: int) -> None:
    weight, bias, x = drawn(*shape), drawn(24, seed=1), drawn(5, 70, seed=2)
    model = graph(SIGNATURE + body, w=weight, b=bias)
    step = WeightOnly(bits=bits, block_size=block_size, accuracy_level=0, **EVERYTHING)
    after = step.apply(model)
    assert kinds(after) == {"MatMulNBits": 1}
    restored = _restored((weight.T * np.float32(0.5)) if shape[0] == 24 else weight, bits, block_size)
    expected = x @ restored
    if "b)" in body:
        expected = expected + bias * (2 if shape[0] == 24 else 1)
    # sums of 70 products of magnitude 1 in another order: see `tests.graphs.same_answers`
    np.testing.assert_allclose(run(after, {"x": x})[0], expected, rtol=1e-5, atol=2e-5)


def test_eight_bits_lose_less_than_four_and_small_blocks_less_than_large_ones() -> None:
    weight = drawn(256, 64)
    errors = {(bits, size): np.abs(_restored(weight, bits, size) - weight).mean() for bits in (4, 8) for size in (16, 128)}
    assert errors[8, 16] < errors[8, 128] < errors[4, 16] / 5
    assert errors[4, 16] < errors[4, 128]


def test_four_bits_take_less_than_a_sixth_of_the_float_weights() -> None:
    model = graph("(float[B, 256] x) => (float[B, 256] y) { y = MatMul(x, w) }", w=drawn(256, 256))
    sizes = {bits: sum(numpy_helper.to_array(t).nbytes for t in WeightOnly(bits=bits).apply(model).graph.initializer) for bits in (4, 8)}
    float_bytes = 256 * 256 * 4
    assert sizes[4] == float_bytes * (4 + 1 + 4 / 32) / 32, "a float32 scale and 4 bits of zero point for each 32 weights"
    assert sizes[8] == float_bytes * (8 + 1 + 8 / 32) / 32


def test_weights_that_two_products_share_are_stored_once() -> None:
    body = "(float[B, 128] x) => (float[B, 128] y) { a = MatMul(x, w) c = Relu(a) y = MatMul(c, w) }"
    after = WeightOnly().apply(graph(body, w=drawn(128, 128)))
    assert kinds(after)["MatMulNBits"] == 2
    assert len(after.graph.initializer) == 3


@pytest.mark.parametrize(
    ("body", "weight"),
    [
        ("(float[B, 64] x) => (float[B, 64] y) { y = MatMul(x, w) }", drawn(64, 64)),  # too small to win
        ("(float[B, 8] x) => (float[B, 4096] y) { y = MatMul(x, w) }", drawn(8, 4096)),  # most of a block would be padding
        ("(float[B, 128] x) => (float[B, 128] y) { y = MatMul(x, w) }", np.full((128, 128), np.inf, np.float32)),
        ("(double[B, 128] x) => (double[B, 128] y) { y = MatMul(x, w) }", drawn(128, 128).astype(np.float64)),
        ("(float[B, 3, 128] x) => (float[B, 3, 128] y) { y = MatMul(x, w) }", drawn(3, 128, 128)),
        ("(float[128, B] x) => (float[128, B] y) { y = MatMul(w, x) }", drawn(128, 128)),
        ("(float[B, 512] x) => (float[B, 512] y) { y = Gather(w, i) z = Identity(x) }", drawn(128, 512)),
    ],
)
def test_what_does_not_fit_the_operator_or_does_not_pay_is_left(body: str, weight: np.ndarray) -> None:
    with pytest.raises(PassNotApplicable, match="the model has no matrix product"):
        WeightOnly().apply(graph(body, w=weight, i=np.array([1])))


def test_an_empty_batch_and_more_axes_run() -> None:
    after = WeightOnly().apply(graph("(float[B, S, 128] x) => (float[B, S, 128] y) { y = MatMul(x, w) }", w=drawn(128, 128)))
    assert run(after, {"x": drawn(2, 3, 128)})[0].shape == (2, 3, 128)
    assert run(after, {"x": np.zeros((0, 3, 128), np.float32)})[0].shape == (0, 3, 128)


def test_options_come_from_text_and_wrong_ones_are_named() -> None:
    step = parse_pass("weight_only:bits=8,block_size=64")
    assert step == WeightOnly(bits=8, block_size=64)
    for wrong in ("bits=3", "block_size=20", "accuracy_level=2", "min_weights=0", "bits=many"):
        with pytest.raises(UnknownPass, match=wrong.partition("=")[0]):
            parse_pass(f"weight_only:{wrong}")
