"""The report of a load test: figures computed from raw samples, as ``report.json``.

Latencies are those of *successful* requests: an error that comes back at once must not make a service look
fast. Failed requests are counted, by kind, and their latencies stated apart. How quantiles are defined
is said in ``loadtests/quantiles.py``; one that has too few samples behind it is null, not a guess.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtests.errors import NoSamples
from loadtests.quantiles import QUANTILES, quantile
from loadtests.samples import Samples
from serving.contract.errors import SettingsError
from serving.contract.files import write_bytes

REPORT_NAME = "report.json"
REPORT_SCHEMA_VERSION: Literal[1] = 1

QUANTILE_METHOD = "nearest rank on raw samples (Hyndman-Fan 1), no interpolation; null where fewer than 1/(1-q) samples"

MAX_EXACT_SIZES = 8
"""Request sizes shown one by one; recorded requests have more, and are grouped between `SIZE_EDGES`."""

SIZE_EDGES = (1, 10, 50, 100, 200, 500, 1000)

Count = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Frozen):
    """Latencies in milliseconds; a quantile is null where too few requests stand behind it."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float
    mean: float


class SizeGroup(_Frozen):
    """Successful and failed requests of similar size; latencies of the successful ones."""

    min_candidates: Count
    max_candidates: Count
    requests: Count
    latency_ms: Latency | None


class Run(_Frozen):
    """What was run: all that the samples do not say themselves.

    Attributes
    ----------
    payload
        ``generated`` from the feature specification, or ``recorded`` requests sent again.
    payload_seed
        Seed of generated requests; null for recorded ones.
    bodies
        Distinct request bodies, sent round and round.
    versions
        Of the programs that made the load.
    """

    host: str
    model_name: str
    model_version: str
    users: Annotated[int, Field(ge=1)]
    started_at: AwareDatetime
    payload: Literal["generated", "recorded"]
    payload_seed: int | None
    bodies: Annotated[int, Field(ge=1)]
    versions: dict[str, str]


class Report(Run):
    """``report.json``.

    Attributes
    ----------
    duration_s
        From the start of the first request to the end of the last one.
    requests
        Requests that ended, well or not.
    unanswered
        Requests under way when the test was cut off; in no other figure.
    throughput_rps
        Successful requests a second.
    closed_loop
        Each user waits for its answer: a service that stalls is asked less, so its tail looks better than its callers would find it.
    """

    schema_version: Literal[1] = REPORT_SCHEMA_VERSION
    duration_s: Annotated[float, Field(gt=0)]
    requests: Annotated[int, Field(ge=1)]
    failures: Count
    error_pct: Annotated[float, Field(ge=0, le=100)]
    errors: dict[str, int]
    unanswered: Count
    throughput_rps: Annotated[float, Field(ge=0)]
    received_bytes: Count
    latency_ms: Latency | None
    failed_latency_ms: Latency | None
    candidates: tuple[SizeGroup, ...]
    quantile_method: str = QUANTILE_METHOD
    closed_loop: Literal[True] = True

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(self.errors.values()) != self.failures:
            raise ValueError(f"errors by kind sum up to {sum(self.errors.values())}, failures are {self.failures}")
        if sum(group.requests for group in self.candidates) != self.requests:
            raise ValueError("the groups by candidates do not sum up to the requests")
        return self


def build_report(run: Run, samples: Samples) -> Report:
    """Compute the figures.

    Raises
    ------
    NoSamples
        When no request ended: there is nothing to say about the service, and nothing is made up.
    """
    if len(samples) == 0:
        sent = f"{samples.unanswered} were sent and none ended" if samples.unanswered else "none was sent"
        raise NoSamples(f"no request was measured ({sent}), so there is no report; look at the service's log, or give the test more time")
    failures = int(np.count_nonzero(~samples.ok))
    duration_s = float(np.max(samples.ended_s) - np.min(samples.started_s))
    # One request that ended within the clock's resolution: the smallest step a duration can have.
    duration_s = max(duration_s, 1e-9)
    return Report(
        **run.model_dump(),
        duration_s=duration_s,
        requests=len(samples),
        failures=failures,
        error_pct=100 * failures / len(samples),
        errors=dict(sorted(samples.errors.items(), key=lambda item: (-item[1], item[0]))),
        unanswered=samples.unanswered,
        throughput_rps=(len(samples) - failures) / duration_s,
        received_bytes=int(samples.answer_bytes.sum()),
        latency_ms=latency(samples.latency_ms[samples.ok]),
        failed_latency_ms=latency(samples.latency_ms[~samples.ok]),
        candidates=_by_size(samples),
    )


def latency(latencies_ms: NDArray[np.float64]) -> Latency | None:
    """Summarize latencies ``(S,) float64``; None when there are none."""
    if len(latencies_ms) == 0:
        return None
    ordered = np.sort(latencies_ms)
    figures = {name: quantile(ordered, share) for name, share in QUANTILES.items()}
    return Latency(**figures, max=float(ordered[-1]), mean=float(ordered.mean()))


def _by_size(samples: Samples) -> tuple[SizeGroup, ...]:
    distinct = np.unique(samples.size)
    if len(distinct) <= MAX_EXACT_SIZES:
        group_of = np.searchsorted(distinct, samples.size)
    else:
        group_of = np.searchsorted(np.array(SIZE_EDGES), samples.size, side="right")
    groups = []
    for group in np.unique(group_of):
        rows = group_of == group
        groups.append(
            SizeGroup(
                min_candidates=int(samples.size[rows].min()),
                max_candidates=int(samples.size[rows].max()),
                requests=int(np.count_nonzero(rows)),
                latency_ms=latency(samples.latency_ms[rows & samples.ok]),
            )
        )
    return tuple(groups)


def write_report(report: Report, target: Path) -> None:
    """Write ``report.json``, completely or not at all."""
    write_bytes(target, (report.model_dump_json(indent=2) + "\n").encode())


def read_report(path: Path) -> Report:
    """Read a ``report.json``.

    Raises
    ------
    SettingsError
        When it cannot be read or is not a report of this schema version.
    """
    try:
        return Report.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SettingsError(f"{path} cannot be read as a load test report: {error}") from error


def as_utc_text(moment: datetime) -> str:
    """Write a moment for people: ``2026-02-03 04:05:06 UTC``."""
    return f"{moment:%Y-%m-%d %H:%M:%S} {moment.tzname()}"
