from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from loadtests.judge import (
    CANARY_OBJECTIVES,
    Arm,
    Batch,
    ErrorIncrease,
    ErrorLimit,
    GoodputLimit,
    Judge,
    JudgeError,
    NotSlower,
    Policy,
    QuantileLimit,
    QuantileRatio,
    SameScores,
    Verdict,
)

GAP_S = 0.01


def arm(count: int, seed: int, *, times: float = 1.0, errors: float = 0.0, first_s: float = 0.0, **columns: np.ndarray) -> Arm:
    draw = np.random.default_rng(seed)
    latency = times * np.exp(0.5 * draw.standard_normal(count))
    return Arm(first_s + GAP_S * np.arange(count), latency, draw.random(count) >= errors, **columns)


def judged(canary: Arm, baseline: Arm, *objectives: object, policy: Policy | None = None) -> Verdict:
    judge = Judge(objectives or CANARY_OBJECTIVES, policy)
    judge.add(Batch(canary, baseline))
    return judge.verdict()


@pytest.fixture(scope="module")
def alike() -> Verdict:
    return judged(arm(6000, 1, errors=0.001), arm(6000, 2, errors=0.001))


def test_the_same_service_twice_passes(alike: Verdict) -> None:
    assert alike.status == "pass"
    assert alike.sentence == "Passed after 6,000 requests of the canary and 6,000 of the baseline: every objective is met."
    ratio = next(finding for finding in alike.findings if finding.objective == "p99 ratio")
    assert ratio.effect.low is not None
    assert ratio.effect.high is not None
    assert ratio.effect.low < 1 < ratio.effect.high < 1.5
    assert ratio.canary_samples == pytest.approx(5990, abs=10)


def test_a_slower_canary_fails_with_the_ratio_inside_its_interval() -> None:
    verdict = judged(arm(4000, 1, times=1.4), arm(4000, 2))
    assert verdict.status == "fail"
    assert verdict.sentence.startswith("Failed after 4,000 requests of the canary and 4,000 of the baseline: the canary is slower: ")
    slower = {finding.objective for finding in verdict.findings if finding.status == "fail"}
    assert {"not slower", "p50 ratio"} <= slower
    effect = next(finding.effect for finding in verdict.findings if finding.objective == "p50 ratio")
    assert effect.low < 1.4 < effect.high  # type: ignore[operator]


def test_a_canary_slower_by_less_than_the_margin_does_not_fail() -> None:
    canary, baseline = arm(5000, 1, times=1.09), arm(5000, 2)
    lenient = judged(canary, baseline, NotSlower(tolerated_ratio=1.1), QuantileRatio(quantile=0.5, tolerated_ratio=1.1))
    assert lenient.status == "pass"
    strict = judged(canary, baseline, NotSlower(tolerated_ratio=1.0), QuantileRatio(quantile=0.5, tolerated_ratio=1.0))
    assert strict.status == "fail"


def test_a_thirtieth_of_the_risk_still_finds_twice_the_latency_and_leaves_the_same_service_alone() -> None:
    policy = Policy(false_alarm=0.01 / 30)
    assert judged(arm(1000, 1, times=2.0), arm(1000, 2), policy=policy).status == "fail"
    assert judged(arm(20_000, 1), arm(20_000, 2), policy=policy).status == "pass"


def test_a_canary_that_fails_more_often_fails() -> None:
    verdict = judged(arm(3000, 1, errors=0.02), arm(3000, 2, errors=0.001))
    errors = next(finding for finding in verdict.findings if finding.objective == "errors")
    assert errors.status == "fail"
    assert 0 < errors.effect.low < 1.9 < errors.effect.high  # type: ignore[operator]
    assert "of the canary's requests failed" in errors.sentence
    assert errors.evidence >= errors.evidence_needed


def test_errors_that_come_back_at_once_do_not_make_a_canary_fast() -> None:
    canary = arm(3000, 1, times=1.5)
    broken = np.arange(3000) % 2 == 0
    canary = dataclasses.replace(canary, ok=canary.ok & ~broken, latency_ms=np.where(broken, 0.01, canary.latency_ms))
    statuses = {finding.objective: finding.status for finding in judged(canary, arm(3000, 2)).findings}
    assert statuses["not slower"] == statuses["p50 ratio"] == statuses["errors"] == "fail"


