"""Timing of many variants in stages: who is clearly slower than the fastest leaves after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from optimize.passes.base import Feeds
from optimize.search.measure import Runs, Samples, measure
from optimize.search.pairs import Rounds, fastest, is_slower, ratio

STAGE_ROUNDS = 10

DROP_FACTOR = 1.3
"""After the first stage, who takes so much longer than the fastest is out: ten times what counts as a tie."""


def race(
    sessions: Mapping[str, Runs],
    feeds: Mapping[int, Feeds],
    decisive: int,
    reference: str,
    *,
    rounds: int,
    seed: int,
    on_round: Callable[[Samples], None] = lambda _: None,
    samples: Samples | None = None,
) -> Samples:
    """Time all sessions, those in reach of the fastest for all rounds.

    Parameters
    ----------
    feeds
        Size → feeds of one run. Sizes above the decisive one, whose runs take most of the time and decide nothing, are timed in the
        first stage alone.
    reference
        Stays in all rounds, for the others to be compared with.
    samples
        As for `measure`: what a race over the same rounds that was cut off had taken.
    """
    left, taken = list(sessions), dict(samples or {})
    ends = [*range(STAGE_ROUNDS, rounds, STAGE_ROUNDS), rounds]
    is_warm = False
    for end in ends:
        timed = {size: of_size for size, of_size in feeds.items() if end == ends[0] or size <= decisive}
        before = sum(map(len, taken.values()))
        taken = measure(
            {name: sessions[name] for name in left}, timed, rounds=end, seed=seed, samples=taken, on_round=on_round, is_warm=is_warm
        )
        is_warm = is_warm or sum(map(len, taken.values())) > before
        so_far = {name: taken[name, decisive][:end] for name in left}
        left = survivors(so_far, reference, is_first=end == ends[0], looks=(len(sessions) - 1) * len(ends))
    return taken


def survivors(rounds: Rounds, reference: str, *, is_first: bool, looks: int) -> list[str]:
    """The reference, and who is not surely slower than the fastest nor, after the first stage, much slower."""
    best = fastest(rounds, reference)

    def stays(times: Sequence[float]) -> bool:
        to_best = ratio(times, rounds[best], looks=looks)
        return not is_slower(to_best) and not (is_first and to_best.value > DROP_FACTOR)

    return [name for name, times in rounds.items() if name == reference or stays(times)]
