"""The report of a load test, as ``report.json``: what was run, whether it can be trusted, its figures, and the verdict on its objectives.

Figures stand for all requests at the top and again for each endpoint and each arm; how they are computed is said in
``loadtests/figures.py``. ``pilotage loadtest schema`` prints the JSON schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AwareDatetime, Field, ValidationError, model_validator

from loadtests.early_stopping import EarlyStopping, Looks, Stop
from loadtests.errors import NoSamples
from loadtests.figures import Count, Figures, Frozen, figures
from loadtests.judge import Verdict
from loadtests.lag import GeneratorLag, assess
from loadtests.objectives import Objective, judge_samples, unfit
from loadtests.quantiles import CONFIDENCE
from loadtests.samples import Samples
from loadtests.server_side import ServerSide
from serving.contract.errors import SettingsError
from serving.contract.files import write_bytes

REPORT_NAME = "report.json"
REPORT_SCHEMA_VERSION: Literal[2] = 2

QUANTILE_METHOD = "nearest rank on raw samples (Hyndman-Fan 1), no interpolation; null where fewer than 1/(1-q) samples"
INTERVAL_METHOD = (
    f"{CONFIDENCE:.0%} by order statistics (binomial), with requests that are slow together counted as fewer (design effect by batch means)"
)


class Sent(Frozen):
    """One kind of request.

    Attributes
    ----------
    model
        Whom it asked, name and version.
    weight
        Share of the requests, against the other kinds' weights.
    bodies
        Distinct bodies, sent round and round.
    recorded
        Whether they were recorded, not made up.
    """

    endpoint: str
    model: str
    weight: float
    bodies: Annotated[int, Field(ge=1)]
    recorded: bool


class Run(Frozen):
    """What was run: all that the samples do not say themselves.

    Attributes
    ----------
    profile
        Name of the load profile; empty where there was none.
    users
        Users of a closed loop; in an open loop, the most that may wait for an answer at a time.
    arrivals
        The schedule of an open loop, as in the profile; null in a closed loop.
    sent
        What was sent, by endpoint.
    seed
        Of schedule, arms and bodies: same seed, same bytes.
    arms
        Where the requests of each arm went, by its name; empty where no arms were asked for.
    versions
        Of the programs that made the load.
    """

    host: str
    model_name: str
    model_version: str
    profile: str = ""
    users: Annotated[int, Field(ge=1)]
    started_at: AwareDatetime
    arrivals: dict[str, Any] | None = None
    sent: Annotated[tuple[Sent, ...], Field(min_length=1)]
    seed: int = 0
    arms: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str]


class Asked(Frozen):
    """What a run is held against.

    Attributes
    ----------
    max_failures
        More failed requests than these fail the run, whatever their share; null: the objectives alone decide.
    compare
        Names of the canary's and the baseline's arm, where one is compared with the other.
    planned
        Requests that were to be sent; early stopping looks at even distances on the way there.
    """

    objectives: tuple[Objective, ...] = ()
    max_failures: Count | None = None
    compare: tuple[str, str] | None = None
    early_stopping: EarlyStopping | None = None
    planned: Count | None = None


class Part(Figures):
    """Figures of one endpoint, of one arm, or of one endpoint in one arm; null means all."""

    endpoint: str | None
    arm: str | None


Status = Literal["pass", "fail", "inconclusive", "done"]


class Report(Run, Figures):
    """``report.json``.

    Attributes
    ----------
    status
        ``done`` where nothing was asked of the run.
    valid, invalid_reasons
        Whether the figures describe the service, and not a generator that fell behind.
    asked
        What the run was held against.
    duration_s
        From the start of the first request to the end of the last one.
    offered_rps
        Requests a second that were due in an open loop; null in a closed one, which asks for as many as are answered.
    open_loop
        Latency counts from the intended start. In a closed loop each user waits for its answer: a service that stalls is asked less, so its
        tail looks better than its callers would find it.
    unanswered
        Requests under way when the test was cut off, and in no other figure.
    cut_short
        The test was ended before its time: by a person, or because the verdict was known.
    generator
        Whether the load generator kept to its schedule.
    parts
        By endpoint and by arm, where there are several.
    verdict
        On the objectives, by ``loadtests.judge``; null where there are none.
    early_stopping
        Null where it was not asked for, or no look was reached.
    """

    schema_version: Literal[2] = REPORT_SCHEMA_VERSION
    status: Status
    sentence: str
    valid: bool
    invalid_reasons: tuple[str, ...]
    asked: Asked
    duration_s: Annotated[float, Field(gt=0)]
    offered_rps: float | None
    open_loop: bool
    unanswered: Count
    cut_short: bool
    generator: GeneratorLag
    parts: tuple[Part, ...]
    verdict: Verdict | None
    early_stopping: Stop | None
    server: ServerSide
    quantile_method: str = QUANTILE_METHOD
    interval_method: str = INTERVAL_METHOD

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(self.errors.values()) != self.failures:
            raise ValueError(f"errors by kind sum up to {sum(self.errors.values())}, failures are {self.failures}")
        if sum(group.requests for group in self.sizes) != self.requests:
            raise ValueError("the groups by size do not sum up to the requests")
        if self.status == "pass" and not self.valid:
            raise ValueError("it passes although it is not valid")
        return self


def build_report(run: Run, samples: Samples, asked: Asked | None = None, server: ServerSide | None = None) -> Report:
    """Compute the figures and judge them.

    Raises
    ------
    NoSamples
        When no request ended: there is nothing to say about the service, and nothing is made up.
    """
    if len(samples) == 0:
        sent = f"{samples.unanswered} were sent and none ended" if samples.unanswered else "none was sent"
        raise NoSamples(f"no request was measured ({sent}), so there is no report; look at the service's log, or give the test more time")
    asked = asked or Asked()
    # One request that ended within the clock's resolution: the smallest step a duration can have.
    duration_s = max(float(np.max(samples.ended_s) - np.min(samples.started_s)), 1e-9)
    within_ms = _within_ms(asked.objectives, None)
    whole = figures(samples, duration_s, within_ms)
    generator = assess(samples)
    reasons = unfit(samples)
    verdict = judge_samples(samples, asked.objectives, compare=asked.compare)
    stop = None if asked.early_stopping is None else looked_at(asked.early_stopping, samples, asked.planned or len(samples))
    status, sentence = _status(asked, whole, verdict, stop, reasons)
    return Report(
        **run.model_dump(),
        **dict(whole),
        status=status,
        sentence=sentence,
        valid=not reasons,
        invalid_reasons=reasons,
        asked=asked,
        duration_s=duration_s,
        offered_rps=_offered_rps(samples),
        open_loop=samples.open_loop,
        unanswered=samples.unanswered,
        cut_short=samples.cut_short,
        generator=generator,
        parts=tuple(_parts(samples, duration_s, asked.objectives)),
        verdict=verdict,
        early_stopping=stop,
        server=server or ServerSide(missing="the service's metrics were not asked for"),
    )


def looked_at(settings: EarlyStopping, samples: Samples, planned: int) -> Stop | None:
    """Last look at a run that is over; None where none was reached. Requests that were never sent or answered count as over the limit."""
    over = ~samples.ok | (samples.latency_ms > settings.limit_ms)
    lost = np.ones(samples.unanswered + samples.unsent, dtype=np.bool_)
    looks = Looks(settings, planned)
    looks.see(np.concatenate([over[np.argsort(samples.intended_s, kind="stable")], lost]))
    return looks.last


def _status(asked: Asked, whole: Figures, verdict: Verdict | None, stop: Stop | None, reasons: tuple[str, ...]) -> tuple[Status, str]:
    """What became of the run, and a sentence; what is shown to be bad comes before what is not known."""
    if asked.max_failures is not None and whole.failures > asked.max_failures:
        return "fail", f"Failed: {whole.failures:,} of {whole.requests:,} requests failed, {asked.max_failures:,} are allowed."
    if reasons:
        return "inconclusive", f"Not judged: {'; '.join(reasons)}."
    statuses: list[Status] = [] if verdict is None else [verdict.status]
    sentences = [] if verdict is None else [verdict.sentence]
    if asked.early_stopping is not None:
        outcomes: dict[str | None, Status] = {"met": "pass", "missed": "fail"}
        statuses.append(outcomes.get(stop.outcome if stop else None, "inconclusive"))
        sentences.append(_stopped(asked.early_stopping, stop))
    for status in ("fail", "inconclusive", "pass"):
        if status in statuses:
            return status, sentences[statuses.index(status)]
    return "done", f"Done: {whole.requests:,} requests, {whole.failures:,} failed. The profile has no objectives, so nothing was judged."


def _stopped(settings: EarlyStopping, stop: Stop | None) -> str:
    limit = f"p{100 * settings.quantile:.6g} within {settings.limit_ms:g} ms"
    if stop is None:
        return f"Undecided: the run ended before the first look at {limit}."
    after = f"after {stop.requests:,} requests, {stop.over:,} of them over"
    if stop.outcome == "met":
        return f"Passed: {limit} is shown {after}; {stop.needed:,} were needed."
    if stop.outcome == "missed":
        return f"Failed: {limit} is shown to be missed {after}."
    return f"Undecided: {limit} is not shown {after}; {stop.needed:,} requests are needed."


def _offered_rps(samples: Samples) -> float | None:
    span_s = float(np.ptp(samples.intended_s))
    if not samples.open_loop or span_s <= 0:
        return None
    return (len(samples) + samples.unanswered + samples.unsent - 1) / span_s


def _within_ms(objectives: tuple[Objective, ...], endpoint: str | None) -> float | None:
    """How soon an answer must come to be of use: by the endpoint's own objective, else by the one for all."""
    for name in (endpoint, None):
        for objective in objectives:
            if objective.endpoint == name and objective.within_ms is not None:
                return objective.within_ms
    return None


def _parts(samples: Samples, duration_s: float, objectives: tuple[Objective, ...]) -> Iterator[Part]:
    endpoints: list[str | None] = [None, *(samples.endpoints if len(samples.endpoints) > 1 else ())]
    arms: list[str | None] = [None, *(samples.arms if len(samples.arms) > 1 else ())]
    for arm in arms:
        for endpoint in endpoints:
            rows = part_of(samples, endpoint, arm)
            if (arm or endpoint) and len(rows):
                yield Part(**dict(figures(rows, duration_s, _within_ms(objectives, endpoint))), endpoint=endpoint, arm=arm)


def part_of(samples: Samples, endpoint: str | None, arm: str | None) -> Samples:
    """Rows of an endpoint, of an arm, or of both; None means all."""
    chosen = np.ones(len(samples), dtype=np.bool_)
    if endpoint is not None:
        chosen &= samples.endpoint == samples.endpoints.index(endpoint)
    if arm is not None:
        chosen &= samples.arm == samples.arms.index(arm)
    return samples.rows(chosen)


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
