"""Calls to a ranking model, made up or recorded, in any of the three forms."""

from __future__ import annotations

from collections.abc import Iterator

from loadtests.calls import Call
from loadtests.sources.envelope import Envelope
from loadtests.sources.infer import infer_call, infer_path
from loadtests.sources.payloads import json_body
from loadtests.sources.rank_arrow import arrow_call
from loadtests.sources.rank_json import RANK_PATH, json_call
from loadtests.sources.recorded import read_recorded, rows_of
from loadtests.sources.rows import Rows, Values, make_rows
from loadtests.sources.service import Ranker
from loadtests.sources.sizes import parse_sizes
from loadtests.sources.traffic import RankRequests


def ranking_path(entry: RankRequests, model: Ranker) -> str:
    """Where such requests go."""
    if entry.endpoint == "infer":
        return infer_path(model.name)
    return RANK_PATH if entry.model is None else f"/v1/models/{model.name}/rank"


def ranking_calls(entry: RankRequests, model: Ranker, envelope: Envelope, values: Values, seed: int) -> Iterator[Call]:
    """Make the calls of one entry.

    Raises
    ------
    SettingsError
        Recorded requests cannot be read or have not this model's fields, or `values` names fields that it has not.
    """
    if entry.recorded is not None and entry.endpoint == "rank":
        return (json_call(body, envelope) for body in read_recorded(entry.recorded, max_candidates=model.max_candidates))
    return (_written(entry, model, rows, envelope) for rows in _rows(entry, model, values, seed))


def _rows(entry: RankRequests, model: Ranker, values: Values, seed: int) -> Iterator[Rows]:
    if entry.recorded is not None:
        return (rows_of(body, model.features) for body in read_recorded(entry.recorded, max_candidates=model.max_candidates))
    return make_rows(
        model.features,
        sizes=parse_sizes(entry.candidates),
        max_candidates=model.max_candidates,
        seed=seed,
        count=entry.bodies,
        top_k=entry.top_k or None,
        values=values,
    )


def _written(entry: RankRequests, model: Ranker, rows: Rows, envelope: Envelope) -> Call:
    if entry.endpoint == "rank":
        return json_call(json_body(rows), envelope)
    return (arrow_call if entry.endpoint == "rank-arrow" else infer_call)(model.features, rows, envelope)
