"""Are the samples fit to be judged? Missing data, dead arms and a late generator never pass."""

from __future__ import annotations

import numpy as np

from loadtests.judge.arms import Arm, Batch
from loadtests.judge.objectives import Policy
from loadtests.judge.sentences import number, percent

MAX_LATE_PCT = 1.0
"""Requests that may be sent later than the policy allows: the share that a p99 looks at."""


class Fitness:
    """Counts what speaks against judging.

    Parameters
    ----------
    two_arms
        Whether a baseline is needed.
    """

    def __init__(self, policy: Policy, *, two_arms: bool) -> None:
        self._policy = policy
        self._names = ("canary", "baseline") if two_arms else ("canary",)
        self.requests = [0, 0]
        self._missing = [0, 0]
        self._late = self._measured = 0
        self._last_s = [-np.inf, -np.inf]
        self._since = [0, 0]

    @property
    def lag_measured(self) -> bool:
        """Whether the generator said how late it was."""
        return self._measured > 0

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        arms = (batch.canary, batch.baseline)
        for which, arm in enumerate(arms):
            self.requests[which] += len(arm)
            self._missing[which] += int(arm.missing().sum())
            self._lags(arm)
            if len(arm):
                self._last_s[which] = max(self._last_s[which], float(arm.started_s.max()))
        for which, (mine, others) in enumerate((arms, arms[::-1])):
            after = int((others.started_s > self._last_s[which]).sum())
            self._since[which] = after if len(mine) else self._since[which] + after

    def _lags(self, arm: Arm) -> None:
        if arm.lag_ms is not None:
            self._measured += len(arm)
            # Not "later than": a lag that is NaN was not measured, and must not count as in time.
            self._late += int((~(arm.lag_ms <= self._policy.max_lag_ms)).sum())

    def reasons(self) -> tuple[str, ...]:
        """Say what speaks against judging; nothing where the samples are fit."""
        found = []
        for which, name in enumerate(self._names):
            requests, missing = self.requests[which], self._missing[which]
            other = self._names[1 - which] if len(self._names) > 1 else ""
            if not requests:
                found.append(f"the {name} has no requests: look whether it gets traffic")
            elif len(self._names) > 1 and self._since[which] >= self._policy.silent_after:
                since = number(self._since[which])
                found.append(f"the {name} has fallen silent: the {other} has had {since} requests since its last one")
            if requests and 100 * missing > self._policy.max_missing_pct * requests:
                allowed = percent(self._policy.max_missing_pct)
                found.append(f"{percent(100 * missing / requests)} of the {name}'s requests have no result, {allowed} are allowed")
        if self._measured and 100 * self._late > MAX_LATE_PCT * self._measured:
            late, allowed = percent(100 * self._late / self._measured), number(self._policy.max_lag_ms)
            found.append(f"the load generator sent {late} of the requests over {allowed} ms late: give it more processor time or less load")
        return tuple(found)
