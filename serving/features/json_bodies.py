"""JSON bodies into typed structures, and refusals that say where, which rule and which value.

The structures are msgspec types: unknown fields, wrong types, over-long strings and lists are refused by the decoder itself, in C, before
any of our code sees the values.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from serving.contract.errors import InvalidRequest, MalformedRequest, RequestError, Violation

MAX_VALUE_SHOWN = 80

MAX_PATH_SHOWN = 160
"""A path of known names is shorter (names have at most 63 characters); an unknown key is the caller's and may be of any length."""

UNDECODABLE = (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_json(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Decode one body.

    Raises
    ------
    MalformedRequest
        The body is not JSON.
    InvalidRequest
        The body breaks a rule; the violation has the path, the value and the rule.
    """
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise refusal_of(body, error) from error


def read_value(document: Any, kind: Any) -> Any:
    """Make a `kind` of a document whose numbers and truth values may be texts, as forms and queries have them.

    Raises
    ------
    InvalidRequest
        The document breaks a rule.
    """
    try:
        return msgspec.convert(document, kind, strict=False)
    except msgspec.ValidationError as error:
        raise refusal_of(msgspec.json.encode(document), error) from error


def refusal_of(body: bytes, error: Exception) -> RequestError:
    """What a caller is told of a body that could not be decoded."""
    if isinstance(error, msgspec.ValidationError):
        rule, path = _split_message(str(error))
        return invalid(Violation(path, rule, _value_at(body, path)))
    violation = _non_finite_number(body)
    return invalid(violation) if violation is not None else MalformedRequest(f"the body is not valid JSON: {error}")


def invalid(violation: Violation) -> InvalidRequest:
    """A refusal for one broken rule."""
    shown = Violation(printable(violation.path), printable(violation.rule), violation.value)
    return InvalidRequest(f"{shown.path}: {shown.rule}", [shown])


def printable(text: str) -> str:
    """Shorten `text`, which may hold a caller's key, and write out lone surrogates, which no JSON answer can carry."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_PATH_SHOWN else text[: MAX_PATH_SHOWN - 1] + "…"


def _split_message(message: str) -> tuple[str, str]:
    """Part msgspec's ``<rule> - at `$.path``` into rule and path."""
    match = re.fullmatch(r"(?P<rule>.*?)(?: - at `(?P<path>.*)`)?", message, re.DOTALL)
    if match is None:
        return message, "$"
    rule, path = match["rule"], match["path"] or "$"
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", rule, re.DOTALL)
    return ("no such field", f"{path}.{unknown[1]}") if unknown else (rule, path)


def _value_at(body: bytes, path: str) -> str | None:
    """Look up the value at `path`, to show it; the body is parsed again, which only refused requests pay for."""
    try:
        here = json.loads(body)
        for key, index in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path):
            here = here[int(index)] if index else here[key]
        return shown(here)  # writing needs as deep a stack as parsing does
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def shown(value: object) -> str:
    """`value` as JSON in ASCII, shortened."""
    if isinstance(value, list | dict) and len(value) > 8:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= MAX_VALUE_SHOWN else text[: MAX_VALUE_SHOWN - 1] + "…"


def _non_finite_number(body: bytes) -> Violation | None:
    """Find ``NaN``, ``Infinity`` or an overflowing number, which strict JSON decoders reject without a path."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    stack: list[tuple[str, Any]] = [("$", document)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return Violation(path, "numbers must be finite; leave the field out when there is no value", str(value))
        if isinstance(value, dict):
            stack.extend((f"{path}.{key}", item) for key, item in reversed(list(value.items())))
        elif isinstance(value, list):
            stack.extend((f"{path}[{i}]", item) for i, item in reversed(list(enumerate(value))))
    return None
