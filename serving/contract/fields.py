"""The feature specification: the only description of preprocessing that exists.

People write it as TOML, a bundle stores it as JSON, training and serving both read it here.

A *request* ranks candidates for one user in one context. Fields of the parts ``user`` and ``context``
have one row a request, fields of the part ``candidate`` one row a candidate.

Letters in shapes, here and in every room: ``R`` requests stacked in one run, ``N`` candidates of all
these requests together, ``V`` values of a multi-valued field (padded with the field's sentinel).

Notes
-----
A categorical value becomes an embedding row inside the graph::

    hash = murmur3_32(bytes(value), seed)          # UTF-8 of a string, 8 little-endian bytes of an integer
    row  = 1 + hash mod buckets                    # row 0 is kept for "missing"

A cross hashes the combination of its members' hashes, folded from the left, never the product of tables::

    key(a, b) = (a - 2**31) * 2**32 + b            # fits an int64 exactly, for 32-bit hashes a and b
    hash      = murmur3_32(key(hash_1, hash_2), seed), then with hash_3, ...

References
----------
Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.
"""

from __future__ import annotations

import json
import tomllib
import zlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.contract.errors import SpecificationError

MISSING_STRING = "\uffff"
"""Stands for "no value" in string inputs: a Unicode noncharacter, meant for process-internal use (Unicode Standard,
section 23.7), that no real id has. A request that sends it says "no value"."""

MISSING_INTEGER = -(2**63)
"""Stands for "no value" in integer inputs; requests are bounded to the other 64-bit integers."""

REQUEST_INDEX = "request_index"
"""Name of the graph input ``(N,) int64`` that maps each candidate to its request's row."""

PROBABILITY = "probability"
"""Name of the graph output ``(N,) float32``."""

RESERVED_NAMES = (REQUEST_INDEX, PROBABILITY)

MAX_FLOAT32 = 3.4028234663852886e38
"""Largest finite float32 (IEEE 754): the graph's numbers are float32, beyond it they would be infinite."""

MIN_SCALE = 1e-30
"""Smallest ``scale``: what is divided by it stays inside float32 for inputs up to 1e8."""

SPEC_SCHEMA_VERSION: Literal[1] = 1

