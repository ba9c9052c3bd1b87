"""Any torch module → ONNX: traced by ``torch.export``, translated by ``torch.onnx``, its values named as the caller wants them."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx import helper
from torch.utils import _pytree as pytree

from optimize.export.blame import Place, blame, guarded
from optimize.export.explain import describe, explain, is_fixed
from optimize.export.inputs import Example
from optimize.export.to_onnx import ExportError
from optimize.features.graph import IR_VERSION, OPSET

MIN_OPSET, MAX_OPSET = 18, 25
"""torch 2.13 writes opset 18 whatever lower one is asked for; ONNX Runtime 1.32 refuses the ``Attention`` that it writes from 26 on."""


def export_module(module: torch.nn.Module, example: Example, *, outputs: Sequence[str] = (), opset: int = OPSET) -> onnx.ModelProto:
    """Export `module`, in evaluation mode, whose graph takes the inputs of `example`.

    Parameters
    ----------
    outputs
        Names of the outputs; without them, the keys where the module gives a dict, else ``output_0``, ``output_1``, …
    opset
        `MIN_OPSET` to `MAX_OPSET`.

    Raises
    ------
    ExportError
        Naming the operator and the line of the model where torch gave up.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset {opset} is not between {MIN_OPSET} and {MAX_OPSET}, which torch writes and ONNX Runtime reads")
    kind = type(module).__name__
    module.eval()
    names = output_names(module, example, outputs)
    larger = example.at({symbol: max(2, size) for symbol, size in example.sizes().items()})  # 1 would be taken for a constant
    arguments, keywords = larger.call()
    try:
        with _quiet():
            program = torch.export.export(module, arguments, keywords, dynamic_shapes=_dynamic_shapes(module, larger), strict=False)
            translated = torch.onnx.export(program, dynamo=True, opset_version=opset, external_data=False, verbose=False)
    except Exception as error:  # the exporters raise many unrelated types
        where = _where_fixed(module, larger, arguments, keywords) if is_fixed(error) else None
        raise ExportError(f"{kind} cannot be exported: {explain(error, where)}") from error
    if translated is None:
        raise ExportError(f"{kind} cannot be exported: torch gave no graph back")
    return _named(translated.model, larger, names)


def _where_fixed(module: torch.nn.Module, example: Example, arguments: Any, keywords: Any) -> Place | None:
    """The line that makes a constant of a size: where the module fails at another one, else where torch notes that it is compared."""
    try:
        outputs_of(module, example.at({symbol: size + 1 for symbol, size in example.sizes().items()}))
    except ExportError as error:
        return blame(error)
    automatic = {name: dict.fromkeys(axes, torch.export.Dim.AUTO) for name, axes in example.axes.items()}
    with _quiet(), contextlib.suppress(Exception):  # this is for the message alone
        shapes = _by_parameter(module, example, automatic)
        return guarded(torch.export.export(module, arguments, keywords, dynamic_shapes=shapes, strict=False))
    return None


def outputs_of(module: torch.nn.Module, example: Example) -> list[tuple[str, torch.Tensor]]:
    """Call the module; return its tensors with the keys under which it gives them, what is None left out.

    Raises
    ------
    ExportError
        The module raises, or gives something that is no tensor.
    """
    arguments, keywords = example.call()
    try:
        with torch.no_grad():
            given = module(*arguments, **keywords)
    except Exception as error:  # the user's code
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in example.tensors.items())
        raise ExportError(f"{type(module).__name__} itself fails on inputs of the shapes {shapes}: {describe(error)}") from error
    found = []
    for path, leaf in pytree.tree_flatten_with_path(given)[0]:
        if leaf is None:
            continue
        if not isinstance(leaf, torch.Tensor):
            raise ExportError(
                f"{type(module).__name__} gives a {type(leaf).__name__} at output{pytree.keystr(path)}; a graph gives tensors only: let "
                "forward return those, or wrap the module in one that does"
            )
        keys = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", ""))) for key in path]
        found.append(("_".join(map(str, keys)) if keys and isinstance(keys[0], str) else "", leaf))
    if not found:
        raise ExportError(f"{type(module).__name__} gives no tensor")
    return found


