"""Embedding tables in eight or four bits, with a scale for each block of a row, or for each column.

Letters: ``R`` rows, ``D`` width of a row, ``K`` blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from pydantic import Field

from optimize.passes.base import NOTHING, Context, OptionError, Pass, PassNotApplicable
from optimize.passes.editing import MICROSOFT, Edit, axes, only_reader, rank
from optimize.passes.table_fp16 import LARGEST
from optimize.passes.table_sites import MIN_ROWS, Table, follow_rows, tables

BLOCK_SIZE = 32
SMALLEST_BLOCK = 16
"""Of ``GatherBlockQuantized``, which also wants powers of two; https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md."""

BITWISE_OPSET = 18
"""The first that has ``BitwiseAnd``."""


@dataclass(frozen=True)
class TableBits(Pass):
    """Store tables as int8 or int4, and float16 scales; rows are restored when they are looked up.

    Symmetric, so that a row of zeros, such as the padding of a list, stays exactly that. A value moves by half a step at most,
    the step being the block's largest magnitude over 127 or 7.

    Rows of one block are restored by elementary operators, wider ones by ``GatherBlockQuantized``. Over a plain look-up of 500 rows
    of 16 numbers that took 107 µs with eight bits and 112 with four, the elementary operators 35 and 50. An id that is out of
    range gives zeros there, as that operator defines it, and an error elsewhere.

    Attributes
    ----------
    bits
        8 or 4.
    block_size
        Numbers of a row that share a scale; a power of two.
    scales
        ``row``: as above. ``column``: one for each column of the table, eight bits only. A look-up reads no scale then, and rows of a
        list are summed before they are scaled; but all rows share the range of the largest one.
    min_rows
        Smaller tables are left; so are those that would not get smaller than `TableFp16` makes them, with rows of one or two.

    References
    ----------
    Guan et al., "Post-Training 4-bit Quantization on Embedding Tables", 2019: row-wise quantization with scales in half precision.
    """

    kind: ClassVar[str] = "table_bits"
    bits: int = 8
    block_size: int = BLOCK_SIZE
    scales: Literal["row", "column"] = "row"
    min_rows: Annotated[int, Field(ge=1)] = MIN_ROWS

    def __post_init__(self) -> None:
        """Refuse what no operator takes."""
        if self.bits not in (8, 4):
            raise OptionError(f"pass {self.kind!r}: bits={self.bits}; it must be 8 or 4")
        if self.block_size < SMALLEST_BLOCK or self.block_size & (self.block_size - 1):
            raise OptionError(f"pass {self.kind!r}: block_size={self.block_size}; it must be a power of two, {SMALLEST_BLOCK} at least")
        if self.scales not in ("row", "column") or (self.scales == "column" and self.bits == 4):
            raise OptionError(f"pass {self.kind!r}: scales={self.scales}, bits={self.bits}; it must be row, or column with 8 bits")

    @property
    def changes(self) -> str:
        """What it changes."""
        each = "column" if self.scales == "column" else f"{self.block_size} numbers of a row"
        return f"embedding tables of {self.min_rows} rows or more as int{self.bits}, a scale for each {each}"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the model with quantized tables.

        Raises
        ------
        PassNotApplicable
            It has no such table, or none that gets smaller or that half precision's range can hold.
        """
        edit = Edit(model)
        for table in tables(edit, self.min_rows):
            if np.abs(table.rows).max() <= LARGEST and self._row_bytes(table.rows.shape[1]) < 2 * table.rows.shape[1]:
                self._store(edit, table) if self.scales == "row" else _store_by_column(edit, table)
        if not edit.changes:
            raise PassNotApplicable(
                f"the model has no table that gets smaller than float16 makes it, with values within half precision's {LARGEST:,.0f}"
            )
        return edit.done()

    def _row_bytes(self, width: int) -> int:
        if self.scales == "column":
            return width
        return -(-width * self.bits // 8) + 2 * -(-width // self.block_size)

    def _store(self, edit: Edit, table: Table) -> None:
        codes, scales = quantized(table.rows, self.bits, self.block_size)
        restored = codes * np.repeat(scales.astype(np.float32), self.block_size, axis=1)[:, : codes.shape[1]]
        whole_row = scales.shape[1] == 1 and (self.bits == 8 or edit.opset >= BITWISE_OPSET)
        follow_rows(edit, table, restored if whole_row else restored.astype(np.float16).astype(np.float32))
        steps = edit.constant(scales, f"{table.name}/scales")
        signed = whole_row and self.bits == 8
        stored = edit.constant(codes if signed else _packed(codes, self.bits, neighbours=not whole_row), f"{table.name}/int{self.bits}")
        for lookup in table.lookups:
            if not whole_row:
                rows = self._by_one_operator(edit, lookup, stored, steps)
            else:
                rows = _scaled(edit, lookup, _codes(edit, lookup, stored, self.bits), steps)
            if self.bits == 4 and codes.shape[1] % 2:
                rows = _first(edit, lookup, rows, codes.shape[1])
            edit.replace(lookup.outputs[0], rows)

    def _by_one_operator(self, edit: Edit, lookup: ir.Node, stored: ir.Value, steps: ir.Value) -> ir.Value:
        rows = edit.add(
            lookup,
            "GatherBlockQuantized",
            [stored, lookup.inputs[1], steps],
            {"bits": self.bits, "block_size": self.block_size, "gather_axis": 0, "quantize_axis": 1},
            domain=MICROSOFT,
        )
        return edit.add(lookup, "Cast", [rows], {"to": onnx.TensorProto.FLOAT})


def _store_by_column(edit: Edit, table: Table) -> None:
    peaks = np.abs(table.rows).max(axis=0)
    held = (np.where(peaks > 0, peaks, 1) / 127).astype(np.float32)
    codes = np.clip(np.rint(table.rows / held), -127, 127).astype(np.int8)
    follow_rows(edit, table, codes * held)
    stored, steps = edit.constant(codes, f"{table.name}/int8"), edit.constant(held, f"{table.name}/steps")
    for lookup in table.lookups:
        found, rows = lookup.outputs[0], _codes(edit, lookup, stored, 8)
        pooled = only_reader(found, "ReduceSum")
        over, axis_count = (axes(pooled), rank(found)) if pooled is not None else (None, None)
        if pooled is not None and over and axis_count and not {-1, axis_count - 1} & set(over):
            options = {name: attribute.value for name, attribute in pooled.attributes.items()}
            found, rows = pooled.outputs[0], edit.add(pooled, "ReduceSum", [rows, *pooled.inputs[1:]], options)
        edit.replace(found, edit.add(lookup, "Mul", [rows, steps]))


def quantized(rows: npt.NDArray[np.float32], bits: int, block_size: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Round to multiples of each block's step.

    Returns
    -------
    tuple
        ``(R, D) int8`` codes within ±127 or ±7, and ``(R, K) float16`` steps, rounded up, so that the largest magnitude stays in range.
    """
    width = rows.shape[1]
    blocks = -(-width // block_size)
    largest = 2 ** (bits - 1) - 1
    peaks = np.maximum.reduceat(np.abs(rows), np.arange(blocks) * block_size, axis=1)
    scales = (peaks / largest).astype(np.float16)
    low = scales.astype(np.float32) * largest < peaks
    scales[low] = np.nextafter(scales[low], np.float16(np.inf))
    steps = np.repeat(scales.astype(np.float32), block_size, axis=1)[:, :width]
    codes = np.rint(np.divide(rows, steps, out=np.zeros_like(rows), where=steps > 0))
    return np.clip(codes, -largest, largest).astype(np.int8), scales


def _packed(codes: npt.NDArray[np.int8], bits: int, *, neighbours: bool) -> npt.NDArray[np.uint8]:
    """Unsigned codes, with four bits two in a byte: neighbours, or one of each half of the row, which unpacks without a shuffle."""
    unsigned: npt.NDArray[np.uint8] = (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    if bits == 8:
        return unsigned
    unsigned = np.pad(unsigned, ((0, 0), (0, unsigned.shape[1] % 2)))
    half = unsigned.shape[1] // 2
    low, high = (unsigned[:, 0::2], unsigned[:, 1::2]) if neighbours else (unsigned[:, :half], unsigned[:, half:])
    packed: npt.NDArray[np.uint8] = low + high * np.uint8(16)
    return packed


def _codes(edit: Edit, lookup: ir.Node, stored: ir.Value, bits: int) -> ir.Value:
    """Looked-up codes as float32."""
    rows = edit.add(lookup, "Gather", [stored, lookup.inputs[1]], {"axis": 0})
    if bits == 8:
        return edit.add(lookup, "Cast", [rows], {"to": onnx.TensorProto.FLOAT})
    low = edit.add(lookup, "BitwiseAnd", [rows, edit.constant(np.array(15, np.uint8), "low_bits")])
    high = edit.add(lookup, "BitShift", [rows, edit.constant(np.array(4, np.uint8), "four_bits")], {"direction": "RIGHT"})
    both = edit.add(lookup, "Concat", [low, high], {"axis": -1})
    unsigned = edit.add(lookup, "Cast", [both], {"to": onnx.TensorProto.FLOAT})
    return edit.add(lookup, "Sub", [unsigned, edit.constant(np.array(8, np.float32), "middle")])


def _scaled(edit: Edit, lookup: ir.Node, codes: ir.Value, steps: ir.Value) -> ir.Value:
    half = edit.add(lookup, "Gather", [steps, lookup.inputs[1]], {"axis": 0})
    return edit.add(lookup, "Mul", [codes, edit.add(lookup, "Cast", [half], {"to": onnx.TensorProto.FLOAT})])


def _first(edit: Edit, lookup: ir.Node, rows: ir.Value, width: int) -> ir.Value:
    """Without the column that made the width even."""
    start, end, axis = (edit.constant(np.array([at]), name) for at, name in ((0, "start"), (width, "end"), (-1, "last")))
    return edit.add(lookup, "Slice", [rows, start, end, axis])
