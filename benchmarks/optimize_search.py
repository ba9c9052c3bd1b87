"""How long the search takes on a subject of `benchmarks.optimize`, once from nothing and once from what it kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.optimize_subjects import Subject
from optimize.search import subject as searching
from optimize.search.budget import Budget
from optimize.search.cache import Cache
from optimize.search.candidates import default_candidates
from optimize.search.page import render
from optimize.search.report import OptimizeReport
from optimize.search.search import SearchSettings, search

FAMILIES = {"dcn_v2": "ranking", "image_tower": "transformer"}
"""Which of the default lists is tried."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Searched:
    """Seconds of a search with its page, the export of the model not included.

    Attributes
    ----------
    cpu_s
        Of the first one, in this process and its children: how long it takes on a machine that does nothing else.
    """

    report: OptimizeReport
    first_s: float
    again_s: float
    cpu_s: float


def timed(subject: Subject, folder: Path, threads: int, progress: Progress) -> Searched:
    """Search twice, both times with a subject and a cache object of its own, as two commands would."""
    taken: list[float] = []
    cpu: list[float] = []
    for name in ("first", "again"):
        variants = folder / name
        variants.mkdir(parents=True)
        started, worked = time.monotonic(), _cpu_s()
        settings = SearchSettings(budget=budget_of(subject), threads=threads)
        cache = Cache(folder / "cache")
        report = search(searched(subject), default_candidates(FAMILIES[subject.family]), variants, settings, cache, progress)
        (variants / "report.html").write_text(render(report, cache=cache), encoding="utf-8")
        taken.append(time.monotonic() - started)
        cpu.append(_cpu_s() - worked)
    return Searched(report, taken[0], taken[1], cpu[0])


def _cpu_s() -> float:
    """What this process and its children that ended have computed."""
    of = os.times()
    return of.user + of.system + of.children_user + of.children_system


def searched(subject: Subject) -> searching.Subject:
    """The subject as the search takes it."""
    return searching.Subject(
        name=subject.name,
        data="synthetic clicks" if subject.metric == "ne" else "noise",
        family=FAMILIES[subject.family],
        reference=subject.graph,
        validation=subject.validation,
        test=subject.test,
        timing=subject.timing,
        decisive_size=subject.decisive_size,
        calibration=subject.calibration,
        size_unit="candidates" if subject.metric == "ne" else "pictures",
    )


def budget_of(subject: Subject) -> Budget:
    """The budget of the arms, as the search counts it: for cosine, how much is missing to 1."""
    bound = subject.budget.bound
    return Budget(subject.metric, bound if subject.budget.at_most else 1 - bound)
