"""Embedding tables of a graph: constants whose rows are looked up by ids, and nothing else.

Letters: ``R`` rows, ``D`` width of a row.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from optimize.passes.base import PassNotApplicable
from optimize.passes.editing import Edit, array, integer, is_feature

MIN_ROWS = 64
"""Fewer rows of the usual 16 to 64 numbers are under 16 kB: nothing to save beside what each further operator costs a run."""

GRID = 256
"""Numbers that people write, such as 0, 1 or 0.5, are multiples of 1/256; trained ones hardly ever."""


@dataclass(frozen=True)
class Table:
    """A table that is only looked up.

    Attributes
    ----------
    rows
        ``(R, D) float32``, finite.
    lookups
        Its readers, each a ``Gather`` of whole rows.
    """

    value: ir.Value
    rows: npt.NDArray[np.float32]
    lookups: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        """Name of the constant."""
        return self.value.name or "table"


def tables(edit: Edit, min_rows: int) -> list[Table]:
    """Tables of `min_rows` rows or more, in the order in which they are read.

    A table that is read otherwise too, such as one tied to the output's matrix, is left out: it would be stored twice.

    Raises
    ------
    PassNotApplicable
        There is none.
    """
    read: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node in edit.nodes("Gather"):
        if node.domain == "" and node.inputs[0] is not None and integer(node, "axis", 0) in (0, -2):
            read[node.inputs[0]].append(node)
    found, tied = [], 0
    for value, lookups in read.items():
        rows = array(value)
        if (
            rows is None
            or rows.dtype != np.float32
            or rows.ndim != 2
            or len(rows) < min_rows
            or not rows.size
            or not np.isfinite(rows).all()
        ):
            continue
        if value.is_graph_output() or len(value.uses()) != len(lookups):
            tied += 1
        else:
            found.append(Table(value, rows, tuple(lookups)))
    if not found:
        also = f"; {tied} of them are read otherwise too, as by a tied output layer" if tied else ""
        raise PassNotApplicable(f"the model has no float32 table of {min_rows} rows or more that is only looked up by row{also}")
    return found


def follow_rows(edit: Edit, table: Table, stored: npt.NDArray[np.float32]) -> None:
    """Let constants that are copies of a row change as the row does.

    A pooled list subtracts the row of a missing value once for each missing value that it summed; exporters fold that row into
    a constant of its own. Were it kept while the table is rounded, the error would grow with the length of the list.

    Parameters
    ----------
    stored
        ``(R, D) float32``: what a look-up gives from now on.
    """
    width = table.rows.shape[1]
    for value in [*edit.graph.initializers.values(), *(output for node in edit.graph for output in node.outputs)]:
        copy = array(value)
        if copy is None or value is table.value or value.is_graph_output():
            continue
        if copy.dtype != np.float32 or copy.shape not in ((width,), (1, width)) or not np.any(copy * GRID % 1):
            continue
        at = np.flatnonzero(table.rows[:, 0] == copy.ravel()[0])
        at = at[(table.rows[at] == copy.ravel()).all(axis=1)]
        readers = [use for use in value.uses() if not is_feature(use.node)]
        if len(at) and readers:
            moved = edit.constant(stored[at[0]].reshape(copy.shape), f"{value.name}/stored")
            for use in readers:
                use.node.replace_input_with(use.idx, moved)
