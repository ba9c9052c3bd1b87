"""The interface of all passes: one ONNX model in, another out.

A pass changes how a model is computed, never what it takes and gives: names, dtypes and ranks of inputs and outputs
stay, so that every variant fits the same bundle.
"""

from __future__ import annotations

from typing import Protocol

import onnx

from serving.contract.errors import PilotageError


class PassNotApplicable(PilotageError):
    """The pass has nothing to do on this model; the message says why."""


class Pass(Protocol):
    """One graph transformation."""

    @property
    def name(self) -> str:
        """As it appears in reports: lower case, words joined by ``_``."""
        ...

    @property
    def changes(self) -> str:
        """What it changes, in a sentence for the report."""
        ...

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a transformed copy; `model` itself is not changed.

        Raises
        ------
        PassNotApplicable
            There is nothing for this pass to do.
        """
        ...


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, weights included."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
