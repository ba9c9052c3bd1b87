"""Ranking requests made up from a feature specification, serialised before the load begins.

The generator should spend its time on sending, so a *pool* of bodies is made once and sent round and
round. Same specification, options and seed: same bytes, on every machine; only ``random.Random.random``
is drawn from, whose sequence Python promises to keep.

What is realistic about them:

* ids are Zipf distributed (exponent 1): few are asked for very often, most hardly ever;
* lists have between one value and ``max_values``, mostly few (Zipf again);
* numbers lie inside their bounds, spread as the field's ``transform`` suggests;
* one value in twenty is missing where the specification allows it.

Caches in the service see at most the pool's ids: with ids that never repeat, measure with recorded requests.

References
----------
Breslau et al., "Web Caching and Zipf-like Distributions: Evidence and Implications", INFOCOM 1999
(exponents of 0.64 to 0.83 for pages; 1 is the heavier head that ids of users and items tend to have).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from loadtests.sources.sizes import allot, capped
from serving.contract.fields import CategoricalField, FeatureSpec, NumericField, Part

POOL_SIZE = 256
"""Bodies in a pool: some 5 MB at 164 candidates of 8 fields, made in well under a second, and more
distinct requests than the processor's caches hold."""

TOP_K = 10
"""How many the caller wants back: one page of results."""

MISSING_SHARE = 0.05
"""Share of values left out where that is allowed: enough that every body of the pool has some."""

IDS_A_BUCKET = 4
"""Distinct ids of a field for each of its hash buckets. Above 1, because hashing is there for vocabularies that do not fit."""

ITEM_IDS = 1_000_000
"""Distinct candidate ids where the specification has no field ``id``."""

MAX_NUMBER = 1e38
"""Bound on made-up numbers: requests carry float32, whose largest is 3.4e38."""

MAX_EXPONENT = 60.0
"""Bound on what ``expm1`` and ``sinh`` are asked for: e**60 is still far inside float32."""


Draw = Callable[[], float]
"""Gives numbers of [0, 1)."""


@dataclass(frozen=True, slots=True)
class Body:
    """One request as it goes over the wire.

    Attributes
    ----------
    data
        JSON in UTF-8.
    candidates
        How many it ranks.
    ids
        Their ids, to check answers with.
    top_k
        How many the answer should have at most; None asks for all.
    """

    data: bytes
    candidates: int
    ids: frozenset[str | int]
    top_k: int | None


def generate(spec: FeatureSpec, *, sizes: Mapping[int, float], max_candidates: int, seed: int, count: int = POOL_SIZE) -> tuple[Body, ...]:
    """Make a pool of bodies.

    Parameters
    ----------
    spec
        Fields of the model that is served.
    sizes
        Weights by number of candidates; sizes above `max_candidates` are cut to it.
    max_candidates
        Most candidates that the service takes in one request.
    seed
        Same seed, same bytes.
    count
        How many bodies.
    """
    draw = random.Random(seed).random  # noqa: S311 - made-up requests, no secret
    order = sorted((draw(), size) for size in allot(capped(sizes, max_candidates), count))
    return tuple(_body(spec, size, draw) for _, size in order)


def _body(spec: FeatureSpec, size: int, draw: Draw) -> Body:
    candidates: list[dict[str, Any]] = []
    taken: set[str | int] = set()
    for _ in range(size):
        candidate = _part(spec, "candidate", draw)
        candidate["id"] = _new_id(spec, taken, draw)
        taken.add(candidate["id"])
        candidates.append(candidate)
    request = {"user": _part(spec, "user", draw), "context": _part(spec, "context", draw), "candidates": candidates, "top_k": TOP_K}
    return Body(data=msgspec.json.encode(request), candidates=size, ids=frozenset(taken), top_k=TOP_K)


def _part(spec: FeatureSpec, part: Part, draw: Draw) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field in spec.of_part(part):
        if field.name == "id":
            continue
        if field.missing != "reject" and draw() < MISSING_SHARE:
            # Callers do both: leave the key out, and send null.
            if draw() < 0.5:
                row[field.name] = None
            continue
        row[field.name] = _number(field, draw) if isinstance(field, NumericField) else _ids(field, draw)
    return row


def _ids(field: CategoricalField, draw: Draw) -> Any:
    distinct = IDS_A_BUCKET * field.buckets
    if not field.is_list:
        return _id(field, _zipf(distinct, draw))
    return [_id(field, _zipf(distinct, draw)) for _ in range(_zipf(field.max_values, draw))]


def _id(field: CategoricalField, rank: int) -> str | int:
    """Name the id of popularity `rank`; the tail of the string is kept where the field is short, since it tells ids apart."""
    return rank if field.dtype == "int64" else f"{field.name}-{rank}"[-field.max_length :]


def _new_id(spec: FeatureSpec, taken: set[str | int], draw: Draw) -> str | int:
    """Draw a candidate id that the request does not have yet; the next free rank when a popular one is taken."""
    field = next((field for field in spec.categorical if field.name == "id"), None)
    distinct = IDS_A_BUCKET * field.buckets if field else ITEM_IDS
    rank = _zipf(distinct, draw)
    new: str | int = ""
    # One try more than ids are taken finds a free one, unless a short max_length has run out of names:
    # then an id is repeated.
    for tried in range(len(taken) + 1):
        new = f"item-{rank + tried}" if field is None else _id(field, rank + tried)
        if new not in taken:
            break
    return new


def _zipf(largest: int, draw: Draw) -> int:
    """Draw a rank from 1 to `largest` with P(rank) close to 1/rank, by inverting the distribution."""
    return min(largest, int(math.exp(draw() * math.log(largest + 1))))


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
