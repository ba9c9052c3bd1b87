"""Tables in fewer bytes: what is a table, how near a look-up stays, and what is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize.passes.base import Pass, PassNotApplicable
from optimize.passes.table_bits import TableBits
from optimize.passes.table_fp16 import TableFp16
from tests.graphs import drawn, graph, kinds, run

ROWS, WIDTH = 100, 12
LOOKUP = "(int64[N] ids) => (float[N, 12] y) { y = Gather<axis = 0>(table, ids) }"
HALF_STEP, HALF_SUBNORMAL = 2.0**-11, 2.0**-25
"""float16 has 11 significant bits, so that rounding moves a value by 2**-11 of it at most, and steps of 2**-24 below 2**-14."""

PASSES: list[Pass] = [TableFp16(), TableBits(), TableBits(bits=4), TableBits(bits=8, block_size=16)]


def bytes_of(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def looked_up(step: Pass, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    shape = f"(int64{list(ids.shape)} ids) => (float{[*ids.shape, rows.shape[1]]} y) {{ y = Gather<axis = 0>(table, ids) }}"
    after = step.apply(graph(shape, table=rows))
    found: np.ndarray = run(after, {"ids": ids})[0]
    assert found.dtype == np.float32
    return found


@pytest.fixture(params=PASSES, ids=lambda step: step.name)
def step(request: pytest.FixtureRequest) -> Pass:
    made: Pass = request.param
    return made


def test_half_precision_rounds_each_value_by_half_a_step_at_most() -> None:
    rows = drawn(ROWS, WIDTH) * np.float32(10) ** np.arange(-3, 3, 6 / WIDTH, dtype=np.float32)
    found = looked_up(TableFp16(), rows, np.arange(ROWS))
    assert (np.abs(found - rows) <= HALF_STEP * np.abs(rows) + HALF_SUBNORMAL).all()
    assert not np.array_equal(found, rows)


@pytest.mark.parametrize(
    "ids", [np.array([[3, 0], [99, 3]]), np.array([-1, -100]), np.zeros((0,), np.int64)], ids=["lists", "from the end", "none"]
)
def test_ids_of_any_shape_and_from_the_end_find_their_row(step: Pass, ids: np.ndarray) -> None:
    rows = drawn(ROWS, WIDTH)
    found = looked_up(step, rows, ids)
    assert found.shape == (*ids.shape, WIDTH)
    np.testing.assert_array_equal(found, looked_up(step, rows, np.arange(ROWS))[ids])


def test_a_smaller_file_comes_out(step: Pass) -> None:
    before = graph(LOOKUP, table=drawn(ROWS, WIDTH))
    assert bytes_of(step.apply(before)) <= 0.51 * bytes_of(before)


def test_every_look_up_of_a_shared_table_reads_one_copy(step: Pass) -> None:
    text = "(int64[N] a, int64[N] b) => (float[N, 12] y) { p = Gather<axis = 0>(table, a) q = Gather<axis = -2>(table, b) y = Add(p, q) }"
    before = graph(text, table=drawn(ROWS, WIDTH))
    after = step.apply(before)
    assert bytes_of(after) <= 0.51 * bytes_of(before)
    ids = np.arange(5)
    np.testing.assert_allclose(run(after, {"a": ids, "b": ids})[0], 2 * looked_up(step, drawn(ROWS, WIDTH), ids), rtol=1e-6)


def test_a_constant_that_repeats_a_row_moves_with_it(step: Pass) -> None:
    """As where a list's missing values are taken out of its sum again: 49 of them, and one id of row 7."""
    rows = drawn(ROWS, WIDTH)
    text = "(int64[V] ids) => (float[12] y) { p = Gather<axis = 0>(table, ids) s = ReduceSum<keepdims = 0>(p, first) m = Mul(n, padding) y = Sub(s, m) }"
    before = graph(text, table=rows, padding=rows[0].copy(), n=np.float32(49), first=np.array([0]))
    found = run(step.apply(before), {"ids": np.array([7] + [0] * 49)})[0]
    # Fifty sums of float32 values near 100 (49 equal rows of magnitude 2) round by 50 * 100 * 2**-24 = 3e-4 at most.
    np.testing.assert_allclose(found, looked_up(step, rows, np.array([7]))[0], atol=3e-4)


