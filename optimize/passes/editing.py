"""A graph under edit: what a value holds, who makes it, who reads it, and new nodes in the place of old ones.

Letters in the passes that build on it: ``B`` batch, ``S`` positions of queries, ``T`` positions of keys, ``N`` heads, ``D`` width of a
head, ``H`` width of a position.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.external_data_helper import uses_external_data
from onnx_ir.passes import common

from optimize.passes.base import PassNotApplicable, copy_of
from serving.contract.errors import PilotageError

MICROSOFT = "com.microsoft"
FEATURES = "features/"
"""Nodes of our own rankers' preprocessing are called so; no pass may change them, or buckets would move."""

NOT_TENSORS = ("Sequence", "Optional")
"""In names of operators whose results are no tensors; onnx-ir 1.1's inference says that they are, and ONNX Runtime refuses the model.
A model with such operators keeps the types that it came with."""

CONSTANTS_APART = 4
"""IR version since which a constant need not be an input: the specification, "Graphs"."""

Attributes = Mapping[str, int | float | str | Sequence[int]]


class Edit:
    """A copy of a model that is being changed; nodes inside ``If`` and ``Loop`` bodies are left alone.

    Parameters
    ----------
    model
        Is read, never changed.

    Raises
    ------
    PassNotApplicable
        It has something that cannot be edited: values that are maps, for one.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        with quiet():
            self.model = read(model)
            if has_tensors_alone(self.model):
                common.ShapeInferencePass(check_type=False, strict_mode=False)(self.model)
        self.graph = self.model.graph
        self.changes = 0
        values = [value for node in self.graph.all_nodes() for value in node.outputs]
        self._names = {value.name for value in (*values, *self.graph.inputs, *self.graph.initializers.values())}
        self._names |= {node.name for node in self.graph.all_nodes()}

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators that the model is written in."""
        return self.graph.opset_imports.get("", 1)

    def nodes(self, *kinds: str) -> list[ir.Node]:
        """Nodes of these operators, in order, feature preprocessing excepted; the list stays as it is while the graph changes."""
        return [node for node in self.graph if node.op_type in kinds and not is_feature(node)]

    def add(
        self, before: ir.Node, kind: str, inputs: Sequence[ir.Value | None], attributes: Attributes | None = None, *, domain: str = ""
    ) -> ir.Value:
        """Put a node with one output in front of `before` and return its output."""
        return self.add_many(before, kind, inputs, attributes, domain=domain)[0]

    def add_many(
        self,
        before: ir.Node,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> Sequence[ir.Value]:
        """Put a node in front of `before` and return its outputs, named after those of `before`."""
        name = self._fresh(f"{before.outputs[0].name}/{kind.lower()}")
        made = [ir.val(name if i == 0 else self._fresh(f"{name}_{i}")) for i in range(outputs)]
        node = ir.node(kind, inputs, attributes, domain=domain, outputs=made, name=name)
        self.graph.insert_before(before, node)
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        return node.outputs

    def constant(self, value: npt.NDArray[Any], name: str) -> ir.Value:
        """Add an initializer, called `name` or nearly so."""
        made = ir.Value(name=self._fresh(name), const_value=ir.tensor(value))
        made.shape = ir.Shape(value.shape)
        made.type = ir.TensorType(ir.DataType.from_numpy(value.dtype))
        self.graph.register_initializer(made)
        return made

    def value(self, name: str) -> ir.Value:
        """Make a value, called `name` or nearly so, for a node to write."""
        return ir.Value(name=self._fresh(name))

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let all readers of `old`, and the graph's output if it is one, read `new`; counts as one change."""
        new.shape, new.type = new.shape or old.shape, new.type or old.type
        is_output = old.is_graph_output()
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if is_output:
            name, old.name = old.name, self._fresh(f"{old.name}/before")
            new.name = name
            new.shape, new.type = old.shape, old.type
        self.changes += 1

    def branch(self, old: ir.Value, new: ir.Value, slots: Iterable[tuple[ir.Node, int]]) -> None:
        """Let these inputs of nodes, and the graph's output if `old` is one, read `new`, which is made from `old`; counts as one change."""
        for node, index in slots:
            node.replace_input_with(index, new)
        if old.is_graph_output():
            name, old.name = old.name, self._fresh(f"{old.name}/before")
            new.name, new.shape, new.type = name, old.shape, old.type
            self.graph.outputs[[*self.graph.outputs].index(old)] = new
        self.changes += 1

    def done(self) -> onnx.ModelProto:
        """Return the model without what nobody reads any more."""
        with quiet():
            common.RemoveUnusedNodesPass()(self.model)
            self.graph.sort()
            return ir.to_proto(self.model)

    def _fresh(self, name: str) -> str:
        found, number = name, 1
        while found in self._names:
            found, number = f"{name}.{number}", number + 1
        self._names.add(found)
        return found


def read(model: onnx.ModelProto) -> ir.Model:
    """Take a model into the form that is edited; before IR version 4, with its constants no longer among its inputs.

    Until then a constant had to be an input too, so that being one says nothing; from then on it says that callers may give another value.

    Raises
    ------
    PassNotApplicable
        It has something that cannot be edited: values that are maps, for one.
    PilotageError
        Values of constants are in a file that was not loaded.
    """
    try:
        made = ir.from_proto(in_memory(model))
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise PassNotApplicable(f"the model has no form that can be edited: {cause}") from error
    if made.ir_version < CONSTANTS_APART:
        made.graph.inputs[:] = [value for value in made.graph.inputs if value.name not in made.graph.initializers]
        made.ir_version = CONSTANTS_APART
    return made


def in_memory(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, or a copy whose tensors no longer claim to be in a file where their values are in memory.

    `onnx.external_data_helper.convert_model_to_external_data` leaves such a model; libraries look for its file then.

    Raises
    ------
    PilotageError
        Values are in a file that was not loaded.
    """
    external = [tensor for tensor in _tensors(model.graph) if uses_external_data(tensor)]
    for tensor in external:
        if not tensor.HasField("raw_data"):
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "a file")
            raise PilotageError(
                f"the values of {tensor.name!r} are not in memory but in {location!r}; load the model by its path, onnx.load(path), "
                "or load_external_data_for_model(model, folder)"
            )
    if not external:
        return model
    copy = copy_of(model)
    for tensor in _tensors(copy.graph):
        if uses_external_data(tensor):
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return copy


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def has_tensors_alone(model: ir.Model) -> bool:
    """Whether all values are tensors, so that their types can be inferred; see `NOT_TENSORS`."""
    return not any(word in node.op_type for node in model.graph.all_nodes() for word in NOT_TENSORS)


def require_opset(edit: Edit, least: int, feature: str) -> None:
    """Check that the model is written in an opset that has what a pass adds.

    Raises
    ------
    PassNotApplicable
        Its opset is older than `least`.
    """
    if edit.opset < least:
        raise PassNotApplicable(f"the model has no {feature}: its opset is {edit.opset}, at least {least} is needed")


def is_feature(node: ir.Node) -> bool:
    """Whether `node` is feature preprocessing of our own rankers."""
    return (node.name or "").startswith(FEATURES)


def array(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """What a value always holds, if it is a constant; an initializer that is also an input may be overridden and is none."""
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain:
        return None
    (attribute,) = node.attributes.values()
    content = attribute.value
    return content.numpy() if attribute.type == ir.AttributeType.TENSOR else np.asarray(content)


def scalar(value: ir.Value | None) -> float | None:
    """The one number that a constant of a single element holds; None for all else."""
    held = array(value)
    return float(held.reshape(())) if held is not None and held.size == 1 and held.dtype.kind in "fiu" else None


def made_by(value: ir.Value | None, *kinds: str, domain: str = "") -> ir.Node | None:
    """The node that makes `value`, if it is one of these operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in kinds and node.domain == domain and not is_feature(node) else None


def only_reader(value: ir.Value, *kinds: str, domain: str = "") -> ir.Node | None:
    """The one node that reads `value`, if it is one of these operators and the value is no output of the graph."""
    readers = value.consumers()
    if len(value.uses()) != 1 or value.is_graph_output():
        return None
    node = readers[0]
    return node if node.op_type in kinds and node.domain == domain and node.graph is value.graph and not is_feature(node) else None


def vector_added(value: ir.Value | None) -> tuple[ir.Value, npt.NDArray[np.float32]] | None:
    """Split ``x + bias``, where bias is a constant float32 vector as wide as x."""
    added = made_by(value, "Add")
    if added is None:
        return None
    for other, held in (added.inputs, reversed(added.inputs)):
        bias = array(held)
        if other is not None and array(other) is None and bias is not None and bias.dtype == np.float32 and bias.shape == (width(other),):
            return other, bias
    return None


def other_input(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other input of a node with two; the same one where it reads `value` twice."""
    first, second = node.inputs
    return second if first is value else first


def axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes of a reduction, an attribute or, in later opsets, an input; None where they are neither given nor constant."""
    given = integers(node, "axes")
    if given is None and len(node.inputs) > 1:
        held = array(node.inputs[1])
        given = None if held is None else tuple(int(axis) for axis in held.ravel())
    return given


def same_axis(first: ir.Value, axis: int, second: ir.Value, other: int) -> bool:
    """Whether two axes are known to be of one size, by number or by symbol."""
    if first.shape is None or second.shape is None:
        return False
    a, b = first.shape[axis], second.shape[other]
    return a == b and (isinstance(a, int) or a.value is not None)


def same_shape(first: ir.Value, second: ir.Value) -> bool:
    """Whether both are known to have the same axes."""
    axis_count = rank(first)
    return axis_count is not None and axis_count == rank(second) and all(same_axis(first, i, second, i) for i in range(axis_count))


def rank(value: ir.Value) -> int | None:
    """Number of axes, where it is known."""
    return None if value.shape is None else len(value.shape)


def width(value: ir.Value) -> int | None:
    """Size of the last axis, where it is known."""
    last = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return last if isinstance(last, int) else None


def narrow(value: ir.Value, by: int) -> None:
    """Note that the last axis of a value has become smaller, or the runtime would believe the old shape."""
    if value.shape is not None and isinstance(value.shape[-1], int):
        value.shape = ir.Shape([*value.shape[:-1], value.shape[-1] - by])


def may_be_float32(value: ir.Value) -> bool:
    """Whether a value is float32, as ONNX Runtime's own operators need on the CPU, or of a type that inference could not tell."""
    return value.dtype in (ir.DataType.FLOAT, None)


def integers(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """An attribute of integers; None where it is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute that is an integer."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def number(node: ir.Node, name: str, default: float) -> float:
    """An attribute that is a float."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def without_factors(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Undo multiplications and divisions by constants."""
    factor = 1.0
    while (node := made_by(value, "Mul", "Div")) is not None:
        left, right = (scalar(given) for given in node.inputs)
        if right:
            value, factor = node.inputs[0], factor * (1 / right if node.op_type == "Div" else right)
        elif left and node.op_type == "Mul":
            value, factor = node.inputs[1], factor * left
        else:
            break
    return value, factor


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' remarks to themselves: standard error belongs to the caller."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
