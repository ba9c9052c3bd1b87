"""What a test sends, made from Locust's options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.calls import CallSource
from loadtests.sources.payloads import generate
from loadtests.sources.pool import Pool
from loadtests.sources.rank_json import rank_calls
from loadtests.sources.recorded import read_recorded
from loadtests.sources.service import ServedModel, check_host, fetch_model
from loadtests.sources.sizes import parse_sizes


@dataclass(frozen=True)
class Load:
    """A source with what the report says about it."""

    host: str
    model: ServedModel
    source: CallSource
    bodies: int


def make_load(host: str | None, options: Any) -> Load:
    """Ask the service for its model and make the requests for it.

    Raises
    ------
    PilotageError
        When the service serves no ranking model, or the recorded requests are of no use.
    """
    address = check_host(host or "")
    model = fetch_model(address)
    if options.requests_file:
        bodies = read_recorded(Path(options.requests_file), max_candidates=model.max_candidates)
    else:
        sizes = parse_sizes(options.candidates)
        bodies = generate(model.features, sizes=sizes, max_candidates=model.max_candidates, seed=options.payload_seed)
    return Load(address, model, Pool(rank_calls(bodies)), len(bodies))