Part = Literal["user", "context", "candidate"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Buckets = Annotated[int, Field(ge=2, le=2**31 - 2)]
Dim = Annotated[int, Field(ge=1, le=1024)]
Missing = Literal["own", "zero", "reject"]
Unseen = Literal["shared", "mean", "zero"]
Pooling = Literal["mean", "sum", "sqrtn"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Hashed(_Frozen):
    """What every hashed field and cross has."""

    name: Name
    buckets: Buckets
    dim: Dim
    seed: Seed = 0
    """Seed of the hash. Left out, it is the CRC-32 of the name: fixed, and different for every field."""
    unseen: Unseen = "mean"
    """What a bucket that training never hit answers: whatever its row holds (``shared``), the mean of
    the rows that were hit, or zeros. An id that was never seen falls into a hit bucket at the rate of
    the table's load; then it shares that row under every rule."""

    @model_validator(mode="before")
    @classmethod
    def _seed_from_name(cls, data: object) -> object:
        if isinstance(data, dict) and "seed" not in data and isinstance(data.get("name"), str):
            return {**data, "seed": zlib.crc32(data["name"].encode())}
        return data

    @property
    def rows(self) -> int:
        """Rows of the embedding table: one a bucket and row 0 for "missing"."""
        return self.buckets + 1


class CategoricalField(_Hashed):
    """Ids: strings or 64-bit integers, one or several a row."""

    kind: Literal["categorical"] = "categorical"
    part: Part
    dtype: Literal["string", "int64"] = "string"
    missing: Missing = "own"
    """No value: a trained row of its own, zeros, or the request is refused."""
    max_values: Annotated[int, Field(ge=1, le=1000)] = 1
    """1 is a single value, more make the field a list of at most so many."""
    pooling: Pooling = "mean"
    """How the embeddings of several values become one; ``sqrtn`` is the sum over the square root of the count."""
    max_length: Annotated[int, Field(ge=1, le=4096)] = 128
    """Longest string accepted, in characters."""

    @property
    def is_list(self) -> bool:
        """Whether a row holds several values."""
        return self.max_values > 1


class NumericField(_Frozen):
    """A number: clipped, transformed, then ``(x - center) / scale``, all inside the graph."""

    kind: Literal["numeric"] = "numeric"
    name: Name
    part: Part
    missing: Literal["value", "reject"] = "value"
    missing_value: float = 0.0
    """Stands in for a missing value, before clipping."""
    min: float | None = None
    max: float | None = None
    """Values outside are clipped to the bound, not refused."""
    transform: Literal["identity", "log1p", "asinh"] = "identity"
    center: float = 0.0
    scale: float = 1.0

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> Self:
        for label in ("missing_value", "min", "max", "center", "scale"):
            value = getattr(self, label)
            if value is not None and not abs(value) <= MAX_FLOAT32:
                raise ValueError(f"{label} is {value}, it must be a finite float32 number, at most {MAX_FLOAT32:.4g} in size")
        if self.scale < MIN_SCALE:
            raise ValueError(f"scale is {self.scale}, it must be greater than 0, at least {MIN_SCALE:g}")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"min {self.min} must be below max {self.max}")
        if self.transform == "log1p" and (self.min is None or self.min <= -1):
            raise ValueError("transform 'log1p' needs min greater than -1 (usually min = 0)")
        return self


class Cross(_Hashed):
    """A hashed combination of two or more categorical fields, at most one of them a list."""

    fields: Annotated[tuple[Name, ...], Field(min_length=2, max_length=5)]
    missing: Literal["own", "zero"] = "zero"
    """Any member missing makes the combination missing: a trained row of its own, or zeros."""
    pooling: Pooling = "mean"


AnyField = Annotated[CategoricalField | NumericField, Field(discriminator="kind")]


class FeatureSpec(_Frozen):
    """All fields and crosses of one ranking model."""

    schema_version: Literal[1] = SPEC_SCHEMA_VERSION
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    fields: Annotated[tuple[AnyField, ...], Field(min_length=1, max_length=1000)]
    crosses: tuple[Cross, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [field.name for field in self.fields] + [cross.name for cross in self.crosses]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is given {names.count(name)} times, names must be unique")
            if name in RESERVED_NAMES:
                raise ValueError(f"the name {name!r} is reserved for the graph, choose another")
        if not any(field.part == "candidate" for field in self.fields):
            raise ValueError("no field has part = 'candidate', so candidates could not be told apart")
        for field in self.fields:
            if field.name == "id" and field.part != "candidate":
                raise ValueError(f"field 'id' has part {field.part!r}: 'id' is the candidate's id, choose another name")
            if field.name == "id" and (field.kind != "categorical" or field.is_list):
                raise ValueError("field 'id' must be categorical with a single value: it identifies the candidate")
        categorical = {field.name: field for field in self.categorical}
        for cross in self.crosses:
            for member in cross.fields:
                if member not in categorical:
                    kind = "a numeric field" if member in names else "not a field"
                    raise ValueError(f"cross {cross.name!r} names {member!r}, which is {kind}; it needs categorical ones")
            if len(set(cross.fields)) < len(cross.fields):
                raise ValueError(f"cross {cross.name!r} names a field twice")
            lists = [member for member in cross.fields if categorical[member].is_list]
            if len(lists) > 1:
                raise ValueError(f"cross {cross.name!r} has the lists {', '.join(lists)}; at most one member may be a list")
        return self

    @property
    def categorical(self) -> tuple[CategoricalField, ...]:
        """The categorical fields, in order."""
        return tuple(field for field in self.fields if field.kind == "categorical")

    @property
    def numeric(self) -> tuple[NumericField, ...]:
        """The numeric fields, in order."""
        return tuple(field for field in self.fields if field.kind == "numeric")

    @property
    def hashed(self) -> tuple[CategoricalField | Cross, ...]:
        """Everything that has an embedding table: categorical fields, then crosses."""
        return (*self.categorical, *self.crosses)

    def field(self, name: str) -> CategoricalField | NumericField:
        """Return the field called `name`.

        Raises
        ------
        KeyError
            When there is none.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def of_part(self, *parts: Part) -> tuple[CategoricalField | NumericField, ...]:
        """Fields of the named parts, in order."""
        return tuple(field for field in self.fields if field.part in parts)

    def is_per_candidate(self, hashed: CategoricalField | NumericField | Cross) -> bool:
        """Whether a field or cross has a row a candidate (else a row a request)."""
        if isinstance(hashed, Cross):
            return any(self.field(member).part == "candidate" for member in hashed.fields)
        return hashed.part == "candidate"

    def is_list(self, hashed: CategoricalField | Cross) -> bool:
        """Whether a field or cross has several values a row."""
        if isinstance(hashed, Cross):
            return any(field.is_list for field in self.categorical if field.name in hashed.fields)
        return hashed.is_list


def parse_spec(document: object, source: str) -> FeatureSpec:
    """Validate a specification that was read from somewhere.

    Parameters
    ----------
    document
        The parsed TOML or JSON.
    source
        Where it came from, for the message.

    Raises
    ------
    SpecificationError
        With one line a mistake, each pointing at its field.
    """
    try:
        return FeatureSpec.model_validate(document)
    except ValidationError as error:
        mistakes = error.errors()
        if any(len(e["loc"]) > 1 for e in mistakes):  # fields that fail are taken out before the list's own length is checked
            mistakes = [e for e in mistakes if not (e["type"] == "too_short" and len(e["loc"]) == 1)]
        lines = "\n".join(f"  {_place(document, e['loc'])}: {_reason(e)}" for e in mistakes)
        raise SpecificationError(f"{source} is not a valid feature specification:\n{lines}") from error


def load_spec(path: Path) -> FeatureSpec:
    """Read a specification from a ``.toml`` or ``.json`` file.

    Raises
    ------
    SpecificationError
        When the file cannot be read, parsed or validated.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SpecificationError(f"{path} cannot be read as a feature specification: {error}") from error
    return parse_spec(document, str(path))


def _place(document: object, location: tuple[int | str, ...]) -> str:
    """Turn pydantic's location into ``fields[2] 'zip_code' buckets``; drop union tags that it inserts."""
    words: list[str] = []
    here = document
    for step in location:
        if isinstance(step, int):
            here = here[step] if isinstance(here, list | tuple) and step < len(here) else None
            words[-1:] = [f"{words[-1] if words else ''}[{step}]"]
            if isinstance(here, dict) and "name" in here:
                words.append(repr(here["name"]))
        elif step in ("categorical", "numeric") and not (isinstance(here, dict) and step in here):
            continue
        else:
            here = here.get(step) if isinstance(here, dict) else None
            words.append(step)
    return " ".join(words) or "specification"


def _reason(error: object) -> str:
    assert isinstance(error, dict)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "no such setting (misspelt?)"
    if error["type"] in ("missing", "value_error"):
        return message
    shown = repr(error.get("input"))
    return f"{message}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"
