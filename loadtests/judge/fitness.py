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
        self._unsent = self._unanswered = self._lost_workers = 0
        self._last_s = [-np.inf, -np.inf]
        self._since = [0, 0]

    @property
    def lag_measured(self) -> bool:
        """Whether the generator said how late it was."""
        return self._measured > 0

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        arms = (batch.canary, batch.baseline)
        self._unsent += batch.unsent
        self._unanswered += batch.unanswered
        self._lost_workers += batch.lost_workers
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
        return (*found, *self._of_generator())

    def _of_generator(self) -> list[str]:
        """Say what the load generator did wrong; each sentence begins with it."""
        found = []
        late, due = self._late + self._unsent, self._measured + self._unsent
        if due and 100 * late > MAX_LATE_PCT * due:
            share, allowed = percent(100 * late / due), f"{number(self._policy.max_lag_ms)} ms late{' or not at all' * (self._unsent > 0)}"
            found.append(f"the load generator sent {share} of the requests over {allowed}: give it more processor time or less load")
        if self._lost_workers:
            lost = (
                "1 process, and what came of its requests"
                if self._lost_workers == 1
                else f"{self._lost_workers} processes and their requests"
            )
            found.append(f"the load generator lost {lost}")
        sent = sum(self.requests) + self._unanswered
        if 100 * self._unanswered > self._policy.max_missing_pct * sent:
            share, allowed = percent(100 * self._unanswered / sent), percent(self._policy.max_missing_pct)
            found.append(f"the load generator does not know what came of {share} of the requests, {allowed} are allowed")
        return found
