"""What is asked of a release: objectives, and how sure a verdict must be.

Each objective of two arms has two numbers: what is tolerated, and what is too much. It *fails* when more than the tolerated is shown, it
*passes* when less than too much is shown, and it is inconclusive as long as neither is. Between the two lies what may pass but need not:
the wider that zone, the fewer requests a verdict takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from loadtests.judge.errors import JudgeError

Happened = Literal["failed", "refused"]
"""To a request, as columns of blocks are called."""

MIN_QUANTILE, MAX_QUANTILE = 0.01, 0.9999
"""Beyond p99.99 a verdict takes hundreds of thousands of requests; whoever asks for more has mistaken per cent for parts."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What all objectives have.

    Attributes
    ----------
    endpoint
        Judge only requests of this endpoint; all, where it is None.
    weight
        Part of the risk of a false alarm that this objective gets, in proportion to the others' weights. None: what its kind is worth
        (`NotSlower` 2½, `ErrorIncrease` 6½, others ½), which finds both slow tails and rare failures early.
    """

    endpoint: str | None = None
    weight: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises
        ------
        JudgeError
            One is out of bounds.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float | int) and not math.isfinite(value):
                raise JudgeError(f"{self.title}: {field.name} is {value}, it must be a finite number")
        if self.weight is not None and self.weight <= 0:
            raise JudgeError(f"{self.title}: weight is {self.weight:g}, it must be above 0")

    @property
    def two_arms(self) -> bool:
        """Whether it compares the canary with a baseline."""
        return True

    @property
    def share_of_risk(self) -> float:
        """Weight given, or that of the kind."""
        return self._kind_weight if self.weight is None else self.weight

    @property
    def title(self) -> str:
        """Short name for people and for ``verdict.json``."""
        return self._name + (f" at {self.endpoint}" if self.endpoint else "")

    @property
    def _kind_weight(self) -> float:
        return 0.5

    @property
    def _name(self) -> str:
        raise NotImplementedError

    def _ordered(self, low: tuple[str, float], high: tuple[str, float]) -> None:
        if not low[1] < high[1]:
            raise JudgeError(f"{self.title}: {high[0]} is {high[1]:g}, it must be above {low[0]}, {low[1]:g}")


@dataclass(frozen=True, kw_only=True)
class NotSlower(Objective):
    """At no latency may a larger share of the canary's requests be slow: finds shifts, stretched tails and stalls.

    Attributes
    ----------
    tolerated_ratio
        Times the baseline's latencies that are no harm.
    min_samples
        Requests an arm before it passes. This objective watches; it bounds nothing, so its pass says "nothing found in so many".
    """

    tolerated_ratio: float = 1.05
    min_samples: int = 1000

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _at_least(self, "tolerated_ratio", 1.0)
        _at_least(self, "min_samples", 1)

    @property
    def _kind_weight(self) -> float:
        return 2.5

    @property
    def _name(self) -> str:
        return "not slower"


@dataclass(frozen=True, kw_only=True)
class QuantileRatio(Objective):
    """The canary's quantile is at most so many times the baseline's.

    Attributes
    ----------
    quantile
        0.99 for p99.
    tolerated_ratio, max_ratio
        Fails when shown to be above the first, passes when shown to be below the second.
    """

    quantile: float
    tolerated_ratio: float = 1.05
    max_ratio: float = 1.5

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _quantile(self, self.quantile)
        _at_least(self, "tolerated_ratio", 1.0)
        self._ordered(("tolerated_ratio", self.tolerated_ratio), ("max_ratio", self.max_ratio))

    @property
    def _name(self) -> str:
        return f"{quantile_name(self.quantile)} ratio"


@dataclass(frozen=True, kw_only=True)
class ShareIncrease(Objective):
    """The share of requests to which something happened rises by at most so many percentage points.

    Attributes
    ----------
    tolerated_points, max_points
        Percentage points; fails when the rise is shown to be above the first, passes when shown to be below the second.
    """

    happened: ClassVar[Happened]
    tolerated_points: float
    max_points: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _at_least(self, "tolerated_points", 0.0)
        self._ordered(("tolerated_points", self.tolerated_points), ("max_points", self.max_points))
        self._ordered(("max_points", self.max_points), ("the largest possible value", 100.0))


@dataclass(frozen=True, kw_only=True)
class ErrorIncrease(ShareIncrease):
    """The share of failed requests rises by at most so many percentage points."""

    happened = "failed"
    tolerated_points: float = 0.01
    max_points: float = 0.5

    @property
    def _kind_weight(self) -> float:
        return 6.5

    @property
    def _name(self) -> str:
        return "errors"


@dataclass(frozen=True, kw_only=True)
class RefusalIncrease(ShareIncrease):
    """The share of requests that the service refused as the caller's mistake (4xx) rises by at most so many percentage points.

    The zone between both numbers is wide. A release that refuses a few requests more may be meant to, so that half a point is tolerated.
    Callers' mistakes are many, and come in bursts, where failures are rare: to rule out a rise by half a point would take many times the
    requests that `ErrorIncrease` takes. A rise that lies between is found where there are enough requests.
    """

    happened = "refused"
    tolerated_points: float = 0.5
    max_points: float = 5.0

    @property
    def _name(self) -> str:
        return "refusals"


@dataclass(frozen=True, kw_only=True)
class SameScores(Objective):
    """Both models answer alike: the distributions of their scores are close.

    Attributes
    ----------
    tolerated_distance, max_distance
        Largest difference of the shares of scores at or above any value (Kolmogorov-Smirnov); fails when shown to be above the first,
        passes when shown to be below the second.
    low, high
        Range of the scores; beyond it they count as its ends.
    """

    tolerated_distance: float = 0.02
    max_distance: float = 0.1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _at_least(self, "tolerated_distance", 0.0)
        self._ordered(("tolerated_distance", self.tolerated_distance), ("max_distance", self.max_distance))
        self._ordered(("max_distance", self.max_distance), ("the largest possible value", 1.0))
        self._ordered(("low", self.low), ("high", self.high))

    @property
    def _name(self) -> str:
        return "scores"


@dataclass(frozen=True, kw_only=True)
class QuantileLimit(Objective):
    """A quantile of one arm stays below a limit. Fails when shown to be above it, passes when shown to be below.

    Attributes
    ----------
    limit_ms
        Milliseconds.
    """

    quantile: float
    limit_ms: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _quantile(self, self.quantile)
        self._ordered(("0", 0.0), ("limit_ms", self.limit_ms))

    @property
    def two_arms(self) -> bool:
        """It looks at the canary alone."""
        return False

    @property
    def _name(self) -> str:
        return f"{quantile_name(self.quantile)} limit"


@dataclass(frozen=True, kw_only=True)
class ErrorLimit(Objective):
    """The share of failed requests of one arm stays below a limit, in percent."""

    max_error_pct: float = 0.5

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        self._ordered(("0", 0.0), ("max_error_pct", self.max_error_pct))
        self._ordered(("max_error_pct", self.max_error_pct), ("the largest possible value", 100.0))

    @property
    def two_arms(self) -> bool:
        """It looks at the canary alone."""
        return False

    @property
    def _name(self) -> str:
        return "error limit"


@dataclass(frozen=True, kw_only=True)
class GoodputLimit(Objective):
    """The share of requests of one arm that are answered well and in time stays above a limit, in percent.

    Attributes
    ----------
    within_ms
        Later than this, an answer is no use to its caller.
    """

    within_ms: float
    min_goodput_pct: float = 99.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        self._ordered(("0", 0.0), ("within_ms", self.within_ms))
        self._ordered(("0", 0.0), ("min_goodput_pct", self.min_goodput_pct))
        self._ordered(("min_goodput_pct", self.min_goodput_pct), ("the largest possible value", 100.0))

    @property
    def two_arms(self) -> bool:
        """It looks at the canary alone."""
        return False

    @property
    def _name(self) -> str:
        return f"goodput within {self.within_ms:g} ms"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How sure a verdict must be, and when samples are fit to be judged at all.

    Attributes
    ----------
    false_alarm
        Largest chance that a harmless canary ever fails, over all objectives and looks together.
    false_pass
        Largest chance that an objective which is missed by its second number ever passes.
    planned_samples
        Requests an arm for which boundaries are tightest; a tuning, not a limit.
    min_samples
        Requests an arm before anything is decided: how correlated they are is not known sooner.
    max_lag_ms
        Latest that the load generator may send a request after its time. Later than this for over 1 % of the requests, and the run is
        not judged: what it measured is the generator.
    max_missing_pct
        Most requests without a result, in percent.
    silent_after
        An arm without a request while the other had this many is dead, and nothing passes.
    """

    false_alarm: float = 0.01
    false_pass: float = 0.05
    planned_samples: int = 10_000
    min_samples: int = 200
    max_lag_ms: float = 10.0
    max_missing_pct: float = 1.0
    silent_after: int = 200

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises
        ------
        JudgeError
            One is out of bounds.
        """
        for name in ("false_alarm", "false_pass"):
            if not 0 < getattr(self, name) < 0.5:
                raise JudgeError(f"policy: {name} is {getattr(self, name)}, it must be between 0 and 0.5")
        for name, least in (("planned_samples", 100), ("min_samples", 50), ("silent_after", 10), ("max_lag_ms", 0), ("max_missing_pct", 0)):
            if not getattr(self, name) >= least:
                raise JudgeError(f"policy: {name} is {getattr(self, name)}, it must be at least {least}")


def quantile_name(quantile: float) -> str:
    """``p99.9`` for 0.999."""
    return f"p{100 * quantile:.6g}"


def _at_least(objective: Objective, name: str, least: float) -> None:
    if getattr(objective, name) < least:
        raise JudgeError(f"{objective.title}: {name} is {getattr(objective, name):g}, it must be at least {least:g}")


def _quantile(objective: Objective, quantile: float) -> None:
    if not MIN_QUANTILE <= quantile <= MAX_QUANTILE:
        bounds = f"between {MIN_QUANTILE} and {MAX_QUANTILE} (0.99 for p99)"
        raise JudgeError(f"{objective.title}: quantile is {quantile:g}, it must be {bounds}")


CANARY_OBJECTIVES: tuple[Objective, ...] = (
    NotSlower(),
    QuantileRatio(quantile=0.5, max_ratio=1.25),
    QuantileRatio(quantile=0.99, max_ratio=1.5),
    ErrorIncrease(),
)
"""What a canary is asked where nobody says more."""
