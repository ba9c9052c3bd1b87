"""What torch's exporters say, in a paragraph: what failed, on which line of the model, and what to do."""

from __future__ import annotations

import re

from optimize.export.blame import Place, blame, chain, nodes

FIXED = re.compile(r"marked L\['?(.+?)'?\]\.size\(\)\[(\d+)\] as dynamic but your code specialized it to be a constant \((\d+)\)")
NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
MISSING_KERNEL = re.compile(
    r"operator '?([\w:.]+)'? is not currently|Could not run '([\w:.]+)'|([\w.:]+): attempted to run this operator with Meta"
)
MOST_CHARACTERS = 300
"""Of another library's message; the whole of it is in the chained exception."""


def is_fixed(error: BaseException) -> bool:
    """Whether torch complains that an axis is a constant in the model."""
    return any(FIXED.search(str(one)) for one in chain(error))


def explain(error: BaseException, fixed_at: Place | None = None) -> str:
    """Say why `error`, raised by torch's exporters, was raised.

    Parameters
    ----------
    fixed_at
        Where the model makes a constant of an axis, if that is known.

    Returns
    -------
    str
        Clauses that go on from "cannot be exported: ".
    """
    place = blame(error)
    where = f" at {place}" if place else ""
    errors = chain(error)
    messages = "\n".join(map(str, errors))
    if any("DataDependent" in type(one).__name__ for one in errors) or "data-dependent" in messages:
        return (
            f"control flow depends on the values of a tensor{where}, and a graph has no Python branches; use torch.where, torch.cond or "
            "a shape that does not depend on values"
        )
    if fixed := FIXED.search(messages):
        name, axis, size = fixed.groups()
        where = f" at {fixed_at}" if fixed_at else ""
        return (
            f"axis {axis} of input {name!r} is to vary, but the model fixes it at {size}{where}; compute sizes from the input's shape, or "
            f"keep the axis fixed with --static {name}:{axis}"
        )
    if missing := NO_FUNCTION.search(messages):
        return f"operator {missing[1]} has no ONNX counterpart; it is used{where or ' where torch does not tell'}; replace it in the model"
    operator = next((str(node.target) for node in nodes(error)), None)
    if operator:
        return f"operator {operator}{where} cannot be translated: {_summary(errors[-1])}"
    if kernel := MISSING_KERNEL.search(messages):
        name = next(filter(None, kernel.groups()))
        return f"operator {name}{where} cannot be traced, as it has no shape function; register one with torch.library.register_fake"
    return f"{_summary(errors[-1])}{where}"


def describe(error: BaseException) -> str:
    """An exception of the user's own code, and its line."""
    place: Place | None = blame(error)
    return _summary(error) + (f", at {place}" if place else "")


def _summary(error: BaseException) -> str:
    """Type and first paragraph, without line breaks, shortened."""
    first = " ".join(str(error).strip().split("\n\n")[0].split())
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"
