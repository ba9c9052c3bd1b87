"""Who is chosen among those that may be, who is worth a look."""

from __future__ import annotations

from collections.abc import Sequence

from optimize.search.candidates import REFERENCE
from optimize.search.pairs import TIE_PCT, Rounds, fastest, is_slower, ratio
from optimize.search.report import CandidateRecord, counted

SMALLER_FACTOR = 0.9
"""Among ties a file that is a tenth smaller has earned its passes. Else the fewest passes win: a change must earn its place."""


def choose(candidates: Sequence[CandidateRecord], rounds: Rounds, size: int, size_unit: str) -> tuple[str, str]:
    """Pick the fastest candidate that was not refused; among those as fast, a clearly smaller file, then the fewest passes.

    As fast is who is within `TIE_PCT` of the fastest, or not surely slower than it. Who left the race is neither: that it was slower has
    been decided, and of the few rounds that it has nothing is sure.

    Parameters
    ----------
    rounds
        Times of those that were timed, at the size at which latency decides; the reference has all.
    size
        That size.

    Returns
    -------
    tuple
        The name, and the reason in a sentence.
    """
    allowed = [c for c in candidates if c.refused is None and c.name in rounds]
    looks = len(allowed) - 1
    stayed = [c for c in allowed if len(rounds[c.name]) == len(rounds[REFERENCE])]
    best = rounds[fastest({c.name: rounds[c.name] for c in stayed}, REFERENCE)]
    tied = [c for c in stayed if not is_slower(ratio(rounds[c.name], best, looks=looks))]
    smallest = min(c.size_bytes or 0 for c in tied)
    chosen = min((c for c in tied if (c.size_bytes or 0) * SMALLER_FACTOR <= smallest), key=lambda c: (len(c.passes), c.size_bytes or 0))
    reason = f"{chosen.name} takes {_ms(chosen, size):.2f} ms for {counted(size, size_unit)}"
    if chosen.name != REFERENCE:
        gain = ratio(rounds[REFERENCE], rounds[chosen.name], looks=looks)
        reason += f", {gain.value:.2f}× as fast as {REFERENCE} ({gain.low:.2f} to {gain.high:.2f}, in the same rounds)"
    others = [c.name for c in tied if c is not chosen]
    if others:
        are = "is" if len(others) == 1 else "are"
        reason += f"; {' and '.join(others)} {are} as fast, within {TIE_PCT:g} % or not surely slower, but larger or changed more"
    return chosen.name, reason


def pareto(candidates: Sequence[CandidateRecord], size: int) -> set[str]:
    """Names of those that no other candidate that may be chosen dominates in latency, size, memory and quality."""
    points = {c.name: _point(c, size) for c in candidates if c.refused is None and c.p50_ms(size) is not None}
    return {name for name, point in points.items() if not any(_dominates(other, point) for other in points.values())}


def _ms(candidate: CandidateRecord, size: int) -> float:
    found = candidate.p50_ms(size)
    return float("inf") if found is None else found


def _point(candidate: CandidateRecord, size: int) -> tuple[float, float, float, float]:
    change = candidate.change.value if candidate.change else 0.0
    return _ms(candidate, size), candidate.size_bytes or 0, candidate.peak_memory_bytes or 0, change


def _dominates(other: tuple[float, ...], point: tuple[float, ...]) -> bool:
    return other != point and all(a <= b for a, b in zip(other, point, strict=True))
