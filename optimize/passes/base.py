"""The interface of all passes: one ONNX model in, another out.

A pass changes how a model is computed, never what it takes and gives: names, dtypes and ranks of inputs and outputs
stay, so that every variant fits the same bundle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy.typing as npt
import onnx

from serving.contract.errors import PilotageError

Feeds = Mapping[str, npt.NDArray[Any]]
"""Name of a graph input → its array, for one run."""

Need = Literal["calibration"]


class PassNotApplicable(PilotageError):
    """The pass has nothing to do on this model; the message says why."""


class CalibrationError(PilotageError):
    """Calibration data that is missing, too small, or does not fit the model's inputs."""


class OptionError(PilotageError, ValueError):
    """An option of a pass that is outside its bounds."""


@dataclass(frozen=True)
class Context:
    """What a pass may use beside the model.

    Attributes
    ----------
    calibration
        Feeds of runs as the model will serve them, for passes whose `Pass.needs` has ``"calibration"``.
    """

    calibration: Sequence[Feeds] = ()


NOTHING = Context()


@dataclass(frozen=True)
class Pass(ABC):
    """One graph transformation. Options are the fields of the subclass, a frozen dataclass; all have defaults.

    Attributes
    ----------
    kind
        As in `optimize.passes.registry`: lower case, words joined by ``_``.
    needs
        What of `Context` it cannot do without.
    """

    kind: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()

    @property
    def name(self) -> str:
        """As it appears in reports: the kind and what differs from the defaults, ``int8_static:method=entropy``."""
        changed = [f"{f.name}={shown(getattr(self, f.name))}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.kind}:{','.join(changed)}" if changed else self.kind

    @property
    @abstractmethod
    def changes(self) -> str:
        """What it changes, in a sentence for the report."""

    @abstractmethod
    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return a transformed copy; `model` itself is not changed.

        Raises
        ------
        PassNotApplicable
            There is nothing for this pass to do.
        CalibrationError
            It needs calibration data, and what `context` has does not do.
        """


def require_share(kind: str, option: str, value: float) -> None:
    """Check an option that is a share.

    Raises
    ------
    OptionError
        It is not above 0 and below 1.
    """
    if not 0 < value < 1:
        raise OptionError(f"pass {kind!r}: {option}={value} is no share; it must be above 0 and below 1")


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, weights included."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def shown(value: object) -> str:
    """The value of an option as people type it."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
