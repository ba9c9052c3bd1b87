"""Inputs to run a graph on: read from NPZ files, or made up."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from optimize.passes.base import CalibrationError, Feeds

MADE_UP_ROWS, MADE_UP_LENGTH = 3, 8
"""Size of the first axis, and of any other, where the graph leaves it open; the same for all axes of one symbol."""

BELOW = 2
"""Made-up integers are 0 or 1: every table has these rows, and masks are made of them."""


@dataclass(frozen=True)
class Slot:
    """One input of a graph.

    Attributes
    ----------
    shape
        A number, the symbol of a size, or None for each axis; None where not even their count is known.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    def gap(self, feed: npt.NDArray[Any]) -> str | None:
        """Why an array does not fit, if it does not."""
        if feed.dtype != self.dtype:
            return f"takes {_shown(self.dtype)}, not {_shown(feed.dtype)}"
        if self.shape is None:
            return None
        if feed.ndim != len(self.shape):
            return f"has {len(self.shape)} axes, not {feed.ndim}"
        wrong = [i for i, size in enumerate(self.shape) if isinstance(size, int) and size != feed.shape[i]]
        return f"has size {self.shape[wrong[0]]} on axis {wrong[0]}, not {feed.shape[wrong[0]]}" if wrong else None


def slots(model: onnx.ModelProto) -> list[Slot]:
    """Inputs that a caller has to give.

    Raises
    ------
    CalibrationError
        One is a sequence, a map or optional.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):
            raise CalibrationError(f"input {value.name!r} of the model is no tensor; only tensors can be fed")
        kind = value.type.tensor_type
        axes = (
            tuple(a.dim_value if a.HasField("dim_value") else a.dim_param or None for a in kind.shape.dim)
            if kind.HasField("shape")
            else None
        )
        found.append(Slot(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)), axes))
    return found


def read_feeds(path: Path, model: onnx.ModelProto) -> list[Feeds]:
    """Read runs from ``.npz`` files that hold an array for each input of `model`, under its name.

    Parameters
    ----------
    path
        One file, which is one run, or a folder of them, taken in the order of their names. Strings are arrays of NumPy's ``str``.

    Raises
    ------
    CalibrationError
        Naming the file and what does not fit.
    """
    if not path.exists():
        raise CalibrationError(f"there is no file or folder {path}")
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise CalibrationError(f"folder {path} has no .npz file; write one a run with numpy.savez, an array for each input")
    return [_read(file, slots(model)) for file in files]


def _read(file: Path, wanted: list[Slot]) -> Feeds:
    try:
        with file.open("rb") as opened:  # numpy leaves a damaged file open
            archive = np.load(opened, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise CalibrationError(f"{file} is one array; write a .npz with numpy.savez, an array for each input")
            found = {name: _strings(file, name, archive) for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"{file} cannot be read as .npz: {error}") from error
    names = [slot.name for slot in wanted]
    if set(found) != set(names):
        missing, unknown = [n for n in names if n not in found], [n for n in found if n not in names]
        said = [*([f"lacks {', '.join(missing)}"] if missing else []), *([f"has {', '.join(unknown)}"] if unknown else [])]
        raise CalibrationError(f"{file} {' and '.join(said)}; the model takes {', '.join(names)}")
    for slot in wanted:
        if gap := slot.gap(found[slot.name]):
            raise CalibrationError(f"{file}: input {slot.name!r} {gap}")
    return found


def _strings(file: Path, name: str, archive: np.lib.npyio.NpzFile) -> npt.NDArray[Any]:
    """One array; strings as ONNX Runtime takes them."""
    try:
        held: npt.NDArray[Any] = archive[name]
    except ValueError as error:
        raise CalibrationError(f"{file}: {name!r} holds Python objects, which are not read; save strings with .astype(str)") from error
    if held.dtype.kind == "S":
        held = np.char.decode(held, "utf-8")
    return held.astype(object) if held.dtype.kind == "U" else held


def made_up_feeds(model: onnx.ModelProto, seed: int = 0) -> Feeds:
    """Draw inputs: normal numbers, integers and strings of 0 and 1, true; `MADE_UP_ROWS` rows, `MADE_UP_LENGTH` elsewhere."""
    rng = np.random.default_rng(seed)
    sizes: dict[str, int] = {}
    feeds: dict[str, npt.NDArray[Any]] = {}
    for slot in slots(model):
        shape = []
        for axis, size in enumerate(slot.shape or ()):
            usual = MADE_UP_ROWS if axis == 0 else MADE_UP_LENGTH
            shape.append(size if isinstance(size, int) else sizes.setdefault(size, usual) if size else usual)
        feeds[slot.name] = _drawn(rng, slot.dtype, tuple(shape))
    return feeds


def _drawn(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        return rng.integers(0, BELOW, shape).astype(dtype)
    if dtype.kind in "OUS":
        return rng.integers(0, BELOW, shape).astype(str).astype(object)
    return rng.normal(size=shape).astype(dtype)


def _shown(dtype: np.dtype[Any]) -> str:
    return "strings" if dtype.kind == "O" else str(dtype)