def test_models_that_answer_differently_fail_and_those_that_answer_alike_pass() -> None:
    draw = np.random.default_rng(3)
    first, second = draw.beta(2, 5, 8000), draw.beta(2, 5, 8000)
    objective = SameScores()
    same = judged(arm(8000, 1, score=first), arm(8000, 2, score=second), objective)
    assert same.status == "pass"
    other = judged(arm(2000, 1, score=np.clip(first + 0.15, 0, 1)[:2000]), arm(2000, 2, score=second[:2000]), objective)
    assert other.status == "fail"
    assert "answer differently" in other.sentence


def test_one_arm_is_judged_against_limits() -> None:
    objectives = (QuantileLimit(quantile=0.99, limit_ms=4.0), ErrorLimit(max_error_pct=0.5))
    judge = Judge(objectives)
    judge.add(Batch(arm(5000, 1)))
    verdict = judge.verdict()
    assert verdict.status == "pass"
    effect = verdict.findings[0].effect
    assert effect.low < np.exp(0.5 * 2.3263) < effect.high < 4.0  # type: ignore[operator]
    slow = Judge(objectives)
    slow.add(Batch(arm(5000, 1, times=1.5, errors=0.02)))
    assert [finding.status for finding in slow.verdict().findings] == ["fail", "fail"]


def test_judge_is_inconclusive_without_samples() -> None:
    verdict = Judge().verdict()
    assert verdict.status == "inconclusive"
    assert verdict.reasons == (
        "the canary has no requests: look whether it gets traffic",
        "the baseline has no requests: look whether it gets traffic",
    )


def test_judge_is_inconclusive_when_an_arm_has_no_samples() -> None:
    assert judged(arm(0, 1), arm(5000, 2)).status == "inconclusive"
    assert judged(arm(5000, 1), arm(0, 2)).status == "inconclusive"
    single = Judge((ErrorLimit(),))
    assert single.verdict().status == "inconclusive"


def test_few_samples_are_inconclusive_however_clear_they_look() -> None:
    verdict = judged(arm(150, 1, times=100.0), arm(150, 2))
    assert verdict.status == "inconclusive"
    assert verdict.sentence.startswith("Undecided after 150 requests")


def test_what_is_not_known_is_said_without_numbers_that_mean_nothing() -> None:
    def slow_together(seed: int) -> Arm:
        """Every hundredth stretch of twenty requests is slow."""
        requests = arm(3000, seed)
        slow = np.repeat(np.random.default_rng([seed, 7]).random(150) < 0.02, 20)
        return dataclasses.replace(requests, latency_ms=np.where(slow, 10.0, 1.0) * requests.latency_ms)

    (finding,) = judged(slow_together(1), slow_together(2), QuantileRatio(quantile=0.99)).findings
    assert finding.status == "inconclusive"
    count = f"{finding.correlated:.0f}"
    assert finding.correlated >= 2
    assert finding.sentence == f"too few requests to say anything of the canary's p99 ({count} that are slow together count as one)"
    (finding,) = judged(arm(4000, 1), arm(4000, 2), QuantileRatio(quantile=0.99, max_ratio=1.1)).findings
    assert finding.sentence.startswith("too few requests: the canary's p99 may be between 0.")


def test_an_arm_that_falls_silent_never_passes() -> None:
    judge = Judge()
    judge.add(Batch(arm(6000, 1), arm(6000, 2)))
    assert judge.verdict().status == "pass"
    judge.add(Batch(arm(0, 3), arm(250, 4, first_s=60.0)))
    verdict = judge.verdict()
    assert verdict.status == "inconclusive"
    assert "the canary has fallen silent: the baseline has had 250 requests since its last one" in verdict.sentence
    judge.add(Batch(arm(250, 5, first_s=63.0), arm(250, 6, first_s=63.0)))
    assert judge.verdict().status == "pass"


