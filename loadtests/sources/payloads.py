"""Ranking requests as they go over the wire, serialised before the load begins.

The generator should spend its time on sending, so a *pool* of bodies is made once and sent round and round. Caches in the service see at
most the pool's ids: with ids that never repeat, measure with recorded requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from loadtests.sources.rows import Rows, make_rows
from serving.contract.fields import FeatureSpec

POOL_SIZE = 256
"""Bodies in a pool: 4 MB at 164 candidates of 8 fields, made in well under a second, and more
distinct requests than the processor's caches hold."""

TOP_K = 10
"""How many the caller wants back: one page of results."""


@dataclass(frozen=True, slots=True)
class Body:
    """One ranking request as it goes over the wire, and what must be known of it to judge its answer.

    Attributes
    ----------
    data
        The bytes, in whatever form.
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


def body_of(rows: Rows, data: bytes) -> Body:
    """Keep of `rows` what their answer is judged by."""
    return Body(data, len(rows.candidates), frozenset(candidate["id"] for candidate in rows.candidates), rows.top_k)


def json_body(rows: Rows) -> Body:
    """Write rows as ``POST /v1/rank`` takes them in JSON."""
    document = {"user": rows.user, "context": rows.context, "candidates": rows.candidates}
    return body_of(rows, msgspec.json.encode(document if rows.top_k is None else {**document, "top_k": rows.top_k}))


def generate(spec: FeatureSpec, *, sizes: Mapping[int, float], max_candidates: int, seed: int, count: int = POOL_SIZE) -> tuple[Body, ...]:
    """Make a pool of JSON bodies; see `make_rows`."""
    made = make_rows(spec, sizes=sizes, max_candidates=max_candidates, seed=seed, count=count, top_k=TOP_K)
    return tuple(map(json_body, made))
