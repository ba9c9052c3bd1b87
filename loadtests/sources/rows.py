"""Ranking requests made up from a feature specification, as rows of plain values.

Same specification, settings and seed: same values, on every machine; only ``random.Random.random`` is drawn from, whose sequence Python
promises to keep. What is realistic about them:

* ids are Zipf distributed: few are asked for very often, most hardly ever;
* lists have between one value and ``max_values``, mostly few (Zipf again);
* numbers lie inside their bounds, spread as the field's ``transform`` suggests;
* some values are missing where the specification allows it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from loadtests.sources.sizes import capped
from loadtests.sources.weights import allot
from loadtests.sources.zipf import Draw, zipf
from serving.contract.errors import SettingsError
from serving.contract.fields import CategoricalField, FeatureSpec, NumericField, Part

IDS_A_BUCKET = 4
"""Distinct ids of a field for each of its hash buckets, where the settings do not say. Above 1, because hashing is there for
vocabularies that do not fit."""

ITEM_IDS = 1_000_000
"""Distinct candidate ids where the specification has no field ``id``."""

MAX_NUMBER = 1e38
"""Bound on made-up numbers: requests carry float32, whose largest is 3.4e38."""

MAX_EXPONENT = 60.0
"""Bound on what ``expm1`` and ``sinh`` are asked for: e**60 is still far inside float32."""


class Values(BaseModel):
    """How values are made up.

    Attributes
    ----------
    zipf_exponent
        Of ids and of the lengths of lists. 1 is the heavier head that ids of users and items tend to have; pages have 0.64 to 0.83; 0 asks
        for all ids alike, the hardest case for every cache.
    missing_pct
        Share of values left out where that is allowed, in percent; half of them as ``null``. 5 so that every pool has some.
    distinct_ids
        Distinct ids by name of field; of others there are `IDS_A_BUCKET` for each of their buckets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    zipf_exponent: Annotated[float, Field(ge=0, le=4)] = 1.0
    missing_pct: Annotated[float, Field(ge=0, le=100)] = 5.0
    distinct_ids: dict[str, Annotated[int, Field(ge=1, le=2**53)]] = {}


@dataclass(frozen=True, slots=True)
class Rows:
    """One ranking request.

    Attributes
    ----------
    user, context
        Value by name of field.
    candidates
        One row each, with its ``id``.
    top_k
        How many the answer should have at most; None asks for all.
    """

    user: Mapping[str, Any]
    context: Mapping[str, Any]
    candidates: list[dict[str, Any]]
    top_k: int | None


def make_rows(
    spec: FeatureSpec,
    *,
    sizes: Mapping[int, float],
    max_candidates: int,
    seed: int,
    count: int,
    top_k: int | None,
    values: Values | None = None,
) -> Iterator[Rows]:
    """Make up requests, one at a time: all of them as Python values would take ten times the memory of their bytes.

    Parameters
    ----------
    spec
        Fields of the model that is served.
    sizes
        Weights by number of candidates; sizes above `max_candidates` are cut to it.
    max_candidates
        Most candidates that the service takes in one request.
    seed
        Same seed, same values.
    count
        How many requests.
    top_k
        What each asks for.
    values
        How values are made up; by default as `Values` says.

    Raises
    ------
    SettingsError
        `values` names a field that the specification has not, or that has no ids.
    """
    maker = _Maker(spec, values or Values(), random.Random(seed).random)  # noqa: S311 - made-up requests, no secret
    order = sorted((maker.draw(), size) for size in allot(capped(sizes, max_candidates), count))
    return (maker.rows(size, top_k) for _, size in order)


class _Maker:
    def __init__(self, spec: FeatureSpec, values: Values, draw: Draw) -> None:
        known = {field.name for field in spec.categorical} | {"id"}
        for name in values.distinct_ids:
            if name not in known:
                raise SettingsError(f"distinct_ids names {name!r}, the model has no such field with ids; it has {', '.join(sorted(known))}")
        self._spec = spec
        self._exponent = values.zipf_exponent
        self._missing_share = values.missing_pct / 100
        self._id_field = next((field for field in spec.categorical if field.name == "id"), None)
        self._distinct = {field.name: IDS_A_BUCKET * field.buckets for field in spec.categorical}
        self._distinct = {"id": ITEM_IDS, **self._distinct, **values.distinct_ids}
        self.draw = draw

    def rows(self, size: int, top_k: int | None) -> Rows:
        """Make up one request of `size` candidates."""
        candidates: list[dict[str, Any]] = []
        taken: set[str | int] = set()
        for _ in range(size):
            candidate = self._part("candidate")
            candidate["id"] = self._new_id(taken)
            taken.add(candidate["id"])
            candidates.append(candidate)
        return Rows(self._part("user"), self._part("context"), candidates, top_k)

    def _part(self, part: Part) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for field in self._spec.of_part(part):
            if field.name == "id":
                continue
            if field.missing != "reject" and self.draw() < self._missing_share:
                # Callers do both: leave the key out, and send null.
                if self.draw() < 0.5:
                    row[field.name] = None
                continue
            row[field.name] = _number(field, self.draw) if isinstance(field, NumericField) else self._ids(field)
        return row

    def _ids(self, field: CategoricalField) -> Any:
        if not field.is_list:
            return self._id(field)
        return [self._id(field) for _ in range(zipf(field.max_values, self._exponent, self.draw))]

    def _id(self, field: CategoricalField) -> str | int:
        return _named(field, zipf(self._distinct[field.name], self._exponent, self.draw))

    def _new_id(self, taken: set[str | int]) -> str | int:
        """Draw a candidate id that the request does not have yet; the next free rank when a popular one is taken."""
        rank = zipf(self._distinct["id"], self._exponent, self.draw)
        new: str | int = ""
        # One try more than ids are taken finds a free one, unless a short max_length has run out of names:
        # then an id is repeated.
        for tried in range(len(taken) + 1):
            new = f"item-{rank + tried}" if self._id_field is None else _named(self._id_field, rank + tried)
            if new not in taken:
                break
        return new


def _named(field: CategoricalField, rank: int) -> str | int:
    """Name the id of popularity `rank`; the tail of the string is kept where the field is short, since it tells ids apart."""
    return rank if field.dtype == "int64" else f"{field.name}-{rank}"[-field.max_length :]


def _number(field: NumericField, draw: Draw) -> float:
    """Draw where the model expects values.

    Evenly between both bounds on the transformed scale, or around ``center`` with spread ``scale`` (which
    training set from the data) where a bound is open. Six digits, as people log them.
    """
    share = draw()
    if field.min is not None and field.max is not None:
        low, high = _transformed(field, max(field.min, -MAX_NUMBER)), _transformed(field, min(field.max, MAX_NUMBER))
        transformed = low + share * (high - low)
    else:
        share = min(max(share, 1e-9), 1 - 1e-9)
        transformed = field.center + field.scale * math.log(share / (1 - share))
    value = float(f"{_restored(field, transformed):.6g}")
    if field.min is not None:
        value = max(value, field.min)
    return value if field.max is None else min(value, field.max)


def _transformed(field: NumericField, value: float) -> float:
    return {"identity": float, "log1p": math.log1p, "asinh": math.asinh}[field.transform](value)


def _restored(field: NumericField, value: float) -> float:
    if field.transform == "identity":
        return value
    value = min(max(value, -MAX_EXPONENT), MAX_EXPONENT)
    return math.expm1(value) if field.transform == "log1p" else math.sinh(value)