def output_names(module: torch.nn.Module, example: Example, given: Sequence[str] = ()) -> list[str]:
    """Names of the graph's outputs, those that are given or those of the module's keys.

    Raises
    ------
    ExportError
        Too many or too few are given, or one is taken.
    """
    keys = [key for key, _ in outputs_of(module, example)]
    if given and len(given) != len(keys):
        raise ExportError(
            f"{len(given)} output names are given ({', '.join(given)}), but {type(module).__name__} gives {len(keys)} tensors"
        )
    names = list(given) or [key or f"output_{i}" for i, key in enumerate(keys)]
    if not given:
        names = [f"{name}_out" if name in example.tensors else name for name in names]
    doubled = [name for i, name in enumerate(names) if name in (*example.tensors, *names[:i]) or not name]
    if doubled:
        raise ExportError(f"output name {doubled[0]!r} is taken by an input or another output, or empty; name outputs with --output-name")
    return names


def _dynamic_shapes(module: torch.nn.Module, example: Example) -> dict[str, Any]:
    """What may vary; torch finds itself which sizes are equal and how large they may become."""
    return _by_parameter(module, example, {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in example.axes.items()})


def _by_parameter(module: torch.nn.Module, example: Example, varying: dict[str, dict[int, Any]]) -> dict[str, Any]:
    """Group by parameter of ``forward``: ``*args`` takes several inputs."""
    items = [(name, varying[name]) for name in example.tensors]
    bound = inspect.signature(module.forward).bind(*(axes for _, axes in items[: example.positional]), **dict(items[example.positional :]))
    return dict(bound.arguments)


def _named(model: ir.Model, example: Example, outputs: Sequence[str]) -> onnx.ModelProto:
    """Give inputs, outputs and varying axes their names; inner values that are called the same are renamed."""
    graph = model.graph
    wanted = [*example.tensors, *outputs]
    ends = [*graph.inputs, *graph.outputs]
    for value in [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]:
        if value.name in wanted:
            value.name = f"{value.name}.inner"
    for i, (output, name) in enumerate(zip(graph.outputs, outputs, strict=True)):
        if output.producer() is None:  # an input or a constant, handed through
            node = ir.node(
                "Identity", [output], outputs=[ir.Value(name=name, shape=output.shape, type=output.type)], name=f"{name}/identity"
            )
            graph.append(node)
            graph.outputs[i] = node.outputs[0]
    for value, name in zip(graph.inputs, example.tensors, strict=True):
        value.name = name
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    symbols = _symbols(graph, example)
    for value in [*ends, *graph.outputs, *(value for node in graph.all_nodes() for value in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape([symbols.get(str(getattr(axis, "value", axis)), axis) for axis in value.shape])
    proto: onnx.ModelProto = ir.to_proto(model)
    del proto.metadata_props[:]
    for described in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del described.metadata_props[:]  # the exporter's notes hold paths of this machine
        described.doc_string = ""
    proto.producer_name, proto.producer_version = "pilotage", ""
    proto.ir_version = max(IR_VERSION, helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True))
    onnx.checker.check_model(proto, full_check=False)
    return proto


def _symbols(graph: ir.Graph, example: Example) -> dict[str, str]:
    """The exporter's names of sizes → the caller's; the first one counts where torch found that two must be equal."""
    found: dict[str, str] = {}
    for value, name in zip(graph.inputs, example.tensors, strict=True):
        for axis, symbol in example.axes[name].items():
            size = value.shape[axis] if value.shape is not None else None
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                found.setdefault(size.value, symbol)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch logs, prints and warns of its own internals from the caller; what matters of it is in the exception."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
