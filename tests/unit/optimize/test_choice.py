"""Who is chosen among those that may be, and who is on the front."""

from __future__ import annotations

import pytest

from optimize.search.budget import Budget, Change
from optimize.search.choice import choose, pareto
from optimize.search.explanation import explain
from optimize.search.measure import Latency
from optimize.search.pairs import TIE_PCT, Rounds, ratio
from optimize.search.report import CandidateRecord

SIZE = 500


def _candidate(
    name: str,
    p50_ms: float,
    *,
    passes: int = 0,
    refused: str | None = None,
    size_bytes: int = 100,
    built: bool = True,
    change: Change | None = None,
    memory: int = 10,
) -> CandidateRecord:
    latency = (Latency(size=1, p50_ms=9.0, p95_ms=9.0, rounds=5), Latency(size=SIZE, p50_ms=p50_ms, p95_ms=9.0, rounds=5))
    return CandidateRecord(
        name=name,
        passes=tuple(f"pass_{i}" for i in range(passes)),
        changes="something",
        size_bytes=size_bytes if built else None,
        peak_memory_bytes=memory,
        change=change,
        test_change=change,
        latency=latency if built else (),
        refused=refused,
    )


def _chosen(candidates: list[CandidateRecord], rounds: Rounds | None = None) -> tuple[str, str]:
    """Choose by `rounds`, else by rounds that all take the median."""
    if rounds is None:
        rounds = {c.name: [c.latency[-1].p50_ms] * 5 for c in candidates if c.latency}
    return choose(candidates, rounds, SIZE, "candidates")


def test_the_fastest_allowed_is_chosen_with_its_reason() -> None:
    name, reason = _chosen([_candidate("fp32", 4.0), _candidate("fp16", 4.5, passes=1), _candidate("int8_dynamic", 2.0, passes=1)])
    assert name == "int8_dynamic"
    assert reason == "int8_dynamic takes 2.00 ms for 500 candidates, 2.00× as fast as fp32 (2.00 to 2.00, in the same rounds)"


def test_what_is_refused_or_was_not_built_is_never_chosen() -> None:
    candidates = [
        _candidate("fp32", 4.0),
        _candidate("fast", 0.1, passes=1, refused="NE worse"),
        _candidate("none", 0, refused="could not be built", built=False),
    ]
    assert _chosen(candidates)[0] == "fp32"


@pytest.mark.parametrize("order", [1, -1])
def test_among_equally_fast_ones_the_fewest_passes_win(order: int) -> None:
    barely = 4.0 / (1 + TIE_PCT / 100) * 1.001
    candidates = [_candidate("fp32", 4.0), _candidate("int8_dynamic", barely, passes=1)][::order]
    name, reason = _chosen(candidates)
    assert name == "fp32"
    assert "int8_dynamic is as fast, within 3 %" in reason


def test_beyond_the_tie_speed_wins() -> None:
    beyond = 4.0 / (1 + TIE_PCT / 100) * 0.999
    assert _chosen([_candidate("fp32", 4.0), _candidate("int8_dynamic", beyond, passes=1)])[0] == "int8_dynamic"


def test_rounds_decide_and_not_medians() -> None:
    """In every round `a` is 10 % slower than `b`; its median is less, because it left before the machine slowed down."""
    candidates = [_candidate("fp32", 4.0), _candidate("a", 1.1, passes=1), _candidate("b", 3.0, passes=1)]
    pace = [1.0] * 10 + [3.0] * 30
    rounds = {"fp32": [4.0 * x for x in pace], "a": [1.1 * x for x in pace[:10]], "b": [1.0 * x for x in pace]}
    name, reason = _chosen(candidates, rounds)
    assert name == "b"
    assert "4.00× as fast as fp32" in reason


def test_who_is_not_surely_slower_is_as_fast() -> None:
    """Ratios to `b` scatter around 1.05 from 0.9 to 1.2: nobody can say, and the fewest passes win."""
    candidates = [_candidate("fp32", 4.0), _candidate("a", 2.1, passes=1), _candidate("b", 2.0, passes=2)]
    rounds = {"fp32": [4.0] * 9, "a": [2.0 * x for x in (0.9, 1.2, 1.05, 0.95, 1.1, 1.05, 0.98, 1.15, 1.06)], "b": [2.0] * 9}
    name, reason = _chosen(candidates, rounds)
    assert name == "a"
    assert "b is as fast, within 3 % or not surely slower" in reason
    rounds["a"] = [2.0 * 1.05] * 9
    assert _chosen(candidates, rounds)[0] == "b"


