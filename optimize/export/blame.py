"""Which line of the user's code a failure inside torch comes from, and which operator."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(torch.__file__).parent
LIBRARIES = tuple(
    f"{folder}/"
    for folder in (
        ROOT,
        *(ROOT.parent / name for name in ("onnxscript", "onnx_ir", "onnx", "onnxruntime")),
        Path(__file__).parent,
    )
)
STDLIB = f"{sysconfig.get_paths()['stdlib']}/"
FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*([^\n]*)')


@dataclass(frozen=True)
class Place:
    """A line of source code."""

    file: str
    line: int
    code: str

    def __str__(self) -> str:
        """As error messages name it."""
        return f"{self.file}:{self.line}" + (f" (`{self.code}`)" if self.code else "")


def chain(error: BaseException) -> list[BaseException]:
    """The error, then what caused it, and so on."""
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        step = step.__cause__ or step.__context__
    return found


def blame(error: BaseException) -> Place | None:
    """The innermost line outside of torch, ONNX's packages and this one: first causes first; None where nothing tells."""
    errors = chain(error)[::-1]
    for one in errors:
        places = [Place(frame.filename, frame.lineno or 0, (frame.line or "").strip()) for frame in traceback.extract_tb(one.__traceback__)]
        if found := _last(places):
            return found
    for text in (*(stack_of(node) for node in nodes(error)), *map(str, errors)):
        if found := _last([Place(file, int(line), code.strip()) for file, line, _, code in FRAME.findall(text)]):
            return found
    return None


def nodes(error: BaseException) -> Iterator[torch.fx.Node]:
    """Nodes of the traced program that the exporter had in hand when it failed, first causes first."""
    for one in chain(error)[::-1]:
        for frame, _ in list(traceback.walk_tb(one.__traceback__))[::-1]:
            node = frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node) and node.op == "call_function":
                yield node


def stack_of(node: torch.fx.Node) -> str:
    """Where in the model a node was traced, as text of a traceback."""
    return str(node.meta.get("stack_trace") or "")


def guarded(program: torch.export.ExportedProgram) -> Place | None:
    """The first line of the user's that compares a size of the inputs with a number, in a program traced with sizes that may be fixed."""
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        for guard in getattr(getattr(mode, "shape_env", None), "guards", ()):
            for frame in (guard.sloc.maybe_user_loc, guard.sloc.framework_loc):
                if isinstance(frame, traceback.FrameSummary) and is_users(frame.filename):
                    return Place(frame.filename, frame.lineno or 0, (frame.line or "").strip())
    return None


def _last(places: list[Place]) -> Place | None:
    outside = [place for place in places if is_users(place.file)]
    return outside[-1] if outside else None


def is_users(file: str) -> bool:
    """Whether a file is neither of the libraries that export, nor of Python's own."""
    own = file.startswith(STDLIB) and "site-packages" not in file
    return not (own or file.startswith((*LIBRARIES, "<")) or not file)
