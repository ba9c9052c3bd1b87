"""Does the canary refuse (4xx) what the baseline takes?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from loadtests.judge import (
    CANARY_OBJECTIVES,
    Arm,
    Batch,
    ErrorIncrease,
    Judge,
    JudgeError,
    Objective,
    RefusalIncrease,
    Verdict,
    objectives_of,
)

LIVE = (ErrorIncrease(), RefusalIncrease())


def _arm(count: int, seed: int, refused: float, *, burst: int = 1) -> Arm:
    """Requests of callers who send so many in a row, each all right or all refused."""
    draw = np.random.default_rng(seed)
    mistaken = np.repeat(draw.random(-(-count // burst)) < refused, burst)[:count]
    return Arm(0.01 * np.arange(count), draw.lognormal(1.0, 0.4, count), np.ones(count, dtype=bool), refused=mistaken)


def _judged(canary: Arm, baseline: Arm, *asked: Objective) -> Verdict:
    judge = Judge(asked or LIVE)
    judge.add(Batch(canary, baseline))
    return judge.verdict()


def test_a_canary_that_refuses_every_twentieth_request_is_found_and_is_said_to_refuse() -> None:
    verdict = _judged(_arm(1500, 1, 0.05), _arm(1500, 2, 0.0))
    found = {finding.objective: finding for finding in verdict.findings}
    assert (verdict.status, found["refusals"].status) == ("fail", "fail")
    assert found["errors"].effect.value == 0
    assert "the canary refuses more often: 4.73 % of the canary's requests were refused, 0 % of the baseline's" in verdict.sentence
    effect = found["refusals"].effect
    assert 0.5 <= effect.low < 5.0 < effect.high  # type: ignore[operator]


@pytest.mark.parametrize("burst", [1, 20])
@pytest.mark.parametrize("seed", range(5))
def test_callers_who_make_as_many_mistakes_at_both_are_nobodys_fault(seed: int, burst: int) -> None:
    verdict = _judged(_arm(10_000, 2 * seed, 0.1, burst=burst), _arm(10_000, 2 * seed + 1, 0.1, burst=burst))
    status = {finding.objective: finding.status for finding in verdict.findings}["refusals"]
    assert status == "pass" if burst == 1 else status != "fail"


def test_a_pass_takes_no_more_requests_than_that_of_errors_where_mistakes_are_few() -> None:
    for count in (1000, 2000, 3000):
        findings = _judged(_arm(count, 1, 0.01), _arm(count, 2, 0.01)).findings
        status = {finding.objective: finding.status for finding in findings}
        assert status["refusals"] == "pass"
    assert status["errors"] == "pass"
    assert "the rise is below 5 points" in next(finding.sentence for finding in findings if finding.objective == "refusals")


def test_a_rise_that_is_tolerated_does_not_fail() -> None:
    canary, baseline = _arm(10_000, 1, 0.004), _arm(10_000, 2, 0.0)
    assert _judged(canary, baseline, RefusalIncrease()).status == "pass"
    assert _judged(canary, baseline, RefusalIncrease(tolerated_points=0.0)).status == "fail"


def test_refused_requests_are_no_failures_and_their_latencies_count() -> None:
    canary, baseline = _arm(2000, 1, 0.3), _arm(2000, 2, 0.3)
    unsaid = [dataclasses.replace(arm, refused=None) for arm in (canary, baseline)]
    assert _judged(canary, baseline, ErrorIncrease()) == _judged(*unsaid, ErrorIncrease())
    assert _judged(canary, baseline, *CANARY_OBJECTIVES) == _judged(*unsaid, *CANARY_OBJECTIVES)


def test_the_verdict_does_not_depend_on_how_requests_are_batched_nor_on_looks_without_any() -> None:
    canary, baseline = _arm(2000, 1, 0.02), _arm(2000, 2, 0.01)
    parts, nothing = Judge(LIVE), np.arange(0)
    for first in range(0, 2000, 70):
        rows = np.arange(first, min(first + 70, 2000))
        parts.add(Batch(canary.rows(rows), baseline.rows(nothing)))
        parts.add(Batch())
        parts.add(Batch(baseline=baseline.rows(rows)))
    assert parts.verdict().findings == _judged(canary, baseline).findings


def test_refusals_are_judged_at_their_own_endpoint() -> None:
    where = np.array(["rank", "classify"] * 2000)
    canary, baseline = (dataclasses.replace(_arm(4000, seed, 0.0), endpoint=where) for seed in (1, 2))
    canary = dataclasses.replace(canary, refused=(where == "rank") & (np.arange(4000) % 20 == 0))
    verdict = _judged(canary, baseline, RefusalIncrease(endpoint="rank"), RefusalIncrease(endpoint="classify"))
    assert [finding.status for finding in verdict.findings] == ["fail", "pass"]


@pytest.mark.parametrize("bare", ["canary", "baseline"])
def test_samples_that_do_not_say_what_was_refused_cannot_be_asked(bare: str) -> None:
    arms = {"canary": _arm(10, 1, 0.0), "baseline": _arm(10, 2, 0.0)}
    arms[bare] = dataclasses.replace(arms[bare], refused=None)
    with pytest.raises(
        JudgeError, match=r"refusals: the samples have no column refused; load tests count refused requests \(4xx\) as failed"
    ):
        Judge(LIVE).add(Batch(**arms))
    Judge((ErrorIncrease(),)).add(Batch(**arms))


def test_its_numbers_are_promises_and_mistakes_in_them_are_named() -> None:
    assert objectives_of({"refusal_increase": {}})[0] == (RefusalIncrease(tolerated_points=0.5, max_points=5.0),)
    assert RefusalIncrease().share_of_risk == 0.5
    with pytest.raises(JudgeError, match=r"table refusal_increase: refusals: max_points is 0.1, it must be above tolerated_points, 0.5"):
        objectives_of({"refusal_increase": {"max_points": 0.1}})
    with pytest.raises(JudgeError, match="column refused is float64, it must be bool"):
        dataclasses.replace(_arm(2, 1, 0.0), refused=np.zeros(2))
