"""Tables in eight and four bits: no value moves by more than half a step, whatever the shape of the table."""

from __future__ import annotations

import numpy as np
import pytest

from optimize.passes.base import OptionError, PassNotApplicable
from optimize.passes.registry import UnknownPass, parse_pass
from optimize.passes.table_bits import TableBits, quantized
from tests.graphs import drawn, graph, kinds, run

ROWS = 80


def looked_up(step: TableBits, rows: np.ndarray, opset: int = 20) -> tuple[np.ndarray, dict[str, int]]:
    text = f"(int64[N] ids) => (float[N, {rows.shape[1]}] y) {{ y = Gather(table, ids) }}"
    after = step.apply(graph(text, opset, table=rows))
    return run(after, {"ids": np.arange(len(rows))})[0], dict(kinds(after))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("width", "block_size", "opset", "by_operator"),
    [(4, 16, 20, False), (16, 16, 20, False), (5, 32, 20, False), (32, 32, 13, None), (48, 32, 20, True), (33, 16, 20, True)],
)
def test_no_value_moves_by_more_than_half_a_step(bits: int, width: int, block_size: int, opset: int, by_operator: bool | None) -> None:
    rows = drawn(ROWS, width) * np.float32(10) ** drawn(ROWS, 1, seed=1)
    found, operators = looked_up(TableBits(bits=bits, block_size=block_size), rows, opset)
    largest = 2 ** (bits - 1) - 1
    padded = np.pad(np.abs(rows), ((0, 0), (0, -width % block_size))).reshape(ROWS, -1, block_size)
    steps = np.repeat(padded.max(axis=2) / largest, block_size, axis=1)[:, :width]
    # The step in half precision is up to 2**-10 larger; the operator's answers are half precision too, with values up to `largest` steps.
    assert (np.abs(found - rows) <= steps * (0.5 * (1 + 2**-10) + largest * 2.0**-11) + 1e-6).all()
    if by_operator is None:
        by_operator = bits == 4  # opset 13 has no BitwiseAnd
    assert ("GatherBlockQuantized" in operators) == by_operator


@pytest.mark.parametrize("bits", [8, 4])
def test_steps_are_rounded_up_so_that_nothing_is_clipped(bits: int) -> None:
    rows = drawn(500, 24)
    codes, scales = quantized(rows, bits, 16)
    largest = 2 ** (bits - 1) - 1
    steps = np.repeat(scales.astype(np.float32), 16, axis=1)[:, :24]
    assert np.abs(codes).max() == largest
    assert (np.abs(codes * steps - rows) <= steps / 2 * (1 + 1e-5)).all()  # 1e-5: float32 rounds the quotient


@pytest.mark.parametrize("width", [16, 48])
@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros_and_tiny_rows_stay_finite(bits: int, width: int) -> None:
    rows = drawn(ROWS, width)
    rows[0] = 0
    rows[1] *= 1e-12
    rows[2, : width // 2] = 0
    found, _ = looked_up(TableBits(bits=bits), rows)
    assert (found[0] == 0).all()
    assert (found[2, : width // 2] == 0).all()
    assert np.abs(found[1] - rows[1]).max() <= 2.0**-25 * 8, "the smallest step of half precision"


@pytest.mark.parametrize("bits", [8, 4])
def test_a_constant_that_repeats_a_row_is_what_the_operator_restores(bits: int) -> None:
    rows = drawn(ROWS, 48)
    text = "(int64[N] ids) => (float[N, 48] y) { p = Gather(table, ids) y = Sub(p, padding) }"
    after = TableBits(bits=bits).apply(graph(text, table=rows, padding=rows[:1].copy()))
    assert not run(after, {"ids": np.array([0])})[0].any()


@pytest.mark.parametrize(("bits", "width", "most"), [(8, 16, 0.29), (4, 16, 0.16), (8, 384, 0.27), (4, 384, 0.15)])
def test_sizes(bits: int, width: int, most: float) -> None:
    rows = drawn(400, width)
    text = f"(int64[N] ids) => (float[N, {width}] y) {{ y = Gather(table, ids) }}"
    after = TableBits(bits=bits).apply(graph(text, table=rows))
    assert sum(len(tensor.raw_data) for tensor in after.graph.initializer) <= most * rows.nbytes


@pytest.mark.parametrize(("bits", "width"), [(8, 1), (8, 2), (4, 1)])
def test_rows_too_narrow_to_gain_are_left(bits: int, width: int) -> None:
    with pytest.raises(PassNotApplicable, match="the model has no table that gets smaller"):
        looked_up(TableBits(bits=bits), drawn(ROWS, width))


@pytest.mark.parametrize("option", ["bits=2", "block_size=24", "block_size=8", "min_rows=0", "bits=eight"])
def test_options_that_no_operator_takes_are_refused(option: str) -> None:
    with pytest.raises((OptionError, UnknownPass), match=option.partition("=")[0]):
        parse_pass(f"table_bits:{option}")
    assert parse_pass("table_bits:bits=4,block_size=64").name == "table_bits:bits=4,block_size=64"


def test_a_scale_a_column_moves_no_value_by_more_than_half_a_step() -> None:
    rows = drawn(ROWS, 24) * np.float32(10) ** drawn(1, 24, seed=1)
    rows[0], rows[:, 3] = 0, 0
    found, operators = looked_up(TableBits(scales="column"), rows)
    assert (np.abs(found - rows) <= np.abs(rows).max(axis=0) / 127 * 0.5 * (1 + 1e-5)).all()  # 1e-5: float32 rounds the quotient
    assert not found[0].any()
    assert operators == {"Gather": 1, "Cast": 1, "Mul": 1}, "no scale is looked up"


@pytest.mark.parametrize(("axis", "is_after"), [(1, True), (-2, True), (2, False), (-1, False)])
def test_lists_are_summed_before_they_are_scaled(axis: int, is_after: bool) -> None:
    rows = drawn(ROWS, 24)
    text = "(int64[N, 5] ids) => (float[N, D] y) { p = Gather(table, ids) y = ReduceSum <keepdims = 0> (p, axis) }"
    model = graph(text, table=rows, axis=np.array([axis]))
    after = TableBits(scales="column").apply(model)
    ids = np.random.default_rng(0).integers(0, ROWS, (7, 5))
    step = np.abs(rows).max() / 127
    np.testing.assert_allclose(run(after, {"ids": ids})[0], run(model, {"ids": ids})[0], atol=24 * step / 2)
    order = [node.op_type for node in after.graph.node]
    assert (order.index("Mul") > order.index("ReduceSum")) == is_after


def test_a_padding_row_follows_its_column_s_steps() -> None:
    rows = drawn(ROWS, 48)
    text = "(int64[N] ids) => (float[N, 48] y) { p = Gather(table, ids) y = Sub(p, padding) }"
    after = TableBits(scales="column").apply(graph(text, table=rows, padding=rows[:1].copy()))
    assert not run(after, {"ids": np.array([0])})[0].any()


@pytest.mark.parametrize("options", ["bits=4,scales=column", "scales=table"])
def test_scales_that_there_are_not_are_refused(options: str) -> None:
    with pytest.raises((OptionError, UnknownPass), match="scales"):
        parse_pass(f"table_bits:{options}")
