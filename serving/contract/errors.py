"""Errors that cross a room's wall, each with its meaning on the wire.

::

    PilotageError                  something is wrong and the message says what to do
    ├── SpecificationError         the feature specification contradicts itself (wrong use)
    ├── BundleError                a bundle is damaged, incomplete or does not fit (wrong use)
    ├── SettingsError              a setting is out of bounds (wrong use)
    └── RequestError               the caller's fault; ``status`` is the HTTP status code
        ├── MalformedRequest  400  the body is not what its content type says
        ├── Unauthorized      401  no bearer token, or a wrong one
        ├── UnknownModel      404  no model of this name or version is loaded
        ├── NotAcceptable     406  no form of answer that the caller takes
        ├── RequestTooLarge   413  the body exceeds the byte limit
        │   └── ImageTooLarge      an image has too many bytes or pixels, or is built to keep a decoder busy
        ├── UnsupportedMedia  415  a content type or content encoding that is not read
        │   └── UnsupportedImage   an image of a format that is not read, or no image at all
        └── InvalidRequest    422  the body is well formed, a value breaks a rule
            └── UnreadableImage    an image is damaged or cut off
    ServingError              5xx  our fault; the client sees the code, never the cause
    ├── NotReady              503  the model is not loaded or not yet warm
    ├── Overloaded            503  the answer would come too late: refused at once, with Retry-After
    ├── DeadlineExceeded      504  the answer would come after the caller's own deadline
    └── ModelOutputError      500  the model answered with a number that is not one
    CallerGone                     the caller closed the connection: there is nobody to answer
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


class Unauthorized(RequestError):
    """The request carries no bearer token that is known."""

    status = 401
    code = "unauthorized"


class UnknownModel(RequestError):
    """No model of this name, or of this version, is loaded."""

    status = 404
    code = "unknown_model"


class MethodNotAllowed(RequestError):
    """The route is there, but does not take this method."""

    status = 405
    code = "method_not_allowed"


class NotAcceptable(RequestError):
    """The caller takes none of the forms in which an answer can be given."""

    status = 406
    code = "not_acceptable"


class RequestTooLarge(RequestError):
    """The body is over the byte limit."""

    status = 413
    code = "request_too_large"


class ImageTooLarge(RequestTooLarge):
    """An image is over a limit, in bytes or in what decoding it would cost."""

    code = "image_too_large"


class UnsupportedMedia(RequestError):
    """The body has a content type or a content encoding that is not read here."""

    status = 415
    code = "unsupported_media_type"


class UnsupportedImage(UnsupportedMedia):
    """What was sent as an image has a format that is not read here, or is no image."""

    code = "unsupported_image"


class InvalidRequest(RequestError):
    """The body can be read, but a value in it breaks a rule of the model's specification."""

    status = 422
    code = "invalid_request"


class UnreadableImage(InvalidRequest):
    """An image of a format that is read here cannot be decoded: it is damaged or cut off."""

    code = "unreadable_image"


class ServingError(Exception):
    """A fault of the service; its message goes to the log, ``code`` alone to the client."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"


class NotReady(ServingError):
    """No model is loaded, or it is not warm yet."""

    status = 503
    code = "not_ready"


class Overloaded(ServingError):
    """The answer would not come within the objective; nothing was done for the request."""

    status = 503
    code = "overloaded"


class DeadlineExceeded(ServingError):
    """The answer would not come before the caller's deadline; the graph was not run."""

    status = 504
    code = "deadline_exceeded"


class ModelOutputError(ServingError):
    """The graph produced a value that is not a probability."""

    status = 500
    code = "model_output_error"


class CallerGone(Exception):
    """The caller closed the connection before it was answered: there is nobody to tell."""
