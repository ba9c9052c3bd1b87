"""The CLIP benchmark's figures follow from its samples, and its picture is always the same."""

from __future__ import annotations

from benchmarks.clip import FEW_LABELS, OURS, PLAIN, _summarize, _words
from benchmarks.record import Figure

MANY = 1000


def test_ratios_are_of_the_same_rounds_and_aims_follow_from_them() -> None:
    slow = 3.0  # the machine was this much slower in the second round: no ratio may see it
    rounds = {
        f"warm_{MANY}_labels_{OURS}": 0.030,
        f"warm_{FEW_LABELS}_labels_{OURS}": 0.028,
        f"warm_{MANY}_labels_{PLAIN}": 0.090,
        f"image_tower_{OURS}": 0.025,
        f"image_tower_{PLAIN}": 0.080,
        "preprocessing": 0.006,
        "transformers_pipeline": 1.4,
    }
    figures: list[Figure] = []
    aims = {aim.name: aim for aim in _summarize({name: [[s], [slow * s]] for name, s in rounds.items()}, figures, MANY)}
    assert {name: round(aim.value, 3) for name, aim in aims.items()} == {
        "warm_over_image_tower": 1.2,
        "pipeline_over_warm": 50.0,
        "preprocessing_share": 0.2,
    }
    assert "open_clip_over_warm" not in {figure.name for figure in figures}, "a rival that is not there has no figure"


def test_made_up_words_are_distinct_and_always_the_same() -> None:
    assert len(set(_words("a", 40))) == 40
    assert _words("n", 10) == _words("n", 40)[:10]
