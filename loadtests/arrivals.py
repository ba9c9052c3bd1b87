"""When requests are to be sent: drawn before the load begins, whatever the service will do.

A caller does not wait for another caller's answer. So the starts are drawn beforehand, and latency counts from them: a service that stalls
is charged with all that were due meanwhile. Every open kind is a rate over time, piecewise linear; the starts are a Poisson process
of that rate (or evenly spaced), found by inverting the integral of the rate at the points of a process of rate 1. ``N`` is the number of
starts.

References
----------
Çınlar, "Introduction to Stochastic Processes", 1975: a non-homogeneous Poisson process by a change of time.
Tene, "How NOT to Measure Latency", 2013: coordinated omission.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from serving.contract.errors import SettingsError

MAX_RATE_RPS = 100_000.0
"""One Locust process sends some thousand requests a second; beyond this the rate is a typing error."""

MAX_STARTS = 50_000_000
"""A day at 500 a second; starts take 8 bytes each, and samples eight times that."""

MAX_SECONDS = 7 * 24 * 3600.0
"""A week."""

Rate = Annotated[float, Field(gt=0, le=MAX_RATE_RPS)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Closed(_Frozen):
    """No schedule: each of `users` sends its next request when it has the answer to the last one.

    The number of requests under way is then known, the one load that a machine of unknown speed can be put under without choosing a rate.
    While the service stalls nobody asks, so it flatters a service that stalls (coordinated omission).
    """

    kind: Literal["closed"] = "closed"
    users: Annotated[int, Field(ge=1, le=1000)] = 1


class Constant(_Frozen):
    """Evenly spaced: what a clock would send. No two requests meet by chance, so queues are shorter than with real callers."""

    kind: Literal["constant"] = "constant"
    rate_rps: Rate


class Poisson(_Frozen):
    """Independent callers at a steady rate: the time to the next request is exponential."""

    kind: Literal["poisson"] = "poisson"
    rate_rps: Rate


class Bursts(_Frozen):
    """Poisson at `rate_rps`, and at `burst_rps` for the last `burst_s` of every `every_s` seconds."""

    kind: Literal["bursts"] = "bursts"
    rate_rps: Rate
    burst_rps: Rate
    burst_s: Seconds
    every_s: Annotated[float, Field(ge=0.01, le=MAX_SECONDS)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.burst_s >= self.every_s:
            raise ValueError(f"burst_s is {self.burst_s:g}, it must be shorter than every_s, {self.every_s:g}")
        return self


class Ramp(_Frozen):
    """Poisson at a rate that goes in a straight line from `from_rps` to `to_rps` within `ramp_s`, and then stays there."""

    kind: Literal["ramp"] = "ramp"
    from_rps: Rate
    to_rps: Rate
    ramp_s: Seconds


class Steps(_Frozen):
    """Poisson at one rate after the other, `step_s` seconds each; the last stays."""

    kind: Literal["steps"] = "steps"
    rates_rps: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=1000)]
    step_s: Seconds


class Replay(_Frozen):
    """The times of a trace: a text file with the seconds of one request a line, ascending, from any beginning.

    Attributes
    ----------
    speed
        2 sends the trace in half its time.
    """

    kind: Literal["replay"] = "replay"
    trace: Path
    speed: Annotated[float, Field(gt=0, le=1000)] = 1.0


Rated = Constant | Poisson | Bursts | Ramp | Steps
"""Kinds that are a rate over time."""

Arrivals = Annotated[Closed | Constant | Poisson | Bursts | Ramp | Steps | Replay, Field(discriminator="kind")]

_adapter: TypeAdapter[Closed | Constant | Poisson | Bursts | Ramp | Steps | Replay] = TypeAdapter(Arrivals)


def parse_arrivals(text: str) -> Arrivals:
    """Parse ``closed:USERS``, ``poisson:RATE``, ``constant:RATE``, ``replay:FILE``, or a JSON object with any of the kinds.

    Raises
    ------
    SettingsError
        It is none of these.
    """
    kind, _, value = text.partition(":")
    short = {"closed": "users", "poisson": "rate_rps", "constant": "rate_rps", "replay": "trace"}
    try:
        document = {"kind": kind, short[kind]: value} if kind in short and value else json.loads(text)
        return _adapter.validate_python(document)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"arrivals {text!r}: {problems}") from error
    except ValueError as error:
        kinds = "closed:2, poisson:200, constant:200, replay:FILE"
        raise SettingsError(f'arrivals {text!r} are none of {kinds}, {{"kind": "ramp", …}}: {error}') from error


def schedule(arrivals: Arrivals, seed: int, *, duration_s: float | None = None, samples: int | None = None) -> NDArray[np.float64]:
    """Draw the intended starts.

    Parameters
    ----------
    arrivals
        Any kind but ``closed``, which has no schedule.
    seed
        Same seed, same starts.
    duration_s, samples
        Where to end; what comes first, where both are given. A replay may have neither: it then ends with its trace.

    Returns
    -------
    NDArray[np.float64]
        ``(N,) float64``, ascending, in seconds since the start of the schedule.

    Raises
    ------
    SettingsError
        There is no end, no start before it, or more than `MAX_STARTS`; or the trace cannot be read.
    """
    if isinstance(arrivals, Closed):
        raise SettingsError("a closed loop has no schedule: its users send when they have their answers")
    if duration_s is None and samples is None and not isinstance(arrivals, Replay):
        raise SettingsError(f"arrivals of the kind {arrivals.kind} never end: give a duration or a number of samples")
    starts = _replayed(arrivals) if isinstance(arrivals, Replay) else _drawn(arrivals, seed, duration_s, samples)
    if duration_s is not None:
        starts = starts[starts < duration_s]
    starts = starts[:samples]
    if not len(starts):
        raise SettingsError(f"not one request is due within {duration_s} s: give a higher rate or more time")
    return starts


def peak_rps(arrivals: Arrivals) -> float | None:
    """Highest rate; None for a closed loop, whose rate is the service's, and for a trace."""
    match arrivals:
        case Closed() | Replay():
            return None
        case Steps():
            return max(arrivals.rates_rps)
        case Bursts():
            return max(arrivals.rate_rps, arrivals.burst_rps)
        case Ramp():
            return max(arrivals.from_rps, arrivals.to_rps)
        case _:
            return arrivals.rate_rps


