"""Embedding tables as two small ones, of the quotient and the remainder of an id.

Letters: ``R`` rows, ``D`` width of a row, ``Q`` quotients, ``M`` remainders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, OptionError, Pass, PassNotApplicable
from optimize.passes.editing import Edit
from optimize.passes.id_counts import Counts, id_counts
from optimize.passes.table_sites import MIN_ROWS, Table, follow_rows, tables

Rows = npt.NDArray[np.float32]
Combine = Literal["sum", "product"]

SWEEPS = 20
"""Alternating least squares: on 10,001 normal rows, counts 1 over rank, the error after 20 was within 0.1 % of that after 200."""

NOWHERE = 2**62
"""An id whose quotient no table has: remainders are fewer than 2**31."""


@dataclass(frozen=True)
class TableQuotientRemainder(Pass):
    """Write row ``id`` as a row of ``id // M`` plus, or times, a row of ``id % M``, fitted by least squares to the trained table.

    With calibration data the fit is weighted by how often an id is looked up. It loses much of a table that was not trained in this
    form: for sizes that nothing else reaches, or to start training from. Row 0, where lists keep what is missing, has a quotient of
    its own and stays.

    Attributes
    ----------
    ratio
        Times fewer rows, about.
    combine
        ``sum`` or ``product``.
    min_rows
        Smaller tables are left.

    References
    ----------
    Shi et al., "Compositional Embeddings Using Complementary Partitions for Memory-Efficient Recommendation Systems", KDD 2020, section 3.
    """

    kind: ClassVar[str] = "table_quotient_remainder"
    ratio: int = 4
    combine: Combine = "sum"
    min_rows: int = MIN_ROWS

    def __post_init__(self) -> None:
        """Refuse ratios that gain nothing."""
        for option, least in (("ratio", 2), ("min_rows", 1)):
            if getattr(self, option) < least:
                raise OptionError(f"pass {self.kind!r}: {option}={getattr(self, option)}; it must be {least} at least")

    @property
    def changes(self) -> str:
        """What it changes."""
        return f"a table's row as the {self.combine} of a row of the id's quotient and one of its remainder, {self.ratio} times fewer rows"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the model with two tables for one.

        Raises
        ------
        PassNotApplicable
            It has no such table, or none with enough rows for two.
        CalibrationError
            The model does not run on the calibration data, where there is such data.
        """
        edit = Edit(model)
        found = tables(edit, self.min_rows)
        counts: list[Counts | None] = [*id_counts(model, found, context)] if context.calibration else [None] * len(found)
        for table, count in zip(found, counts, strict=True):
            if -(-(len(table.rows) - 1) // self.ratio) + self.ratio + 2 < len(table.rows):
                self._split(edit, table, count)
        if not edit.changes:
            raise PassNotApplicable(f"the model has no table with so many rows that two for {self.ratio} times fewer are smaller")
        return edit.done()

    def _split(self, edit: Edit, table: Table, counts: Counts | None) -> None:
        count = len(table.rows)
        remainders = -(-(count - 1) // self.ratio)
        quotient, remainder = factors(
            table.rows, remainders, np.ones(count) if counts is None else (counts + 1.0).astype(np.float64), self.combine
        )
        ids = np.arange(count) + remainders - 1
        one, other = quotient[ids // remainders], remainder[ids % remainders]
        follow_rows(edit, table, one + other if self.combine == "sum" else one * other)
        held = edit.constant(quotient, f"{table.name}/quotients"), edit.constant(remainder, f"{table.name}/remainders")
        for lookup in table.lookups:
            shifted, size = _shifted(edit, lookup, remainders - 1, count)
            parts = [
                edit.add(lookup, "Gather", [part, edit.add(lookup, kind, [shifted, size])], {"axis": 0})
                for part, kind in zip(held, ("Div", "Mod"), strict=True)
            ]
            edit.replace(lookup.outputs[0], edit.add(lookup, "Add" if self.combine == "sum" else "Mul", parts))


def factors(rows: Rows, remainders: int, weights: npt.NDArray[np.float64], combine: Combine) -> tuple[Rows, Rows]:
    """Fit a ``(Q, D)`` and an ``(M, D)`` table to rows 1 and up; quotient 0 has row 0 as its only member, with the last remainder.

    Parameters
    ----------
    weights
        ``(R,)``, above zero.
    """
    width = rows.shape[1]
    quotients = -(-(len(rows) - 1) // remainders)
    target: npt.NDArray[np.float64] = np.zeros((quotients * remainders, width))
    target[: len(rows) - 1] = rows[1:]
    weight: npt.NDArray[np.float64] = np.zeros((quotients * remainders, 1))
    weight[: len(rows) - 1, 0] = weights[1:]
    target, weight = target.reshape(quotients, remainders, width), weight.reshape(quotients, remainders, 1)
    quotient: npt.NDArray[np.float64]
    if combine == "sum":
        quotient = np.zeros((quotients, width))
        for _ in range(SWEEPS):
            remainder = (weight * (target - quotient[:, None])).sum(axis=0) / weight.sum(axis=0)
            quotient = (weight * (target - remainder)).sum(axis=1) / weight.sum(axis=1)
    else:
        heaviest = (weight * target**2).sum(axis=0).argmax(axis=0)
        quotient = np.take_along_axis(target, heaviest[None, None], axis=1)[:, 0]
        for _ in range(SWEEPS):
            remainder = _ratio((weight * target * quotient[:, None]).sum(axis=0), (weight * quotient[:, None] ** 2).sum(axis=0))
            quotient = _ratio((weight * target * remainder).sum(axis=1), (weight * remainder**2).sum(axis=1))
    last = remainder[-1].astype(np.float32)
    first = rows[0] - last if combine == "sum" else _ratio(rows[0], last)
    return np.concatenate([first[None], quotient]).astype(np.float32), remainder.astype(np.float32)


def _ratio(above: npt.NDArray[np.floating], below: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    quotient: npt.NDArray[np.float64] = np.divide(above, below, out=np.zeros(above.shape), where=below != 0)
    return quotient


def _shifted(edit: Edit, lookup: ir.Node, shift: int, count: int) -> tuple[ir.Value, ir.Value]:
    """Ids, counted from the end where they are negative, plus `shift`; and the number of remainders.

    Ids that the table has no row for become `NOWHERE`, which ``Gather`` refuses as it would have refused them: there may be rows
    of the last quotient, and of the first, that stand for no id.
    """
    ids = lookup.inputs[1]
    if ids is None or ids.dtype != ir.DataType.INT64:
        ids = edit.add(lookup, "Cast", [ids], {"to": onnx.TensorProto.INT64})
    numbers = (0, shift, shift + count, shift + count - 1, shift + 1, NOWHERE)
    zero, near, far, last, size, nowhere = (edit.constant(np.array(value), "id") for value in numbers)
    shifted = edit.add(lookup, "Add", [ids, edit.add(lookup, "Where", [edit.add(lookup, "Less", [ids, zero]), far, near])])
    outside = edit.add(lookup, "Or", [edit.add(lookup, "Less", pair) for pair in ([shifted, near], [last, shifted])])
    return edit.add(lookup, "Where", [outside, nowhere, shifted]), size