def test_who_left_the_race_is_not_chosen_for_being_small() -> None:
    """It was 1.3 times as slow in ten rounds that scatter, which is not surely slower, and had to leave."""
    candidates = [_candidate("fp32", 2.5), _candidate("small", 2.9, passes=1, size_bytes=10), _candidate("fast", 2.2, passes=1)]
    scattered = [2.2 * 1.3 * x for x in (0.7, 1.0, 1.2, 1.0, 0.9, 1.3, 1.0, 1.1, 1.0, 0.75)]
    rounds = {"fp32": [2.5] * 40, "small": scattered, "fast": [2.2] * 40}
    name, reason = _chosen(candidates, rounds)
    assert name == "fast"
    assert "small" not in reason
    assert _chosen(candidates, {name: times[:10] for name, times in rounds.items()})[0] == "small"


def test_among_ties_a_clearly_smaller_file_wins_over_fewer_passes() -> None:
    slow = _candidate("fp32", 9.0, size_bytes=400)
    assert _chosen([slow, _candidate("a", 2.0, passes=1, size_bytes=300), _candidate("b", 2.01, passes=3, size_bytes=200)])[0] == "b"
    assert _chosen([slow, _candidate("a", 2.0, passes=1, size_bytes=300), _candidate("b", 2.01, passes=3, size_bytes=290)])[0] == "a"


def test_the_front_holds_what_nothing_beats_in_everything() -> None:
    candidates = [
        _candidate("fp32", 4.0, size_bytes=100),
        _candidate("small", 4.5, size_bytes=20),
        _candidate("fast", 2.0, size_bytes=50, change=Change(0.05, 0.0, 0.1)),
        _candidate("beaten", 4.6, size_bytes=100, change=Change(0.05, 0.0, 0.1)),
        _candidate("refused", 0.1, size_bytes=1, refused="NE worse"),
    ]
    assert pareto(candidates, SIZE) == {"fp32", "small", "fast"}
    frugal = _candidate("beaten", 4.6, size_bytes=100, change=Change(0.05, 0.0, 0.1), memory=5)
    assert "beaten" in pareto([*candidates[:3], frugal], SIZE), "memory counts too"


def test_the_explanation_names_gain_budget_test_part_and_the_nearest_miss() -> None:
    candidates = [
        _candidate("fp32", 4.0),
        _candidate("int8_dynamic", 2.0, passes=1, size_bytes=30, change=Change(0.02, 0.01, 0.04)),
        _candidate("low_rank", 1.0, passes=1, change=Change(0.2, 0.1, 0.31), refused="NE worse"),
    ]
    text = "\n".join(explain(candidates, "int8_dynamic", Budget("ne", 0.1), 2, SIZE, "candidates"))
    for words in (
        "2.00 times as fast",
        "30 % of the size",
        "up to +0.04 %",
        "budget is +0.1 %",
        "all 2 candidates",
        "inside the budget there too",
        "low_rank, with up to +0.31 %",
    ):
        assert words in text
    paired = candidates[1].model_copy(update={"speedup": ratio([4.4, 4.0, 4.2], [2.0, 2.0, 2.0])})
    text = "\n".join(explain([candidates[0], paired], "int8_dynamic", Budget(), 2, SIZE, "candidates"))
    for words in ("2.10 times as fast", "middle of 3 rounds", "between 2.00 and 2.20"):
        assert words in text
    outside = candidates[1].model_copy(update={"test_change": Change(0.2, 0.1, 0.3)})
    assert "Look again with more data" in "\n".join(explain([candidates[0], outside], "int8_dynamic", Budget(), 2, SIZE, "candidates"))


def test_the_explanation_says_when_nothing_was_gained() -> None:
    assert "ships as exported" in explain([_candidate("fp32", 4.0)], "fp32", Budget(), 0, SIZE, "candidates")[0]


def test_the_explanation_says_when_the_model_was_quantized_already() -> None:
    reference, fine = _candidate("fp32", 4.0), _candidate("clean_up", 4.0, passes=1)
    useless = [_candidate(f"int8_{i}", 0.0, passes=1, refused=f"int8_{i} does not apply: no float32 weights") for i in range(2)]
    told = "\n".join(explain([reference, fine, *useless], "fp32", Budget(), 3, 1, "pictures"))
    assert "2 of the 3 compositions do not apply" in told
    assert "quantized already" in told
    assert "faster for 1 picture." in told
    assert "quantized" not in "\n".join(explain([reference, fine, useless[0]], "fp32", Budget(), 2, 1, "pictures"))