def _drawn(arrivals: Rated, seed: int, duration_s: float | None, samples: int | None) -> NDArray[np.float64]:
    """Draw at least `samples` starts, or those until `duration_s`, whichever are fewer."""
    needed = _with_margin(samples) if samples is not None else np.inf
    # Seconds and expected requests by the beginning of each piece, the rate there and how it changes.
    seconds, requests, rates, slopes = [0.0], [0.0], [], []
    for lasts_s, low, high in _pieces(arrivals):
        slope = (high - low) / lasts_s
        lasts = lasts_s if duration_s is None else min(lasts_s, duration_s - seconds[-1])
        rates.append(low)
        slopes.append(slope)
        seconds.append(seconds[-1] + lasts)
        requests.append(requests[-1] + lasts * (low + slope * lasts / 2))
        if requests[-1] >= needed or (duration_s is not None and seconds[-1] >= duration_s):
            break
    expected = min(requests[-1], needed)
    if expected > MAX_STARTS:
        raise SettingsError(f"that would be {expected:,.0f} requests, at most {MAX_STARTS:,} are allowed: lower the rate or the time")
    if isinstance(arrivals, Constant):
        unit = np.arange(np.ceil(expected), dtype=np.float64)
    else:
        unit = np.cumsum(np.random.default_rng(seed).standard_exponential(_with_margin(expected)))
    unit = unit[unit < requests[-1]]
    piece = np.searchsorted(requests, unit, side="right") - 1
    rate, slope_of, beyond = np.array(rates)[piece], np.array(slopes)[piece], unit - np.array(requests)[piece]
    # The root of beyond = rate · t + slope · t² / 2, in the form that also holds for a slope of 0.
    return np.asarray(np.array(seconds)[piece] + 2 * beyond / (rate + np.sqrt(np.maximum(rate**2 + 2 * slope_of * beyond, 0.0))))


def _with_margin(expected: float) -> int:
    """Add six standard deviations of a Poisson count: what is too much is cut off, and too few come once in a billion."""
    return int(expected + 6 * np.sqrt(expected) + 10)


def _pieces(arrivals: Rated) -> Iterator[tuple[float, float, float]]:
    """Give the rate as pieces of so many seconds, from one rate to another, without end."""
    match arrivals:
        case Constant() | Poisson():
            last = arrivals.rate_rps
        case Ramp():
            yield arrivals.ramp_s, arrivals.from_rps, arrivals.to_rps
            last = arrivals.to_rps
        case Steps():
            yield from ((arrivals.step_s, rate, rate) for rate in arrivals.rates_rps)
            last = arrivals.rates_rps[-1]
        case Bursts():
            while True:
                yield arrivals.every_s - arrivals.burst_s, arrivals.rate_rps, arrivals.rate_rps
                yield arrivals.burst_s, arrivals.burst_rps, arrivals.burst_rps
    while True:
        yield MAX_SECONDS, last, last


def _replayed(replay: Replay) -> NDArray[np.float64]:
    """Read a trace; its first request is due at 0.

    Raises
    ------
    SettingsError
        It cannot be read, or is not what it should be; naming the line.
    """
    times: list[float] = []
    try:
        with replay.trace.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                time = float(line)
                if not np.isfinite(time) or (times and time < times[-1]):
                    raise SettingsError(f"trace {replay.trace}, line {number}: {line.strip()!r} is no time, or before the line above")
                times.append(time)
                if len(times) > MAX_STARTS:
                    raise SettingsError(f"trace {replay.trace} has more than {MAX_STARTS:,} requests: cut it")
    except (OSError, ValueError) as error:
        raise SettingsError(f"trace {replay.trace} cannot be read: {error}; it needs the seconds of one request a line") from error
    starts = np.array(times, dtype=np.float64)
    return (starts - starts[:1]) / replay.speed