def test_a_late_generator_is_neither_passed_nor_failed() -> None:
    late = np.where(np.arange(1000) % 50 == 0, 30.0, 0.1)
    for times in (1.0, 3.0):
        verdict = judged(arm(1000, 1, times=times, lag_ms=late), arm(1000, 2, lag_ms=late))
        assert verdict.status == "inconclusive"
        assert "the load generator sent 2 % of the requests over 10 ms late" in verdict.sentence
        assert verdict.lag_measured
    unknown = np.full(1000, np.nan)
    assert judged(arm(1000, 1, lag_ms=unknown), arm(1000, 2, lag_ms=unknown)).status == "inconclusive"


@pytest.mark.parametrize(
    ("against", "told"),
    [
        ({"unsent": 300}, "the load generator sent 2.44 % of the requests over 10 ms late or not at all"),
        ({"unanswered": 300}, "the load generator does not know what came of 2.44 % of the requests, 1 % are allowed"),
        ({"lost_workers": 1}, "the load generator lost 1 process, and what came of its requests"),
        ({"lost_workers": 2}, "the load generator lost 2 processes and their requests"),
    ],
)
def test_what_a_generator_did_not_do_never_passes(against: dict[str, int], told: str) -> None:
    on_time = {"lag_ms": np.full(6000, 0.1)}
    judge = Judge()
    judge.add(Batch(arm(6000, 1, **on_time), arm(6000, 2, **on_time)))
    assert judge.verdict().status == "pass"
    judge.add(Batch(**against))
    verdict = judge.verdict()
    assert verdict.status == "inconclusive"
    assert told in verdict.sentence


def test_a_few_requests_without_an_answer_are_nothing_to_speak_of() -> None:
    judge = Judge()
    judge.add(Batch(arm(6000, 1), arm(6000, 2), unsent=0, unanswered=100))
    assert judge.verdict().status == "pass"


def test_missing_results_never_pass() -> None:
    canary = arm(6000, 1)
    canary.latency_ms[::50] = np.nan
    verdict = judged(canary, arm(6000, 2))
    assert verdict.status == "inconclusive"
    assert "2 % of the canary's requests have no result, 1 % are allowed" in verdict.sentence


def test_a_failure_once_shown_stays() -> None:
    judge = Judge((ErrorIncrease(),))
    judge.add(Batch(arm(1000, 1, errors=0.05), arm(1000, 2)))
    assert judge.verdict().status == "fail"
    judge.add(Batch(arm(8000, 3, first_s=10.0), arm(8000, 4, errors=0.02, first_s=10.0)))
    assert judge.verdict().status == "fail"


def test_the_verdict_does_not_depend_on_how_requests_are_batched() -> None:
    canary, baseline = arm(3000, 1, times=1.1), arm(3000, 2)
    whole, parts = Judge(), Judge()
    whole.add(Batch(canary, baseline))
    for first in range(0, 3000, 70):
        rows = np.arange(first, min(first + 70, 3000))
        parts.add(Batch(canary.rows(rows), baseline.rows(rows)))
    assert parts.verdict() == whole.verdict()


def test_a_tenth_of_the_traffic_is_enough_to_find_a_slow_canary() -> None:
    baseline = arm(18_000, 2)
    canary = dataclasses.replace(arm(2000, 1, times=1.5), started_s=GAP_S * 9 * np.arange(2000))
    assert judged(canary, baseline).status == "fail"
    same = dataclasses.replace(arm(2000, 1), started_s=GAP_S * 9 * np.arange(2000))
    assert judged(same, baseline).status != "fail"


def test_objectives_look_at_their_own_endpoint() -> None:
    where = np.array(["rank", "classify"] * 3000)
    canary = arm(6000, 1, endpoint=where)
    canary.latency_ms[1::2] *= 2
    objectives = (NotSlower(endpoint="rank"), NotSlower(endpoint="classify"))
    verdict = judged(canary, arm(6000, 2, endpoint=where), *objectives)
    assert {finding.objective: finding.status for finding in verdict.findings} == {
        "not slower at rank": "pass",
        "not slower at classify": "fail",
    }
    assert verdict.findings[0].canary_samples == pytest.approx(3000, abs=10)


def test_the_risk_of_a_false_alarm_is_divided_among_the_objectives(alike: Verdict) -> None:
    assert sum(1 / finding.evidence_needed for finding in alike.findings) == pytest.approx(0.01)


