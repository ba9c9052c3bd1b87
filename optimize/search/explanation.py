"""The choice in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from optimize.search.budget import CONFIDENCE, Budget
from optimize.search.candidates import DOES_NOT_APPLY, REFERENCE
from optimize.search.metrics import Metric
from optimize.search.report import CandidateRecord, counted

NO_TIME = float("nan")


def explain(candidates: Sequence[CandidateRecord], chosen: str, budget: Budget, looks: int, size: int, size_unit: str) -> tuple[str, ...]:
    """Why this one, how sure that is, what the test part says, and who came near: a paragraph each."""
    by_name = {c.name: c for c in candidates}
    picked, reference = by_name[chosen], by_name[REFERENCE]
    sized = counted(size, size_unit)
    if picked is reference:
        first = (
            f"The model ships as exported. {len(candidates) - 1} variants were tried; none that keeps {budget.of.title} "
            f"inside the budget is clearly faster for {sized}."
        )
    else:
        first = _gain(picked, reference, size, sized)
    return (first, *_how_sure(picked, budget, looks), *_on_test(picked, budget), *_nearly(candidates, budget.of), *_hardly_any(candidates))


def _gain(picked: CandidateRecord, reference: CandidateRecord, size: int, sized: str) -> str:
    before, after = reference.p50_ms(size) or NO_TIME, picked.p50_ms(size) or NO_TIME
    share = 100 * (picked.size_bytes or 0) / (reference.size_bytes or 1)
    gain = picked.speedup
    times = f"{gain.value:.2f} times as fast" if gain else f"{before / after:.2f} times as fast"
    if gain:
        times += (
            f". That is the middle of {gain.rounds} rounds in which both ran, so that a moment in which the machine is slow hits both; "
            f"it is between {gain.low:.2f} and {gain.high:.2f} at {CONFIDENCE:.0%} at each end, for all candidates at once"
        )
    return (
        f"{picked.name} answers {sized} in {after:.2f} ms where the model as exported takes {before:.2f} ms: {times}. "
        f"Its file has {share:.0f} % of the size. What it changes: {picked.changes}."
    )


def _how_sure(picked: CandidateRecord, budget: Budget, looks: int) -> list[str]:
    if picked.change is None:
        return []
    show, change = budget.of.show, picked.change
    return [
        f"Its {budget.of.title} on validation data changes by {show(change.value)}; positive is worse. On other data of the same "
        f"kind it could be up to {show(change.high)}, and the budget is {show(budget.limit)}. That upper end holds at "
        f"{CONFIDENCE:.0%} for all {looks} candidates at once, so that picking the fastest of many does not flatter it."
    ]


def _on_test(picked: CandidateRecord, budget: Budget) -> list[str]:
    if picked.test_change is None:
        return []
    show, change = budget.of.show, picked.test_change
    inside = change.value <= budget.limit
    verdict = "inside the budget there too." if inside else "outside the budget there. Look again with more data before you ship it."
    interval = f"{show(change.low)} to {show(change.high)}"
    return [f"On the test part, which took no part in the choice, it changes by {show(change.value)} ({interval}): {verdict}"]


def _nearly(candidates: Sequence[CandidateRecord], metric: Metric) -> list[str]:
    ends = [(c.change.high, c.name) for c in candidates if c.refused is not None and c.change is not None]
    if not ends:
        return []
    high, name = min(ends)
    return [
        f"Nearest to the budget of those that did not keep it is {name}, with up to {metric.show(high)}. More validation data makes "
        "intervals narrower, and may let one in whose middle is inside."
    ]


def _hardly_any(candidates: Sequence[CandidateRecord]) -> list[str]:
    tried = [c for c in candidates if c.passes]
    failed = [c for c in tried if c.refused is not None and DOES_NOT_APPLY in c.refused]
    if 2 * len(failed) <= len(tried):
        return []
    return [
        f"{len(failed)} of the {len(tried)} compositions do not apply to this model; the table says why. Should it be quantized already, "
        "search the model that it was made of: most passes look for float32 weights."
    ]
