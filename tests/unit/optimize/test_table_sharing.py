"""Tables with fewer rows: who keeps a row, where the others go, and ids that stay what they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optimize.passes.base import CalibrationError, Context, Pass, PassNotApplicable
from optimize.passes.registry import UnknownPass, parse_pass
from optimize.passes.table_frequent_tail import TableFrequentTail, shared
from optimize.passes.table_quotient_remainder import TableQuotientRemainder, factors
from tests.graphs import drawn, graph, kinds, run

ROWS, WIDTH = 400, 8
LOOKUP = "(int64[N] ids) => (float[N, 8] y) { y = Gather(table, ids) }"
ALL = {"ids": np.arange(ROWS)}

FREQUENT = np.array([3, 3, 3, 399, 399, 17])
SERVED = Context(calibration=({"ids": FREQUENT}, {"ids": np.array([17, 5])}))


def looked_up(step: Pass, rows: np.ndarray, context: Context = SERVED) -> np.ndarray:
    found: np.ndarray = run(step.apply(graph(LOOKUP, table=rows), context), ALL)[0]
    return found


def bytes_of(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def test_frequent_ids_keep_their_rows() -> None:
    rows = drawn(ROWS, WIDTH)
    found = looked_up(TableFrequentTail(share=0.01), rows)
    np.testing.assert_array_equal(found[[3, 399, 17, 5]], rows[[3, 399, 17, 5]])
    kept = (found == rows).all(axis=1)
    assert kept.sum() == 4, "one of a hundred rows"


def test_others_share_the_weighted_mean_of_their_members() -> None:
    rows = drawn(ROWS, WIDTH)
    counts = np.random.default_rng(0).integers(0, 50, ROWS)
    kept, at = shared(rows, counts, 0.05, tail_rows=7)
    assert len(kept) == 20 + 7
    assert set(counts[at < 20]) >= {counts.max()}
    assert counts[at < 20].min() >= counts[at >= 20].max()
    for place in range(20, 27):
        members = at == place
        expected = np.average(rows[members], axis=0, weights=counts[members] + 1)
        np.testing.assert_allclose(kept[place], expected, rtol=1e-5, atol=1e-6)
    sizes = np.bincount(at)[20:]
    assert sizes.min() > 0.5 * sizes.mean(), "neighbours are spread evenly"


def test_equal_rows_are_one_and_exact() -> None:
    """As training leaves them: what it never saw is set to the mean."""
    rows = drawn(ROWS, WIDTH)
    rows[20:] = rows.mean(axis=0)
    np.testing.assert_array_equal(looked_up(TableFrequentTail(), rows), rows)


def test_rows_of_zeros_stay_zeros_even_if_nobody_asks_for_them() -> None:
    rows = drawn(ROWS, WIDTH)
    rows[0] = rows[250] = 0
    found = looked_up(TableFrequentTail(share=0.01), rows)
    assert not found[[0, 250]].any()


def test_ids_are_counted_behind_the_nodes_that_compute_them() -> None:
    text = "(int64[N] ids) => (float[N, 8] y) { other = Mod(ids, seven) y = Gather(table, other) }"
    step = TableFrequentTail(share=0.01)
    rows = drawn(ROWS, WIDTH)
    after = step.apply(graph(text, table=rows, seven=np.int64(7)), SERVED)
    np.testing.assert_array_equal(run(after, {"ids": np.array([0, 3, 5])})[0], rows[[0, 3, 5]])  # 399 is 0, 17 is 3


def test_frequencies_need_calibration_data_that_fits() -> None:
    before = graph(LOOKUP, table=drawn(ROWS, WIDTH))
    with pytest.raises(CalibrationError, match="there is none"):
        TableFrequentTail().apply(before)
    with pytest.raises(CalibrationError, match="does not run on calibration run 0"):
        TableFrequentTail().apply(before, Context(calibration=({"ids": np.zeros(3, np.float32)},)))
    with pytest.raises(CalibrationError, match="does not run on calibration run 0"):
        TableFrequentTail().apply(before, Context(calibration=({},)))
    with pytest.raises(CalibrationError, match="empty"):
        TableFrequentTail().apply(before, Context(calibration=({"ids": np.zeros(0, np.int64)},)))


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_a_table_of_that_form_is_found_again(combine: str) -> None:
    quotient, remainder = drawn(5, WIDTH), drawn(100, WIDTH, seed=1)
    at = np.arange(ROWS) + 99
    rows = quotient[at // 100] + remainder[at % 100] if combine == "sum" else quotient[at // 100] * remainder[at % 100]
    found = looked_up(parse_pass(f"table_quotient_remainder:combine={combine}"), rows, Context())
    np.testing.assert_allclose(found, rows, atol=2e-5)


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_the_fit_is_no_worse_than_one_row_for_each_remainder(combine: str) -> None:
    """Least squares over more parameters: a quotient table of zeros, or of ones, is one of its choices."""
    rows = drawn(ROWS, WIDTH)
    means = np.stack([rows[1 + i :: 100].mean(axis=0) for i in range(100)])
    left = rows[1:] - means[np.arange(ROWS - 1) % 100]
    found = looked_up(parse_pass(f"table_quotient_remainder:combine={combine}"), rows, Context())
    assert ((found - rows)[1:] ** 2).mean() < (left**2).mean()


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_row_zero_is_kept(combine: str) -> None:
    rows = drawn(ROWS, WIDTH)
    step = parse_pass(f"table_quotient_remainder:combine={combine}")
    np.testing.assert_allclose(looked_up(step, rows, Context())[0], rows[0], rtol=1e-5, atol=1e-6)
    rows[0] = 0
    assert not looked_up(step, rows, Context())[0].any()


def test_frequent_ids_weigh_more_in_the_fit() -> None:
    rows = drawn(ROWS, WIDTH)
    step = TableQuotientRemainder()
    plain, weighted = looked_up(step, rows, Context()), looked_up(step, rows, Context(calibration=({"ids": np.repeat(FREQUENT, 100)},)))
    errors = [np.abs(found - rows)[[3, 399, 17]].max() for found in (plain, weighted)]
    assert errors[1] < errors[0] / 10


def test_factors_of_a_table_with_a_part_of_the_last_quotient() -> None:
    quotient, remainder = factors(drawn(12, 2), 4, np.ones(12), "sum")
    assert (quotient.shape, remainder.shape) == ((4, 2), (4, 2))


@pytest.mark.parametrize("kind", ["table_frequent_tail", "table_quotient_remainder"])
def test_ids_from_the_end_and_of_other_types_find_the_same_rows(kind: str) -> None:
    rows = drawn(ROWS, WIDTH)
    text = "(int32[A, B] ids) => (float[A, B, 8] y) { y = Gather(table, ids) }"
    ids = np.array([[-1, 399], [-400, 0]], np.int32)
    context = Context(calibration=({"ids": ids},))
    after = parse_pass(kind).apply(graph(text, table=rows), context)
    found = run(after, {"ids": ids})[0]
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


@pytest.mark.parametrize("kind", ["table_frequent_tail", "table_quotient_remainder"])
def test_the_file_gets_smaller(kind: str) -> None:
    before = graph(LOOKUP, table=drawn(ROWS, WIDTH))
    after = parse_pass(kind).apply(before, SERVED)
    assert bytes_of(after) < 0.5 * bytes_of(before)
    assert kinds(after)["Gather"] == 2


@pytest.mark.parametrize("kind", ["table_frequent_tail", "table_quotient_remainder"])
def test_a_tied_table_is_left(kind: str) -> None:
    text = "(int64[N] ids) => (float[N, 400] y) { p = Gather(table, ids) t = Transpose(table) y = MatMul(p, t) }"
    with pytest.raises(PassNotApplicable, match="tied output"):
        parse_pass(kind).apply(graph(text, table=drawn(ROWS, WIDTH)), SERVED)


def test_a_table_of_one_column_keeps_its_rows_rather_than_a_list_of_places() -> None:
    with pytest.raises(PassNotApplicable, match="smaller"):
        TableFrequentTail().apply(graph("(int64[N] ids) => (float[N, 1] y) { y = Gather(table, ids) }", table=drawn(ROWS, 1)), SERVED)


@pytest.mark.parametrize(
    "text",
    [
        "table_frequent_tail:share=0",
        "table_frequent_tail:tail_rows=0",
        "table_quotient_remainder:ratio=1",
        "table_quotient_remainder:min_rows=0",
    ],
)
def test_options_without_a_meaning_are_refused(text: str) -> None:
    with pytest.raises(UnknownPass, match=text.partition(":")[2].partition("=")[0]):
        parse_pass(text)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("kind", ["table_fp16", "table_bits", "table_frequent_tail", "table_quotient_remainder"])
def test_ids_that_a_table_has_no_row_for_are_refused_as_by_gather(kind: str, dtype: type[np.signedinteger]) -> None:
    """One more or less than there is, and within the last quotient: 399 ids are 100 remainders four times, less one."""
    text = LOOKUP.replace("int64", np.dtype(dtype).name)
    served = Context(calibration=tuple({"ids": feeds["ids"].astype(dtype)} for feeds in SERVED.calibration))
    model = parse_pass(kind).apply(graph(text, table=drawn(ROWS - 1, WIDTH)), served)
    valid = np.array([-(ROWS - 1), ROWS - 2], dtype)
    assert np.isfinite(run(model, {"ids": valid})[0]).all()
    for wrong in (-ROWS, ROWS - 1, np.iinfo(dtype).min, np.iinfo(dtype).max):
        with pytest.raises(Exception, match="indices element out of data bounds"):
            run(model, {"ids": np.array([wrong], dtype)})
