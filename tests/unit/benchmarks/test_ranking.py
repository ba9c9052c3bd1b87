from __future__ import annotations

import json

import pytest

from benchmarks.ranking import MIN_ROUNDS, Arm, aims_of, check_answer, measure, summarise
from benchmarks.record import Figure
from benchmarks.services import ServiceFailed


def _answer(*entries: tuple[str, float]) -> bytes:
    return json.dumps({"ranking": [{"id": id, "probability": p} for id, p in entries]}).encode()


def test_every_arm_is_visited_in_every_round_even_when_the_time_is_over() -> None:
    calls: list[str] = []
    arms: dict[tuple[str, int], Arm] = {("a", 1): lambda _: calls.append("a"), ("b", 1): lambda _: calls.append("b")}
    samples = measure(arms, seconds=1e-9, seed=0, on_round=lambda _: None)
    assert {key: len(values) for key, values in samples.items()} == {("a", 1): MIN_ROUNDS, ("b", 1): MIN_ROUNDS}
    assert calls.count("a") == calls.count("b")


def test_order_of_arms_changes_between_rounds() -> None:
    calls: list[str] = []

    def arm(name: str) -> Arm:
        return lambda _: calls.append(name)

    measure({(name, 1): arm(name) for name in "abc"}, seconds=1e-9, seed=0, on_round=lambda _: None)
    visits = [calls[i] for i in range(0, len(calls), len(calls) // (3 * MIN_ROUNDS))]
    assert len({tuple(visits[i : i + 3]) for i in range(0, len(visits), 3)}) > 1


def test_ratios_pair_the_rounds() -> None:
    samples = {
        ("pilotage_http", 500): [1.0, 10.0, 2.0],
        ("pilotage_int8_http", 500): [1.0, 5.0, 1.0],
        ("naive_http", 500): [6.0, 60.0, 12.0],
        ("session_run", 500): [0.5, 2.5, 1.0],
    }
    figures = {figure.name: figure for figure in summarise("ids8", samples)}
    assert figures["ids8_500_pilotage_http_p50_ms"] == Figure("ids8_500_pilotage_http_p50_ms", 2.0, "ms", 3)
    assert figures["ids8_500_speedup_over_naive"] == Figure("ids8_500_speedup_over_naive", 6.0, "x", 3)
    assert figures["ids8_500_overhead_over_session_run"].value == 2.0
    aim, moonshot = aims_of(list(figures.values()))
    assert (aim.value, aim.aim, aim.met) == (6.0, 5.0, True)
    assert (moonshot.value, moonshot.aim, moonshot.met) == (6.0, 10.0, False)


def test_a_whole_answer_passes() -> None:
    check_answer(_answer(("b", 0.9), ("a", 0.1)), frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_answer(("a", 0.5)), "1 candidates, 2 were sent"),
        (_answer(("a", 0.5), ("a", 0.4)), "2 were sent"),
        (_answer(("a", float("nan")), ("b", 0.4)), "outside 0 to 1"),
        (_answer(("a", 1.5), ("b", 0.4)), "outside 0 to 1"),
        (_answer(("a", 0.1), ("b", 0.4)), "falling order"),
    ],
)
def test_an_answer_with_less_work_done_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ServiceFailed, match=reason):
        check_answer(content, frozenset({"a", "b"}))
