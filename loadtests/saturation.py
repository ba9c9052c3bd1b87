"""The highest rate that keeps the objectives: short open-loop runs at rates that close in on it, each judged.

From a first rate the search goes up by factors until a run fails, or down until one passes; then it halves the gap on a log scale. A run
of which nothing is known counts as one that did not pass, and the rates between the highest that passed and the lowest that failed are
what the answer leaves open. A run whose generator fell behind says nothing about the service and is repeated once: where such runs
bound the search, it is the generator that saturates.

Every run may be wrong by chance, so the risks of the judge are divided among as many runs as there may be.

References
----------
MLPerf Inference, server scenario: the highest Poisson rate at which a percentile of latency keeps its limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtests.judge import Policy

MAX_TRIALS = 50

Status = Literal["pass", "fail", "inconclusive", "invalid"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Search(_Frozen):
    """The table ``[saturation]`` of a load profile.

    Attributes
    ----------
    start_rps
        Rate of the first run.
    min_rps, max_rps
        The search does not go beyond.
    step
        Factor from one rate to the next, as long as only one side is known.
    precision_pct
        The search ends when the lowest rate that did not pass is at most so much above the highest that did.
    samples
        Requests of a run: at most `longest_s` seconds of them, at least `fewest`.
    fewest
        Requests that a run has however slow the rate.
    longest_s
        Seconds of a run at slow rates.
    max_trials, max_total_s
        Bounds of the search: runs, and seconds of load in all.
    """

    start_rps: Annotated[float, Field(gt=0, le=100_000)] = 50.0
    min_rps: Annotated[float, Field(gt=0)] = 1.0
    max_rps: Annotated[float, Field(gt=0, le=100_000)] = 20_000.0
    step: Annotated[float, Field(ge=1.1, le=10)] = 2.0
    precision_pct: Annotated[float, Field(ge=1, le=100)] = 10.0
    samples: Annotated[int, Field(ge=200, le=1_000_000)] = 3000
    fewest: Annotated[int, Field(ge=50)] = 1000
    longest_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    max_trials: Annotated[int, Field(ge=1, le=MAX_TRIALS)] = 16
    max_total_s: Annotated[float, Field(gt=0, le=24 * 3600)] = 600.0

    @model_validator(mode="after")
    def _ordered(self) -> Search:
        if not self.min_rps <= self.start_rps <= self.max_rps:
            raise ValueError(
                f"start_rps is {self.start_rps:g}, it must be between min_rps, {self.min_rps:g}, and max_rps, {self.max_rps:g}"
            )
        if self.fewest > self.samples:
            raise ValueError(f"fewest is {self.fewest}, it must be at most samples, {self.samples}")
        return self

    def samples_at(self, rate_rps: float) -> int:
        """Requests of a run at this rate."""
        return int(min(self.samples, max(self.fewest, rate_rps * self.longest_s)))

    def policy(self) -> Policy:
        """How sure each run's verdict must be, for the whole search to be as sure as one verdict is by default."""
        whole = Policy()
        return Policy(false_alarm=whole.false_alarm / self.max_trials, false_pass=whole.false_pass / self.max_trials)


class Trial(_Frozen):
    """One run of the search.

    Attributes
    ----------
    status
        ``invalid``: the generator fell behind.
    achieved_rps, p50_ms, p99_ms, p99_interval_ms, error_pct
        What was measured; null where too little was.
    seconds
        Of load.
    folder
        Its report, below that of the search.
    """

    rate_rps: float
    status: Status
    sentence: str
    requests: int
    seconds: float
    achieved_rps: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    p99_interval_ms: tuple[float | None, float | None] | None = None
    error_pct: float | None = None
    folder: str = ""


class Saturation(_Frozen):
    """What a search found.

    Attributes
    ----------
    keeps_rps
        Highest rate of a run that passed; null where none did.
    fails_rps
        Lowest rate of a run that failed; null where none did. Between the two nothing is known.
    ended
        Why the search ended.
    """

    keeps_rps: float | None
    fails_rps: float | None
    ended: Literal["precision", "max_rps", "min_rps", "generator", "max_trials", "max_total_s", "undecided", "interrupted"]
    sentence: str
    trials: tuple[Trial, ...]


def search(settings: Search, run: Callable[[float, int], Trial]) -> Saturation:
    """Search.

    Parameters
    ----------
    run
        Loads at a rate with so many requests, and judges.
    """
    trials: list[Trial] = []
    passed: float | None = None
    refused: float | None = None
    rate = settings.start_rps
    ended = "max_trials"
    while len(trials) < settings.max_trials:
        samples = settings.samples_at(rate)
        if trials and sum(trial.seconds for trial in trials) + samples / rate > settings.max_total_s:
            ended = "max_total_s"
            break
        trial = run(rate, samples)
        trials.append(trial)
        if trial.status == "invalid" and [each.rate_rps for each in trials].count(rate) == 1:
            continue  # something else may have wanted the processor just then: once more, before it bounds the search
        if trial.status == "pass":
            passed = rate
            if rate >= settings.max_rps:
                ended = "max_rps"
                break
        else:
            refused = rate
            if rate <= settings.min_rps:
                ended = "min_rps"
                break
        if passed is None:
            rate = max(settings.min_rps, rate / settings.step)
        elif refused is None:
            rate = min(settings.max_rps, rate * settings.step)
        elif refused <= passed * (1 + settings.precision_pct / 100):
            ended = "precision"
            break
        else:
            rate = math.sqrt(passed * refused)
    return summed_up(trials, ended)


def summed_up(trials: list[Trial], ended: str) -> Saturation:
    """What the runs say together."""
    passed = max((trial.rate_rps for trial in trials if trial.status == "pass"), default=None)
    above = [trial for trial in trials if trial.status != "pass" and (passed is None or trial.rate_rps > passed)]
    refused = min((trial.rate_rps for trial in above), default=None)
    fails_rps = min((trial.rate_rps for trial in above if trial.status == "fail"), default=None)
    at_the_edge = next((trial.status for trial in reversed(trials) if trial.rate_rps == refused), None)
    if at_the_edge == "invalid" and ended in ("precision", "max_trials"):
        ended = "generator"
    elif at_the_edge == "inconclusive" and ended == "precision":
        ended = "undecided"
    return Saturation(
        keeps_rps=passed, fails_rps=fails_rps, ended=ended, sentence=_sentence(passed, fails_rps, refused, ended), trials=tuple(trials)
    )


def _sentence(passed: float | None, failed: float | None, refused: float | None, ended: str) -> str:
    if passed is None:
        if failed is None:
            return (
                "No rate was shown to keep the objectives, and none to miss them: give the runs more samples, or the objectives more room."
            )
        return f"No rate was shown to keep the objectives; at {failed:.4g}/s they are missed."
    head = f"The objectives are kept at {passed:.4g}/s"
    tail = {
        "precision": f" and missed at {failed or refused or 0:.4g}/s.",
        "max_rps": ", the highest rate that was to be tried.",
        "generator": f"; at {refused or 0:.4g}/s the load generator fell behind, so that the service's own limit is not known.",
        "undecided": f"; from {refused or 0:.4g}/s on, runs of this length cannot tell.",
        "max_trials": f"; the runs that were allowed are used up, {_open(failed)}.",
        "interrupted": f"; the search was interrupted, {_open(failed)}.",
        "max_total_s": f"; the time that was allowed is used up, {_open(failed)}.",
    }
    return head + tail.get(ended, ".")


def _open(failed: float | None) -> str:
    return "no rate was shown to miss them" if failed is None else f"they are missed at {failed:.4g}/s"