def test_a_written_number_that_equals_a_row_stays(step: Pass) -> None:
    rows = drawn(ROWS, WIDTH)
    rows[5] = 0.5
    text = "(int64[N] ids) => (float[N, 12] y) { p = Gather<axis = 0>(table, ids) y = Add(p, half) }"
    after = step.apply(graph(text, table=rows, half=np.full(WIDTH, 0.5, np.float32)))
    assert "half" in {tensor.name for tensor in after.graph.initializer}


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        (LOOKUP, {"table": drawn(63, WIDTH)}),  # one row too few
        (LOOKUP.replace("float[", "float16["), {"table": drawn(ROWS, WIDTH).astype(np.float16)}),
        ("(int64[N] ids) => (float[100, N] y) { y = Gather<axis = 1>(table, ids) }", {"table": drawn(ROWS, WIDTH)}),  # columns
        ("(int64[N] ids) => (float[N, 2, 3] y) { y = Gather(table, ids) }", {"table": drawn(ROWS, 2, 3)}),
        ("(int64[N] ids, float[100, 12] table) => (float[N, 12] y) { y = Gather(table, ids) }", {"table": drawn(ROWS, WIDTH)}),  # an input
        (
            "(int64[N] ids) => (float[N, 100] y) { p = Gather(table, ids) t = Transpose(table) y = MatMul(p, t) }",
            {"table": drawn(ROWS, WIDTH)},
        ),
        ("(int64[N] ids) => (float[N, 12] y, float[100, 12] table) { y = Gather(table, ids) }", {"table": drawn(ROWS, WIDTH)}),
    ],
    ids=["small", "half already", "axis 1", "three axes", "an input", "tied", "an output"],
)
def test_what_only_looks_like_a_table_is_left_alone(step: Pass, text: str, constants: dict[str, np.ndarray]) -> None:
    with pytest.raises(PassNotApplicable, match="the model has no"):
        step.apply(graph(text, **constants))


def test_a_tied_table_is_named_as_the_reason(step: Pass) -> None:
    text = "(int64[N] ids) => (float[N, 100] y) { p = Gather(table, ids) t = Transpose(table) y = MatMul(p, t) }"
    with pytest.raises(PassNotApplicable, match="tied output"):
        step.apply(graph(text, table=drawn(ROWS, WIDTH)))


def test_feature_preprocessing_is_not_a_table(step: Pass) -> None:
    before = graph(LOOKUP, table=drawn(ROWS, WIDTH))
    before.graph.node[0].name = "features/by_candidate"
    with pytest.raises(PassNotApplicable, match="the model has no"):
        step.apply(before)


def test_values_that_half_precision_cannot_hold_leave_their_table_alone(step: Pass) -> None:
    rows = drawn(ROWS, WIDTH)
    rows[3, 4] = 65_520.0
    with pytest.raises(PassNotApplicable, match="65,504"):
        step.apply(graph(LOOKUP, table=rows))
    text = "(int64[N] ids) => (float[N, 12] y) { p = Gather<axis = 0>(table, ids) q = Gather<axis = 0>(other, ids) y = Add(p, q) }"
    after = step.apply(graph(text, table=rows, other=drawn(ROWS, WIDTH)))
    assert "table" in {tensor.name for tensor in after.graph.initializer}


def test_a_constant_node_is_a_table_too(step: Pass) -> None:
    before = graph(LOOKUP, table=drawn(ROWS, WIDTH))
    held = onnx.helper.make_node("Constant", [], ["table"], name="held", value=before.graph.initializer[0])
    del before.graph.initializer[:]
    before.graph.node.insert(0, held)
    assert "Constant" not in kinds(step.apply(before))


def test_fp16_keeps_the_table_once() -> None:
    after = TableFp16().apply(graph(LOOKUP, table=drawn(ROWS, WIDTH)))
    assert [(tensor.data_type, list(tensor.dims)) for tensor in after.graph.initializer] == [(onnx.TensorProto.FLOAT16, [ROWS, WIDTH])]
    assert kinds(after) == {"Gather": 1, "Cast": 1}
    assert numpy_helper.to_array(after.graph.initializer[0]).dtype == np.float16
