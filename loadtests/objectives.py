"""Objectives of a load test: limits per endpoint, and the verdict on a run's samples.

They are judged by ``loadtests.judge``, which says ``inconclusive`` where there are too few requests to know, and never passes a run whose
generator fell behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtests.batches import arm_of, batch_of
from loadtests.judge import (
    CANARY_OBJECTIVES,
    Batch,
    ErrorLimit,
    GoodputLimit,
    Judge,
    JudgeError,
    Policy,
    QuantileLimit,
    Verdict,
)
from loadtests.judge import Objective as Asked
from loadtests.judge.sentences import percent
from loadtests.lag import assess
from loadtests.samples import Samples
from serving.contract.errors import SettingsError

QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}

Limit = Annotated[float, Field(gt=0)]
Percent = Annotated[float, Field(gt=0, lt=100)]


class Objective(BaseModel):
    """One table ``[[objective]]`` of a load profile.

    Attributes
    ----------
    endpoint
        Whose requests; all, where it is None.
    p50_ms, p95_ms, p99_ms
        Limits of the quantiles of latency.
    max_error_pct
        Limit of the share of failed requests.
    min_goodput_pct, within_ms
        Least share of requests that are answered well within so many milliseconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = None
    p50_ms: Limit | None = None
    p95_ms: Limit | None = None
    p99_ms: Limit | None = None
    max_error_pct: Percent | None = None
    min_goodput_pct: Percent | None = None
    within_ms: Limit | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if (self.min_goodput_pct is None) != (self.within_ms is None):
            raise ValueError("min_goodput_pct and within_ms belong together: give both, or neither")
        if not list(self.limits()):
            raise ValueError("it sets no limit: give p50_ms, p95_ms, p99_ms, max_error_pct, or min_goodput_pct with within_ms")
        return self

    def limits(self) -> Iterator[Asked]:
        """What it asks of the judge."""
        for name, quantile in QUANTILES.items():
            limit_ms = getattr(self, name)
            if limit_ms is not None:
                yield QuantileLimit(quantile=quantile, limit_ms=limit_ms, endpoint=self.endpoint)
        if self.max_error_pct is not None:
            yield ErrorLimit(max_error_pct=self.max_error_pct, endpoint=self.endpoint)
        if self.min_goodput_pct is not None and self.within_ms is not None:
            yield GoodputLimit(min_goodput_pct=self.min_goodput_pct, within_ms=self.within_ms, endpoint=self.endpoint)


def parse_objective(text: str) -> Objective:
    """Read ``p99_ms=50,max_error_pct=0.5``, or with an endpoint before it, ``rank:p99_ms=50``.

    Raises
    ------
    SettingsError
        It is not written like that, or sets no limit that there is.
    """
    endpoint, colon, rest = text.rpartition(":")
    table: dict[str, str] = {"endpoint": endpoint} if colon else {}
    for part in rest.split(","):
        name, equals, value = part.partition("=")
        if not equals or name.strip() == "endpoint":
            raise SettingsError(f"objective {text!r}: {part!r} is not NAME=NUMBER, for example rank:p99_ms=50,max_error_pct=0.5")
        table[name.strip()] = value
    try:
        return Objective.model_validate(table)
    except ValueError as error:
        raise SettingsError(f"objective {text!r}: {error}") from error


class Judged:
    """A run under judgement; may be asked at any time.

    Parameters
    ----------
    objectives
        At least one, or `compare`.
    compare
        Names of the canary's arm and the baseline's. The canary is then compared with the baseline, too, and limits hold for it alone.
    planned
        Requests that are to be sent; the judge's intervals are tightest there.
    policy
        How sure to be; `planned` replaces what it plans for.
    """

    def __init__(
        self, objectives: Sequence[Objective], *, compare: tuple[str, str] | None = None, planned: int, policy: Policy | None = None
    ) -> None:
        self._compare = compare
        self._policy = replace(policy or Policy(), planned_samples=max(planned, 100))
        asked = [limit for objective in objectives for limit in objective.limits()]
        try:
            self._judge = Judge([*(CANARY_OBJECTIVES if compare else ()), *asked], self._policy)
        except JudgeError as error:
            raise SettingsError(f"objectives: {error}") from error

    def add(self, samples: Samples) -> None:
        """Take in the requests that ended since the last ones."""
        if self._compare is None:
            self._judge.add(Batch(arm_of(samples)))
        else:
            self._judge.add(batch_of(samples, *self._compare))

    def verdict(self, whole: Samples | None = None) -> Verdict:
        """Judge what has come so far; at the end, `whole` has what speaks against the run as such."""
        verdict = self._judge.verdict()
        return verdict if whole is None else held_against(verdict, unfit(whole, self._policy))


def judge_samples(
    samples: Samples, objectives: Sequence[Objective], *, compare: tuple[str, str] | None = None, policy: Policy | None = None
) -> Verdict | None:
    """Judge a run that is over; None where nothing is asked."""
    if not objectives and compare is None:
        return None
    judged = Judged(objectives, compare=compare, planned=len(samples), policy=policy)
    judged.add(samples)
    return judged.verdict(samples)


def held_against(verdict: Verdict, reasons: Sequence[str]) -> Verdict:
    """Return the verdict on a run against which something speaks; the same where nothing does."""
    if not reasons:
        return verdict
    # What the judge says of lateness, and this says again with what to do about it, is said once.
    told = (*(reason for reason in verdict.reasons if not reason.startswith("the load generator")), *reasons)
    return replace(verdict, status="inconclusive", reasons=told, sentence=f"Not judged: {'; '.join(told)}.")


def unfit(samples: Samples, policy: Policy | None = None) -> tuple[str, ...]:
    """Say what speaks against a run as a whole: a generator that fell behind, and answers that never came."""
    allowed_pct, sent = (policy or Policy()).max_missing_pct, len(samples) + samples.unanswered
    found = list(assess(samples).reasons)
    if 100 * samples.unanswered > allowed_pct * sent:
        left = percent(100 * samples.unanswered / sent)
        found.append(f"{left} of the requests were still without an answer at the end, {percent(allowed_pct)} are allowed")
    return tuple(found)
