"""A module and its example inputs, from ``package.module:factory``."""

from __future__ import annotations

import difflib
import importlib
import traceback
from collections.abc import Mapping

import numpy as np
import torch

from optimize.export.blame import is_users
from optimize.export.explain import describe
from optimize.export.to_onnx import ExportError

CONTRACT = "a torch.nn.Module, or a pair of one and its example inputs (a dict of name → tensor, or a tuple of tensors)"


def load_factory(reference: str) -> tuple[torch.nn.Module, object | None]:
    """Import and call a factory.

    Parameters
    ----------
    reference
        ``package.module:factory``; the factory takes no arguments. An instance of a module does as well.

    Returns
    -------
    tuple
        The module, and its example inputs if the factory gives any.

    Raises
    ------
    ExportError
        There is no such module or factory, it raises, or gives something else.
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise ExportError(f"{reference!r} names no factory: it is package.module:factory, as in my_package.models:build")
    try:
        source = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ExportError(f"there is no module {error.name!r} for {reference!r}, neither here nor installed") from error
        raise ExportError(f"module {module!r} cannot be imported: it needs {error.name!r}, which is not installed{_line(error)}") from error
    except Exception as error:  # the user's code
        raise ExportError(f"module {module!r} cannot be imported: {describe(error)}") from error
    found = source
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [known for known in dir(found) if not known.startswith("_")], n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ExportError(f"module {module!r} has no {name!r}{hint}")
        found = getattr(found, part)
    return _called(reference, found)


def _called(reference: str, factory: object) -> tuple[torch.nn.Module, object | None]:
    made = factory
    if not isinstance(factory, torch.nn.Module):
        if not callable(factory):
            raise ExportError(f"{reference} is a {type(factory).__name__}, it cannot be called; a factory gives {CONTRACT}")
        try:
            made = factory()
        except Exception as error:  # the user's code
            raise ExportError(f"{reference} fails: {describe(error)}") from error
    if isinstance(made, torch.nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module):
        module, inputs = made
        if isinstance(inputs, Mapping | tuple | list | torch.Tensor | np.ndarray):
            return module, inputs
        raise ExportError(f"{reference} gives example inputs of type {type(inputs).__name__}; it has to give {CONTRACT}")
    raise ExportError(f"{reference} gives a {type(made).__name__}; it has to give {CONTRACT}")


def _line(error: ImportError) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    return f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
