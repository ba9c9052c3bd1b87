"""Graphs on disk: nodes and small constants in one file, large weights in another beside it, which all processes of a machine map."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx.external_data_helper import ExternalDataInfo, set_external_data, uses_external_data

from serving.contract.errors import PilotageError
from serving.contract.files import FILE_MODE, sync

LARGE_BYTES = 64 * 1024
"""Constants from this size on lie in the weights file. Smaller ones save no memory worth a page each."""

PAGE_BYTES = 4096
"""Each begins at a page, so that it is aligned wherever it is mapped."""

WEIGHTS_SUFFIX = ".weights"


class GraphFileError(PilotageError):
    """A graph that cannot be read from, or must not be written to, where it was asked for."""


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph with all of its weights.

    Raises
    ------
    GraphFileError
        There is none, it is damaged, or weights that it names are missing or cut off.
    """
    if not path.is_file():
        raise GraphFileError(f"there is no file {path}")
    try:
        model = onnx.load(str(path))
    except OSError:
        raise
    except Exception as error:  # protobuf and ONNX's checker raise types of their own
        first = " ".join(str(error).split())
        missing = [location for location in locations(path) if not (path.parent / location).is_file()]
        if missing:
            raise GraphFileError(f"{path} keeps weights in {missing[0]}, which is not beside it") from error
        raise GraphFileError(f"{path} cannot be read as ONNX: {first}") from error
    if not model.graph.node and not model.graph.output:
        raise GraphFileError(f"{path} cannot be read as ONNX: it has no graph")
    return model


def locations(path: Path) -> set[str]:
    """Names of the files beside `path` that it keeps weights in; none where it cannot be read."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # any damage: whoever reads it in earnest will say so
        return set()
    return {ExternalDataInfo(tensor).location for tensor in model.graph.initializer if uses_external_data(tensor)}


def save_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write `path`, and ``NAME.weights`` beside it where `graph` has large constants.

    ONNX Runtime maps the weights from their file, so that the workers of a machine have one copy of an embedding table. The two
    files go together: the graph names the other by its plain file name. What was at these names is replaced file by file; a reader
    must not look before both are there.
    """
    weights = weights_of(path)
    large = [tensor for tensor in graph.graph.initializer if len(tensor.raw_data) >= LARGE_BYTES]
    if not large:
        weights.unlink(missing_ok=True)
        onnx.save_model(graph, str(path))
        return
    staging = weights.with_name(f".{weights.name}.tmp")
    try:
        with staging.open("wb") as file, _moved_out(large, file, weights.name):
            content = graph.SerializeToString()
        staging.replace(weights)
    finally:
        staging.unlink(missing_ok=True)
    path.write_bytes(content)


@contextmanager
def staged_graph(graph: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Write `graph` beside `path` and give where; when the block ends well, rename it to `path`, else remove it.

    Weights are renamed first: a graph without weights of its own is never at `path`.

    Raises
    ------
    GraphFileError
        The weights would replace a file that is not that of a graph at `path`.
    OSError
        The folder cannot be written, or the disk is full; what was at `path` is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = weights_of(path).name in locations(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        staged = Path(folder) / path.name
        save_graph(graph, staged)
        weights = weights_of(staged)
        if weights.exists() and weights_of(path).exists() and not own:
            raise GraphFileError(f"{weights_of(path)} is there and not part of {path.name}: it is left alone, choose another name")
        yield staged
        for file in files_of(staged):
            file.chmod(FILE_MODE)
            sync(file)
        if weights.exists():
            weights.replace(weights_of(path))
        staged.replace(path)
        if own and weights_of(path).name not in locations(path):
            weights_of(path).unlink(missing_ok=True)
    sync(path.parent)


def files_of(path: Path) -> list[Path]:
    """The files that `save_graph` wrote for `path`."""
    return [file for file in (path, weights_of(path)) if file.exists()]


def bundled(path: Path, name: str) -> dict[str, Path]:
    """Names in a bundle → files, for a graph that is called `name` there; its weights keep theirs, which the graph knows them by."""
    graph, *weights = files_of(path)
    return {name: graph, **{file.name: file for file in weights}}


def weights_of(path: Path) -> Path:
    """Where the large constants of the graph at `path` are, if it has any."""
    return path.with_suffix(WEIGHTS_SUFFIX)


@contextmanager
def _moved_out(tensors: Sequence[onnx.TensorProto], file: BinaryIO, location: str) -> Iterator[None]:
    """Write the values of `tensors` to `file` and point there instead, until the block ends; the model is the caller's."""
    kept = [tensor.raw_data for tensor in tensors]
    try:
        for tensor, values in zip(tensors, kept, strict=True):
            offset = -(-file.tell() // PAGE_BYTES) * PAGE_BYTES
            file.write(b"\0" * (offset - file.tell()))
            file.write(values)
            set_external_data(tensor, location, offset, len(values))
            tensor.ClearField("raw_data")
        file.flush()
        yield
    finally:
        for tensor, values in zip(tensors, kept, strict=True):
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = values
