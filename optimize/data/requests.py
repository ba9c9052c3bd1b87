"""Interactions → ranking requests as a caller would send them, for demos and load tests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from optimize.data.interactions import Interactions
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, FeatureSpec, Part

REQUEST_SIZES = (20, 50, 100, 200, 500)
REQUEST_SHARES = (0.25, 0.2, 0.4, 0.1, 0.05)
"""Candidates a request: mostly one screen's worth after retrieval, a tail of large ones. An assumption."""


def draw_requests(spec: FeatureSpec, data: Interactions, count: int, top_k: int, seed: int) -> Iterator[str]:
    """Yield `count` request bodies, each with the user and context of one row and candidates of others.

    Candidates that stand in one of the user's own lists (a history) are left out: they are not news to the user.
    """
    rng = np.random.default_rng(seed)
    ids = data.columns["id"] if "id" in data.columns else np.arange(len(data))
    _, first = np.unique(ids.astype(str), return_index=True)
    pool = [record(spec, data, row, "candidate") for row in first.tolist()]
    for candidate, row in zip(pool, first.tolist(), strict=True):
        candidate.setdefault("id", str(ids[row]))
    for row in rng.integers(0, len(data), count).tolist():
        user = record(spec, data, row, "user")
        met = {value for values in user.values() if isinstance(values, list) for value in values}
        size = int(rng.choice(REQUEST_SIZES, p=REQUEST_SHARES))
        drawn = [pool[i] for i in rng.permutation(len(pool))[: size + len(met)].tolist()]
        chosen = [candidate for candidate in drawn if candidate["id"] not in met] or drawn  # a user who has met all gets them again
        request = {"user": user, "context": record(spec, data, row, "context"), "candidates": chosen[:size], "top_k": top_k}
        yield json.dumps(request, ensure_ascii=False, separators=(",", ":"))


def record(spec: FeatureSpec, data: Interactions, row: int, part: Part) -> dict[str, Any]:
    """Values of one part of one row; missing ones are left out."""
    out: dict[str, Any] = {}
    for field in spec.of_part(part):
        value = data.columns[field.name][row]
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        if isinstance(plain, list):
            plain = [item for item in plain if not _is_missing(item)]
        if not _is_missing(plain) and plain != []:
            out[field.name] = plain
    return out


def _is_missing(value: Any) -> bool:
    return value in (MISSING_STRING, MISSING_INTEGER) or (isinstance(value, float) and math.isnan(value))


def write_lines(lines: Iterable[str]) -> str:
    """Join request bodies to the text of a ``.jsonl`` file."""
    return "".join(f"{line}\n" for line in lines)
