"""Early stopping as MLPerf's LoadGen does it: how few requests suffice to state a quantile.

A quantile q keeps its limit when at most a share 1 − q of all requests takes longer. After n requests with t over the limit that is
shown with confidence c when so few over it would be improbable if the share were exactly 1 − q ::

    P(Binomial(n, 1 − q) ≤ t) ≤ 1 − c

For p99 at 99 % that takes 459 requests with none over, 662 with one, 838 with two. LoadGen looks once, when the run is over. Who looks
more often and stops at the first good look is right less often than c: here the looks are fixed beforehand and share 1 − c among them
(Bonferroni), so that c holds for the run as a whole.

Requests are taken for independent, as LoadGen does. The judge of an objective takes them as they are (docs/judge.md).

References
----------
mlcommons/inference, ``loadgen/early_stopping.cc`` and ``results.cc`` (server scenario: tolerance 0, confidence 0.99). Reddi et al., "MLPerf
Inference Benchmark", ISCA 2020, section III-D on the number of queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import bdtr, bdtrc

MAX_LOOKS = 50
"""Each look takes its part of the risk; with more, p99 would need twice the requests of one look (459 become 848)."""


class EarlyStopping(BaseModel):
    """The table ``[early_stopping]`` of a load profile.

    Attributes
    ----------
    quantile, limit_ms
        0.99 and 50: p99 is below 50 ms. A failed request counts as one that took longer.
    confidence
        Of the statement that the limit is kept, over all looks together.
    looks
        How often a run is looked at before it is over, at even distances. 1 is LoadGen's way: once, at the end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantile: Annotated[float, Field(gt=0, le=0.9999)] = 0.99
    limit_ms: Annotated[float, Field(gt=0)]
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.99
    looks: Annotated[int, Field(ge=1, le=MAX_LOOKS)] = 5

    @property
    def confidence_a_look(self) -> float:
        """Confidence that each look must have for all of them to have `confidence`."""
        return 1 - (1 - self.confidence) / self.looks

    def look_at(self, planned: int) -> tuple[int, ...]:
        """Numbers of requests after which a run of `planned` is looked at."""
        return tuple(planned * look // self.looks for look in range(1, self.looks + 1))


Outcome = Literal["met", "missed", "open"]


@dataclass(frozen=True)
class Stop:
    """What a look, or the last of them, found.

    Attributes
    ----------
    outcome
        ``met``: shown to be within the limit. ``missed``: shown to be beyond it. ``open``: neither.
    requests, over
        Requests that had ended, and those of them that failed or took longer.
    needed
        Requests that it takes to show that the limit is kept with so many over, at one look's confidence.
    """

    outcome: Outcome
    requests: int
    over: int
    needed: int


def requests_needed(over: int, quantile: float, confidence: float) -> int:
    """Fewest requests that show the quantile to be within its limit, when `over` of them are not."""
    low, high = over, over + 1
    while bdtr(over, high, 1 - quantile) > 1 - confidence:
        low, high = high, 2 * high
    # At `low` it is not enough, at `high` it is.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bdtr(over, middle, 1 - quantile) <= 1 - confidence else (middle, high)
    return high


def look(settings: EarlyStopping, requests: int, over: int) -> Stop:
    """Look at a run after `requests`, `over` of which failed or took longer than the limit."""
    confidence = settings.confidence_a_look
    needed = requests_needed(over, settings.quantile, confidence)
    outcome: Outcome = "open"
    if requests >= needed:
        outcome = "met"
    elif over and bdtrc(over - 1, requests, 1 - settings.quantile) <= 1 - confidence:
        outcome = "missed"
    return Stop(outcome, requests, over, needed)


class Looks:
    """The looks at one run.

    Parameters
    ----------
    planned
        Requests that the run would send if it were not stopped.
    """

    def __init__(self, settings: EarlyStopping, planned: int) -> None:
        self._settings = settings
        self._at = list(settings.look_at(planned))
        self.last: Stop | None = None

    def see(self, over: NDArray[np.bool_]) -> Stop | None:
        """Look, where a look is due; the last look once it is not ``open``, else None.

        Parameters
        ----------
        over
            ``(N,) bool``, whether each request failed or took longer than the limit, in the order in which they were due: in order of their
            end the slow ones would come after the look that they should count in.
        """
        while self._at and self._at[0] <= len(over) and (self.last is None or self.last.outcome == "open"):
            requests = self._at.pop(0)
            self.last = look(self._settings, requests, int(np.count_nonzero(over[:requests])))
        return self.last if self.last is not None and self.last.outcome != "open" else None
