"""Waiting for the other side, within bounds: with growing pauses, and as long as it asks to be left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from k8s.errors import Conflict, Refused, RolloutError, Unavailable
from k8s.rollout.ports import Clock

Answer = TypeVar("Answer")

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 15.0
"""Pauses double between these, with a jitter of half: an API server that comes back is not met by everybody at once
(client-go's own back-off has 0.8 s and 30 s; a rollout that is to be rolled back should not wait so long)."""


class Patience:
    """Tries again what may help.

    Parameters
    ----------
    limit_s
        Seconds after which the last error is handed on.
    between
        Called before each pause; keeps the lease, for one.
    """

    def __init__(self, clock: Clock, limit_s: float, between: Callable[[], None] = lambda: None) -> None:
        self._clock, self._limit_s, self._between = clock, limit_s, between
        self._jitter = random.Random()  # noqa: S311 - spreads calls over time, keeps nothing secret

    def call(self, act: Callable[[], Answer], *, refusals: bool = False) -> Answer:
        """Do it until it is done.

        Parameters
        ----------
        refusals
            Whether to try again even what was refused: for going back, which has no alternative.

        Raises
        ------
        RolloutError
            It was refused, or the time is over.
        """
        retried: tuple[type[RolloutError], ...] = (Unavailable, Conflict, Refused) if refusals else (Unavailable, Conflict)
        until_s = self._clock.now_s() + self._limit_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return act()
            except retried as error:
                asked_s = getattr(error, "retry_after_s", None)
                wait_s = pause_s * self._jitter.uniform(0.5, 1.0) if asked_s is None else min(asked_s, MAX_PAUSE_S * 4)
                if self._clock.now_s() + wait_s > until_s:
                    raise
                self._between()
                self._clock.sleep(wait_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