def test_the_verdict_survives_its_json(alike: Verdict) -> None:
    assert Verdict.from_json(alike.to_json()) == alike
    assert json.loads(alike.to_json())["schema_version"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version is 2"),
        ({"status": "maybe"}, "a status is 'maybe'"),
        ({"findings": []}, "it passes although not every objective does"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_file_that_is_no_verdict_is_refused(alike: Verdict, change: dict[str, object], message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        Verdict.from_json(json.dumps(json.loads(alike.to_json()) | change))
    for text in ("", "[]", "{}", '{"schema_version": 1}'):
        with pytest.raises(JudgeError, match="this is no verdict"):
            Verdict.from_json(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantileRatio(quantile=99), "quantile is 99"),
        (lambda: QuantileRatio(quantile=0.99, tolerated_ratio=1.5, max_ratio=1.5), "max_ratio is 1.5"),
        (lambda: NotSlower(tolerated_ratio=0.9), "tolerated_ratio is 0.9"),
        (lambda: ErrorIncrease(max_points=float("nan")), "max_points is nan"),
        (lambda: ErrorLimit(max_error_pct=100), "largest possible value"),
        (lambda: SameScores(low=1.0, high=0.0), "high is 0"),
        (lambda: QuantileLimit(quantile=0.5, limit_ms=0), "limit_ms is 0"),
        (lambda: NotSlower(weight=0), "weight is 0"),
        (lambda: Policy(false_alarm=0), "false_alarm is 0"),
        (lambda: Policy(min_samples=1), "min_samples is 1"),
        (lambda: Judge(()), "at least one objective"),
        (lambda: Judge((NotSlower(), NotSlower(tolerated_ratio=2.0))), "given twice: not slower"),
        (lambda: Arm(np.zeros(2), np.zeros(3), np.ones(2, dtype=bool)), "latency_ms has shape"),
        (lambda: Arm(np.zeros(1), np.array([-1.0]), np.ones(1, dtype=bool)), "negative"),
        (lambda: Arm(np.array([np.nan]), np.zeros(1), np.ones(1, dtype=bool)), "started_s"),
        (lambda: Arm(np.zeros(1), np.zeros(1), np.ones(1)), "ok is float64"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_the_value_and_the_limit(make: object, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        make()  # type: ignore[operator]


def test_a_baseline_that_nothing_compares_with_is_refused() -> None:
    with pytest.raises(JudgeError, match="no objective compares"):
        Judge((ErrorLimit(),)).add(Batch(arm(10, 1), arm(10, 2)))


def test_an_endpoint_that_samples_do_not_name_is_refused() -> None:
    with pytest.raises(JudgeError, match="no column endpoint"):
        Judge((NotSlower(endpoint="rank"),)).add(Batch(arm(10, 1), arm(10, 2)))


def test_defaults_are_promises() -> None:
    assert Policy() == Policy(
        false_alarm=0.01, false_pass=0.05, planned_samples=10_000, min_samples=200, max_lag_ms=10.0, max_missing_pct=1.0, silent_after=200
    )
    assert (
        NotSlower(tolerated_ratio=1.05, min_samples=1000),
        QuantileRatio(quantile=0.5, tolerated_ratio=1.05, max_ratio=1.25),
        QuantileRatio(quantile=0.99, tolerated_ratio=1.05, max_ratio=1.5),
        ErrorIncrease(tolerated_points=0.01, max_points=0.5),
    ) == CANARY_OBJECTIVES


def test_goodput_counts_failed_and_late_answers_alike() -> None:
    asked = GoodputLimit(within_ms=3.0, min_goodput_pct=95)
    good = one_arm(arm(4000, 1, errors=0.005), asked)
    assert good.status == "pass"
    effect = good.findings[0].effect
    assert effect.value == pytest.approx(98.1, abs=0.5)
    assert 95 < effect.low < effect.value < effect.high  # type: ignore[operator]
    assert "of the requests were answered within 3 ms, more than 95 %" in good.findings[0].sentence
    assert one_arm(arm(4000, 1, errors=0.1), asked).status == "fail"
    assert one_arm(arm(4000, 1, times=2), asked).status == "fail"
    assert one_arm(arm(150, 1), asked).status == "inconclusive"


def one_arm(canary: Arm, *objectives: object) -> Verdict:
    judge = Judge(objectives)
    judge.add(Batch(canary))
    return judge.verdict()
