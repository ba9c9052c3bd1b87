"""Example inputs of a module: their names, which axes vary, and the same inputs at other sizes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optimize.export.to_onnx import ExportError

BATCH = "B"

Axes = Mapping[str, Mapping[int, str]]
"""Input → axis → the symbol of its size; axes that are not there are fixed."""

DTYPES = (torch.float32, torch.float16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
"""What NumPy, ONNX Runtime and torch all have."""


@dataclass(frozen=True)
class Example:
    """Inputs of one call of a module.

    Attributes
    ----------
    tensors
        Input name → tensor, in the order of the graph's inputs.
    positional
        How many of them are passed by position; the others by name.
    axes
        Which of their axes vary.
    """

    tensors: Mapping[str, torch.Tensor]
    positional: int
    axes: Axes

    def sizes(self) -> dict[str, int]:
        """Size of each symbol, as the tensors have it.

        Raises
        ------
        ExportError
            Two axes of one symbol differ.
        """
        found: dict[str, tuple[int, str]] = {}
        for name, axes in self.axes.items():
            for axis, symbol in axes.items():
                size, first = self.tensors[name].shape[axis], f"axis {axis} of {name!r}"
                known, other = found.setdefault(symbol, (size, first))
                if known != size:
                    raise ExportError(
                        f"{other} and {first} are both called {symbol}, but their examples have sizes {known} and {size}; give one another "
                        f"name with --dynamic {name}:{axis}=N, or fix it with --static {name}:{axis}"
                    )
        return {symbol: size for symbol, (size, _) in found.items()}

    def at(self, sizes: Mapping[str, int]) -> Example:
        """The same inputs with other sizes: rows of the examples, cut off or repeated from the front; what `sizes` lacks stays."""
        tensors = dict(self.tensors)
        for name, axes in self.axes.items():
            for axis, symbol in axes.items():
                tensor = tensors[name]
                rows = torch.arange(sizes.get(symbol, tensor.shape[axis])) % tensor.shape[axis]
                tensors[name] = tensor.index_select(axis, rows)
        return Example(tensors, self.positional, self.axes)

    def call(self) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Arguments for the module, by position and by name; copies, for modules that write into their inputs."""
        items = [(name, tensor.clone()) for name, tensor in self.tensors.items()]
        return tuple(tensor for _, tensor in items[: self.positional]), dict(items[self.positional :])

    def feeds(self) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays for the graph."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}


def example_of(
    module: torch.nn.Module, inputs: object, dynamic: Axes | None = None, static: Sequence[tuple[str, int | None]] = ()
) -> Example:
    """Check example inputs and name them.

    Parameters
    ----------
    inputs
        Name of a parameter of ``forward`` → tensor; or a tuple of tensors, by position, or one tensor, which are called after the
        parameters.
    dynamic
        Axes that vary beside axis 0 of every input, which is called ``B``, or under another name.
    static
        Inputs, or axes of them, that do not vary.

    Raises
    ------
    ExportError
        Naming the input that does not do.
    """
    tensors = {name: _tensor(name, value) for name, value in _named(module, inputs).items()}
    axes = {name: {0: BATCH} if tensor.ndim else {} for name, tensor in tensors.items()}
    for name, given in (dynamic or {}).items():
        for axis, symbol in given.items():
            _require_axis(tensors, name, axis)
            axes[name][axis] = symbol
    for name, fixed in static:
        _require_axis(tensors, name, fixed or 0)
        axes[name] = {axis: symbol for axis, symbol in axes[name].items() if fixed is not None and axis != fixed}
    example = Example(tensors, 0 if isinstance(inputs, Mapping) else len(tensors), axes)
    empty = [symbol for symbol, size in example.sizes().items() if size < 1]
    if empty:
        raise ExportError(f"the example inputs are empty along {', '.join(empty)}; give at least one row")
    return example


def _named(module: torch.nn.Module, inputs: object) -> dict[str, object]:
    signature = inspect.signature(module.forward)
    if isinstance(inputs, torch.Tensor | np.ndarray):
        inputs = (inputs,)
    try:
        if isinstance(inputs, Mapping):
            signature.bind(**inputs)
            return dict(inputs)
        if isinstance(inputs, tuple | list):
            signature.bind(*inputs)
            names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
            return {names[i] if i < len(names) else f"input_{i}": value for i, value in enumerate(inputs)}
    except TypeError as error:
        raise ExportError(f"{type(module).__name__}.forward{signature} does not take the example inputs: {error}") from error
    raise ExportError(f"example inputs are a dict of name → tensor or a tuple of tensors, got {type(inputs).__name__}")


def _tensor(name: str, value: object) -> torch.Tensor:
    tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else value
    if not isinstance(tensor, torch.Tensor):
        raise ExportError(
            f"example input {name!r} is a {type(value).__name__}, not a tensor; give each tensor a parameter of its own and "
            "let the factory set what is constant"
        )
    if tensor.dtype not in DTYPES:
        raise ExportError(
            f"example input {name!r} is {tensor.dtype}; ONNX Runtime takes {', '.join(str(d)[6:] for d in DTYPES)} from NumPy"
        )
    return tensor.detach().cpu()


def _require_axis(tensors: Mapping[str, torch.Tensor], name: str, axis: int) -> None:
    if name not in tensors:
        raise ExportError(f"there is no input {name!r}; there are {', '.join(tensors)}")
    if not 0 <= axis < tensors[name].ndim:
        raise ExportError(f"input {name!r} has no axis {axis}: its example has shape {tuple(tensors[name].shape)}")
