"""Errors that cross a room's wall, each with its meaning on the wire.

::

    PilotageError                  something is wrong and the message says what to do
    ├── SpecificationError         the feature specification contradicts itself (wrong use)
    ├── BundleError                a bundle is damaged, incomplete or does not fit (wrong use)
    ├── SettingsError              a setting is out of bounds (wrong use)
    └── RequestError               the caller's fault; ``status`` is the HTTP status code
        ├── MalformedRequest  400  the body is not what its content type says
        ├── RequestTooLarge   413  the body exceeds the byte limit
        └── InvalidRequest    422  the body is well formed, a value breaks a rule
    ServingError              5xx  our fault; the client sees the code, never the cause
    ├── NotReady              503  the model is not loaded or not yet warm
    └── ModelOutputError      500  the model answered with a number that is not one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class PilotageError(Exception):
    """Base of the errors that a person reads: what, which value, which limit, what next.

    Attributes
    ----------
    exit_code
        What a command ends with: 2 wrong use, 3 infrastructure.
    """

    exit_code = 2


class SpecificationError(PilotageError):
    """A feature specification that cannot be honoured; the message points at the field."""


class BundleError(PilotageError):
    """A bundle that must not be served; the message names the file."""


class SettingsError(PilotageError):
    """A setting outside its bounds; the message names the setting and its source."""


@dataclass(frozen=True)
class Violation:
    """One broken rule in a request.

    Attributes
    ----------
    path
        Where, in JSONPath style: ``$.candidates[3].age``.
    rule
        Which rule the value broke, in words.
    value
        The value as sent, shortened to at most 80 characters; None when there is none.
    """

    path: str
    rule: str
    value: str | None = None


class RequestError(PilotageError):
    """A request that the caller can mend.

    Parameters
    ----------
    message
        One sentence for the caller.
    violations
        The rules that were broken, if they can be told apart.
    """

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_request"

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)


class MalformedRequest(RequestError):
    """The body cannot be read as what its content type says."""

    status = 400
    code = "malformed_request"


class RequestTooLarge(RequestError):
    """The body is over the byte limit."""

    status = 413
    code = "request_too_large"


class InvalidRequest(RequestError):
    """The body can be read, but a value in it breaks a rule of the model's specification."""

    status = 422
    code = "invalid_request"


class ServingError(Exception):
    """A fault of the service; its message goes to the log, ``code`` alone to the client."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"


class NotReady(ServingError):
    """No model is loaded, or it is not warm yet."""

    status = 503
    code = "not_ready"


class ModelOutputError(ServingError):
    """The graph produced a value that is not a probability."""

    status = 500
    code = "model_output_error"
