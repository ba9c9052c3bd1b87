"""Typed request structures made from a feature specification, and their decoding."""

from __future__ import annotations

import math
from typing import Annotated, Any, Protocol, cast

import msgspec

from serving.contract.fields import MAX_FLOAT32, MISSING_INTEGER, MISSING_STRING, CategoricalField, FeatureSpec, NumericField, Part
from serving.features.json_bodies import UNDECODABLE, refusal_of

MAX_ID_LENGTH = 256
"""Longest candidate id, in characters, where the specification has no field ``id`` that sets its own bound."""


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
        except UNDECODABLE as error:
            raise refusal_of(body, error) from error


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
