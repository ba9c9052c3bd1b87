"""Typed request structures made from a feature specification, and their decoding.

The structures are msgspec types: unknown fields, wrong types, over-long strings and lists are refused by
the decoder itself, in C, before any of our code sees the values.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Protocol, cast

import msgspec

from serving.contract.errors import InvalidRequest, MalformedRequest, Violation
from serving.contract.fields import MAX_FLOAT32, MISSING_INTEGER, MISSING_STRING, CategoricalField, FeatureSpec, NumericField, Part

MAX_ID_LENGTH = 256
"""Longest candidate id, in characters, where the specification has no field ``id`` that sets its own bound."""

MAX_VALUE_SHOWN = 80

MAX_PATH_SHOWN = 160
"""A path of known names is shorter (names have at most 63 characters); an unknown key is the caller's and may be of any length."""


class RankRequest(Protocol):
    """A decoded request; the parts have one attribute a field of the specification."""

    user: Any
    context: Any
    candidates: list[Any]
    top_k: int | None


class RequestDecoder:
    """Decode request bodies for one feature specification.

    Parameters
    ----------
    spec
        The fields of the model.
    max_candidates
        Most candidates that one request may have.
    """

    def __init__(self, spec: FeatureSpec, max_candidates: int) -> None:
        candidate = _part_struct(spec, "candidate")
        self.type = msgspec.defstruct(
            "RankRequest",
            [
                ("candidates", Annotated[list[candidate], msgspec.Meta(min_length=1, max_length=max_candidates)]),  # type: ignore[valid-type]
                _part_entry(spec, "user"),
                _part_entry(spec, "context"),
                ("top_k", Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None, None),
            ],
            forbid_unknown_fields=True,
            kw_only=True,
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(self.type)

    def decode(self, body: bytes) -> RankRequest:
        """Decode one JSON body.

        Raises
        ------
        MalformedRequest
            The body is not JSON.
        InvalidRequest
            The body breaks a rule; the violation has the path, the value and the rule.
        """
        try:
            return cast(RankRequest, self._decoder.decode(body))
        except msgspec.ValidationError as error:
            rule, path = _split_message(str(error))
            raise _invalid(Violation(path, rule, _value_at(body, path))) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            violation = _non_finite_number(body)
            if violation is not None:
                raise _invalid(violation) from error
            raise MalformedRequest(f"the body is not valid JSON: {error}") from error


def _invalid(violation: Violation) -> InvalidRequest:
    shown = Violation(_printable(violation.path), _printable(violation.rule), violation.value)
    return InvalidRequest(f"{shown.path}: {shown.rule}", [shown])


def _printable(text: str) -> str:
    """Shorten `text`, which may hold a caller's key, and write out lone surrogates, which no JSON answer can carry."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_PATH_SHOWN else text[: MAX_PATH_SHOWN - 1] + "…"


def _part_struct(spec: FeatureSpec, part: Part) -> type[msgspec.Struct]:
    entries: list[Any] = [_field_entry(field) for field in spec.of_part(part)]
    if part == "candidate" and not any(entry[0] == "id" for entry in entries):
        text = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
        entries.append(("id", text | _Integer))
    return msgspec.defstruct(part.capitalize(), entries, forbid_unknown_fields=True, kw_only=True, gc=False)


def _part_entry(spec: FeatureSpec, part: Part) -> Any:
    """``user`` and ``context`` may be left out when every field in them may be missing."""
    struct = _part_struct(spec, part)
    required = any(field.default is msgspec.NODEFAULT for field in msgspec.structs.fields(struct))
    return (part, struct) if required else (part, struct, msgspec.field(default_factory=struct))


_Integer = Annotated[int, msgspec.Meta(ge=MISSING_INTEGER + 1, le=2**63 - 1)]
_Number = Annotated[float, msgspec.Meta(ge=-MAX_FLOAT32, le=MAX_FLOAT32)]


def _field_entry(field: CategoricalField | NumericField) -> Any:
    """One attribute; a field that may be missing has its sentinel as default, so that nothing needs filling in later."""
    if isinstance(field, NumericField):
        return (field.name, _Number) if field.missing == "reject" else (field.name, _Number | None, math.nan)
    value: Any = Annotated[str, msgspec.Meta(max_length=field.max_length)] if field.dtype == "string" else _Integer
    must_have = field.missing == "reject" or field.name == "id"
    if field.is_list:
        values = Annotated[list[value], msgspec.Meta(min_length=int(must_have), max_length=field.max_values)]
        return (field.name, values) if must_have else (field.name, values | None, None)
    if must_have:
        return (field.name, value)
    return (field.name, value | None, MISSING_STRING if field.dtype == "string" else MISSING_INTEGER)


def _split_message(message: str) -> tuple[str, str]:
    """Part msgspec's ``<rule> - at `$.path``` into rule and path."""
    match = re.fullmatch(r"(?P<rule>.*?)(?: - at `(?P<path>.*)`)?", message, re.DOTALL)
    if match is None:
        return message, "$"
    rule, path = match["rule"], match["path"] or "$"
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", rule, re.DOTALL)
    return ("no such field in the specification", f"{path}.{unknown[1]}") if unknown else (rule, path)


def _value_at(body: bytes, path: str) -> str | None:
    """Look up the value at `path`, to show it; the body is parsed again, which only refused requests pay for."""
    try:
        here = json.loads(body)
        for key, index in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path):
            here = here[int(index)] if index else here[key]
        return _shown(here)  # writing needs as deep a stack as parsing does
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _shown(value: object) -> str:
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
