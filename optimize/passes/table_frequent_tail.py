"""Embedding tables in which frequent ids keep a row of their own and the others share a few.

Letters: ``R`` rows, ``D`` width of a row, ``T`` shared rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from optimize.passes.base import NOTHING, Context, Need, OptionError, Pass, PassNotApplicable, require_share
from optimize.passes.editing import Edit
from optimize.passes.id_counts import Counts, id_counts
from optimize.passes.table_sites import MIN_ROWS, follow_rows, tables

Rows = npt.NDArray[np.float32]

MULTIPLIER = 2_654_435_761
"""2**32 over the golden ratio, Knuth, "The Art of Computer Programming", volume 3, section 6.4: neighbours fall far apart."""


@dataclass(frozen=True)
class TableFrequentTail(Pass):
    """Keep the rows that are looked up most, hash the others into a few shared rows, and go from id to row by a list of numbers.

    A shared row is the mean of its members, weighted by how often calibration data looks them up. Equal rows are one row first: those that
    training never touched, and that were set to a mean or to zero, cost nothing. Rows of zeros stay zeros.

    Attributes
    ----------
    share
        Share of rows that stay.
    tail_rows
        Rows for all others; at most a quarter as many as there are others.
    min_rows
        Smaller tables are left.

    References
    ----------
    Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.
    """

    kind: ClassVar[str] = "table_frequent_tail"
    needs: ClassVar[tuple[Need, ...]] = ("calibration",)
    share: float = 0.1
    tail_rows: int = 1024
    min_rows: int = MIN_ROWS

    def __post_init__(self) -> None:
        """Refuse shares and numbers of rows that mean nothing."""
        require_share(self.kind, "share", self.share)
        for option in ("tail_rows", "min_rows"):
            if getattr(self, option) < 1:
                raise OptionError(f"pass {self.kind!r}: {option}={getattr(self, option)}; it must be 1 at least")

    @property
    def changes(self) -> str:
        """What it changes."""
        return f"the most frequent {self.share:.0%} of a table's rows stay, the others share {self.tail_rows} rows"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the model with shared rows.

        Raises
        ------
        PassNotApplicable
            It has no such table, or none that gets smaller.
        CalibrationError
            There is no calibration data, or the model does not run on it.
        """
        edit = Edit(model)
        found = tables(edit, self.min_rows)
        for table, counts in zip(found, id_counts(model, found, context), strict=True):
            kept, at = shared(table.rows, counts, self.share, self.tail_rows)
            if kept.nbytes + at.nbytes >= table.rows.nbytes:
                continue
            follow_rows(edit, table, kept[at])
            rows, places = edit.constant(kept, f"{table.name}/shared"), edit.constant(at, f"{table.name}/places")
            for lookup in table.lookups:
                place = edit.add(lookup, "Gather", [places, lookup.inputs[1]], {"axis": 0})
                edit.replace(lookup.outputs[0], edit.add(lookup, "Gather", [rows, place], {"axis": 0}))
        if not edit.changes:
            raise PassNotApplicable(f"the model has no table that gets smaller with {self.share:.0%} of its rows and a number for each id")
        return edit.done()


def shared(rows: Rows, counts: Counts, share: float, tail_rows: int) -> tuple[Rows, npt.NDArray[np.int32]]:
    """Return the rows that remain and, for each id, ``(R,)``, where its row is now."""
    _, first, member = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    member = member.reshape(-1)
    weight = np.bincount(member, counts, len(first))
    distinct = rows[first]
    blank = ~distinct.any(axis=1)
    order = np.lexsort((first, -weight, ~blank))  # rows of zeros, then by frequency, then by id, so that ties fall the same way everywhere
    own = order[: min(len(order), max(1, round(share * len(rows))))]
    others = order[len(own) :]
    tail = max(1, min(tail_rows, len(others) // 4))
    hashed = (first[others] * MULTIPLIER % 2**32) % tail
    _, group = np.unique(hashed, return_inverse=True)
    weights = weight[others] + 1.0  # an id that calibration data lacks counts as one
    totals = np.zeros((group.max(initial=-1) + 1, rows.shape[1]))
    np.add.at(totals, group, distinct[others] * weights[:, None])
    means = totals / np.bincount(group, weights)[:, None] if len(others) else totals
    place = np.empty(len(first), np.int32)
    place[own] = np.arange(len(own))
    place[others] = len(own) + group
    return np.concatenate([distinct[own], means.astype(np.float32)]), place[member]
