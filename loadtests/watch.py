"""A load test seen while it runs, from the samples that it streams: figures for the terminal, and whether it may end early."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtests.arrivals import schedule
from loadtests.early_stopping import EarlyStopping, Looks
from loadtests.judge import Policy
from loadtests.judge.scale import LATENCY
from loadtests.judge.sentences import milliseconds, number
from loadtests.load_profile import LoadProfile
from loadtests.objectives import Judged
from loadtests.samples import Samples
from loadtests.stream import StreamReader

RECENT_S = 3.0
"""The rate that is shown is that of so long before now."""


@dataclass
class Figures:
    """What has come so far; latencies are kept as counts in the judge's cells, half a per cent wide, so that a soak takes no memory."""

    requests: int = 0
    failures: int = 0
    rate_rps: float = 0.0
    _counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LATENCY.cells, dtype=np.int64))
    _ends_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, samples: Samples) -> None:
        """Take in a chunk."""
        self.requests += len(samples)
        self.failures += int(np.count_nonzero(~samples.ok))
        self._counts += np.bincount(LATENCY.place(samples.latency_ms[samples.ok]), minlength=LATENCY.cells)
        ends_s = np.concatenate([self._ends_s, samples.ended_s])
        self._ends_s = ends_s[ends_s > ends_s.max() - RECENT_S] if len(ends_s) else ends_s
        self.rate_rps = len(self._ends_s) / max(float(np.ptp(self._ends_s)), 0.1) if len(self._ends_s) else 0.0

    def quantile_ms(self, share: float) -> float | None:
        """Quantile so far, to half a per cent; None before the first answer."""
        upto = np.cumsum(self._counts)
        return LATENCY.edge(int(np.searchsorted(upto, share * upto[-1]))) if upto[-1] else None

    def __str__(self) -> str:
        """Figures in a line."""
        told = [f"{self.requests:,} requests", f"{number(self.rate_rps)}/s"]
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            value = self.quantile_ms(share)
            told.append(f"{name} {'–' if value is None else milliseconds(value)}")
        return " · ".join([*told, f"{self.failures:,} failed"])


class EarlyEnd:
    """Looks at a run in the order in which requests were due, as soon as all before the look have ended.

    Parameters
    ----------
    due_s
        ``(N,) float64``, the schedule.
    """

    def __init__(self, settings: EarlyStopping, due_s: NDArray[np.float64]) -> None:
        self._limit_ms, self._due_s = settings.limit_ms, due_s
        self._looks, self._at = Looks(settings, len(due_s)), settings.look_at(len(due_s))
        self._intended_s, self._over = np.zeros(0), np.zeros(0, dtype=np.bool_)

    def add(self, samples: Samples) -> bool:
        """Take in a chunk; whether the outcome is known."""
        self._intended_s = np.concatenate([self._intended_s, samples.intended_s])
        self._over = np.concatenate([self._over, ~samples.ok | (samples.latency_ms > self._limit_ms)])
        order = np.argsort(self._intended_s, kind="stable")
        self._intended_s, self._over = self._intended_s[order], self._over[order]
        for requests in reversed(self._at):
            # A microsecond is room for how the times were sent from one process to another; no two starts are so near by intent.
            if np.searchsorted(self._intended_s, self._due_s[requests - 1] + 1e-6) >= requests:
                return self._looks.see(self._over[:requests]) is not None
        return False


class Watch:
    """Follows one run.

    Parameters
    ----------
    folder
        Where the run streams its samples to.
    fail_fast
        End the run as soon as an objective is shown to be missed, judged by this policy.
    """

    def __init__(self, profile: LoadProfile, folder: Path, fail_fast: Policy | None = None) -> None:
        self._reader = StreamReader(folder)
        self.figures = Figures()
        self._early: EarlyEnd | None = None
        if profile.early_stopping is not None:
            due_s = schedule(profile.arrivals, profile.seed, duration_s=profile.duration_s, samples=profile.samples)
            self._early = EarlyEnd(profile.early_stopping, due_s)
        self._judged = None if fail_fast is None else Judged(profile.objective, planned=profile.samples or 1, policy=fail_fast)

    def look(self) -> bool:
        """Read what is new; whether the run may end."""
        may_end = False
        for chunk in self._reader.new():
            self.figures.add(chunk)
            if self._early is not None:
                may_end |= self._early.add(chunk)
            if self._judged is not None:
                self._judged.add(chunk)
        if self._judged is not None and self.figures.requests:
            may_end |= self._judged.verdict().status == "fail"
        return may_end
