"""Do both versions answer alike? A version that is fast and wrong (badly quantized, fed with other features) must be stopped too.

The same requests are put to both versions. Five things are asked, each with two numbers as everywhere in the judge: more than the first,
shown, fails; less than the second, shown, passes.

* **refusals**: the share of requests that one takes and the other refuses (4xx), or answers with something else.
* **scores**: distance of the distributions, of one candidate or image a request, drawn by chance (`loadtests.judge.SameScores`).
* **overlap**: of rankings, the mean share of the top k that both have in common.
* **agreement**: of images, how often the best label is the same.
* **calibration**: the mean score beside that of the other version. What an auction pays, and what is mixed with other scores, hangs on it.

The score of an image is the probability of its best label.

Overlap, agreement and calibration are bets on the means of whole requests (`loadtests.judge.mean_ratio`); candidates of a request are not
taken to be independent, requests are: each is to be asked once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from k8s.rollout.questions import Answers
from loadtests.judge import Arm, Batch, Effect, Finding, Judge, Policy, RefusalIncrease, SameScores, Status, Verdict
from loadtests.judge.mean_ratio import MeanRatio

GRID = 60
"""Ratios that bets are placed on beside the four that decide: they only draw the interval, 2 % apart around 1."""

MOST_EVIDENCE = 1e300
"""As in the judge: JSON can hold it."""

CANDIDATE_SEED = 20_221_125
"""Which candidate of a request stands for its scores: the same for both versions, without regard to its place."""


class AnswerLimits(BaseModel):
    """What is asked of the canary's answers; the table ``[answers]`` of a plan.

    The defaults let a ranker pass that was trained again on newer data, and stop one whose scores are those of another scale or order. Of
    classifiers they ask more, for a label is right or wrong, and places of a ranking are many: one in ten may change.

    Attributes
    ----------
    mirror_pct
        Per cent of the live requests that go by weight which are copied to the engine while a step is judged: they are what is compared.
        0: recorded requests are.
    requests
        Requests to compare in a step, at most.
    rate_per_s
        Requests to each of both in a second, beside those that the arms are loaded with.
    top_k
        Places of a ranking that are compared.
    tolerated_refusal_points, max_refusal_points
        Percentage points by which the share of refused requests may rise.
    tolerated_distance, max_distance
        Of the distributions of scores (Kolmogorov-Smirnov).
    tolerated_overlap, min_overlap
        Mean share of the top k in common: fails when shown to be below the first, passes when shown to be above the second.
    tolerated_agreement, min_agreement
        Share of the images whose best label is the same, likewise.
    tolerated_ratio, max_ratio
        Mean score beside the other version's, or the inverse.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mirror_pct: int = Field(default=0, ge=0, le=100)
    requests: int = Field(default=2000, ge=200, le=100_000)
    rate_per_s: float = Field(default=40.0, gt=0, le=1000)
    top_k: int = Field(default=10, ge=1, le=1000)
    tolerated_refusal_points: float = Field(default=0.5, ge=0, lt=100)
    max_refusal_points: float = Field(default=5.0, gt=0, le=100)
    tolerated_distance: float = Field(default=0.1, ge=0, lt=1)
    max_distance: float = Field(default=0.25, gt=0, le=1)
    tolerated_overlap: float = Field(default=0.6, gt=0, le=1)
    min_overlap: float = Field(default=0.4, gt=0, le=1)
    tolerated_agreement: float = Field(default=0.9, gt=0, le=1)
    min_agreement: float = Field(default=0.8, gt=0, le=1)
    tolerated_ratio: float = Field(default=1.1, gt=1, le=10)
    max_ratio: float = Field(default=1.3, gt=1, le=10)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (
            ("tolerated_refusal_points", "max_refusal_points"),
            ("tolerated_distance", "max_distance"),
            ("min_overlap", "tolerated_overlap"),
            ("min_agreement", "tolerated_agreement"),
            ("tolerated_ratio", "max_ratio"),
        ):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} is {getattr(self, low):g}, it must be below {high}, {getattr(self, high):g}")
        return self


class AnswersJudge:
    """Judges answers of one attempt at a step.

    Parameters
    ----------
    false_alarm
        Chance that a version ever fails that is as close as tolerated; a fifth for each of the five.
    false_pass
        Chance that one ever passes that is too far off in one of them.
    """

    def __init__(self, limits: AnswerLimits, *, false_alarm: float, false_pass: float) -> None:
        self._limits, self._false_alarm, self._false_pass = limits, false_alarm, false_pass
        risk = false_alarm / 5
        same = SameScores(tolerated_distance=limits.tolerated_distance, max_distance=limits.max_distance)
        # Requests are asked once each and are independent; fewer than 100 say nothing about a distribution.
        policy = Policy(false_alarm=risk, false_pass=false_pass, min_samples=100)
        self._scores = Judge([same], policy)
        refusals = RefusalIncrease(tolerated_points=limits.tolerated_refusal_points, max_points=limits.max_refusal_points)
        self._refusals = Judge([refusals], replace(policy, planned_samples=limits.requests))
        deciding = (1 / limits.max_ratio, 1 / limits.tolerated_ratio, limits.tolerated_ratio, limits.max_ratio)
        around = np.geomspace(0.5, 2.0, GRID)
        self._ratio = MeanRatio(sorted({*deciding, *around.tolist()}))
        self._overlap = _share_bets(limits.tolerated_overlap, limits.min_overlap)
        self._agreement = _share_bets(limits.tolerated_agreement, limits.min_agreement)
        self._risk, self._seen, self._asked, self._note = risk, 0, 0, ""
        self._draw = np.random.default_rng(CANDIDATE_SEED)
        self._failed: dict[str, Finding] = {}

    def add(self, answers: Answers) -> None:
        """Take in requests that were put to both versions.

        Raises
        ------
        JudgeError
            A score is no probability.
        """
        self._note = answers.note
        asked = len(answers.refused)
        places = np.arange(self._asked, self._asked + asked, dtype=np.float64)
        by_canary, by_other = answers.refused.T
        self._refusals.add(Batch(_arm(places, refused=by_canary), _arm(places, refused=by_other)))
        self._asked += asked
        requests = len(answers.sizes)
        if not requests:
            return
        first = np.concatenate([[0], np.cumsum(answers.sizes)[:-1]])
        drawn = first + np.floor(self._draw.random(requests) * answers.sizes).astype(np.int64)
        places = np.arange(self._seen, self._seen + requests, dtype=np.float64)
        canary, baseline = (_arm(places, score=scores[drawn]) for scores in (answers.canary_scores, answers.stable_scores))
        means = [np.add.reduceat(scores, first) / answers.sizes for scores in (answers.canary_scores, answers.stable_scores)]
        self._ratio.add(means[0], means[1])
        for bets, same in ((self._overlap, answers.overlap[~answers.images]), (self._agreement, answers.overlap[answers.images])):
            bets.add(same, np.ones(len(same)))
        self._scores.add(Batch(canary, baseline))
        self._seen += requests

    def verdict(self) -> Verdict:
        """Judge what has come so far."""
        findings = []
        others = (*self._refusals.verdict().findings, *self._scores.verdict().findings)
        for finding in (*others, *self._shares_in_common(), self._ratio_finding()):
            if finding.status == "fail":  # once shown, it stays
                self._failed.setdefault(finding.objective, finding)
            findings.append(self._failed.get(finding.objective, finding))
        statuses = {finding.status for finding in findings}
        status: Status = "fail" if "fail" in statuses else "pass" if statuses == {"pass"} else "inconclusive"
        reasons = () if self._asked else ("no request was answered by either version",)
        shown = [finding.sentence for finding in findings if finding.status == status]
        head = {"pass": "Same answers", "fail": "Other answers", "inconclusive": "Undecided about answers"}[status]
        of = f" (of {self._note})" if self._note else ""
        return Verdict(
            status=status,
            sentence=f"{head} after {self._asked:,} requests to both versions{of}: {'; '.join([*reasons, *shown])}.",
            reasons=reasons,
            findings=tuple(findings),
            canary_samples=self._asked,
            baseline_samples=self._asked,
            lag_measured=False,
            false_alarm=self._false_alarm,
            false_pass=self._false_pass,
        )

    def _shares_in_common(self) -> Iterator[Finding]:
        """Judge rankings and images, each where there are any."""
        limits = self._limits
        if self._overlap.pairs or not self._agreement.pairs:
            place = f"top {limits.top_k}"
            yield self._share(
                f"overlap of the {place}", f"of the {place} is the same", self._overlap, limits.tolerated_overlap, limits.min_overlap
            )
        if self._agreement.pairs:
            words = "of the images have the same best label"
            yield self._share("agreement", words, self._agreement, limits.tolerated_agreement, limits.min_agreement)

    def _share(self, objective: str, words: str, bets: MeanRatio, tolerated: float, least: float) -> Finding:
        passes = bets.above(least) >= -math.log(self._false_pass)
        effect = Effect(bets.value, *bets.interval(-math.log(self._risk)), "share", self._risk)
        share = "nothing" if bets.value is None else f"{bets.value:.1%}"
        return self._finding(objective, f"{share} {words}; below {tolerated:.0%} is not tolerated", bets.below(tolerated), passes, effect)

    def _ratio_finding(self) -> Finding:
        limits, bets = self._limits, self._ratio
        # Either direction has half of the risk: the mean of two fair bets is one.
        either = (bets.above(limits.tolerated_ratio), bets.below(1 / limits.tolerated_ratio))
        against = float(np.logaddexp(*either)) - math.log(2)
        needed = -math.log(self._false_pass)
        passes = bets.below(limits.max_ratio) >= needed and bets.above(1 / limits.max_ratio) >= needed
        low, high = bets.interval(-math.log(self._risk))
        times = "unknown" if bets.value is None else f"{bets.value:.3f} times the other version's"
        sentence = f"the mean score is {times}; beyond {limits.tolerated_ratio:g}, or its inverse, is not tolerated"
        return self._finding("calibration", sentence, against, passes, Effect(bets.value, low, high, "times", self._risk))

    def _finding(self, objective: str, sentence: str, log_against: float, passes: bool, effect: Effect) -> Finding:
        status: Status = "fail" if log_against >= -math.log(self._risk) else "pass" if passes else "inconclusive"
        return Finding(
            objective=objective,
            status=status,
            sentence=sentence,
            effect=effect,
            canary_samples=self._seen,
            baseline_samples=self._seen,
            correlated=1.0,
            evidence=min(math.exp(min(log_against, 690.0)), MOST_EVIDENCE),
            evidence_needed=1 / self._risk,
        )


def _share_bets(*deciding: float) -> MeanRatio:
    """Bets on a mean share, as its ratio to 1."""
    return MeanRatio(sorted({*deciding, *np.linspace(1 / GRID, 1.0, GRID).tolist()}))


def _arm(places: NDArray[np.float64], **columns: NDArray[Any]) -> Arm:
    """Requests that all took no time, and none of which failed: neither is judged here."""
    return Arm(started_s=places, latency_ms=np.zeros(len(places)), ok=np.ones(len(places), dtype=np.bool_), **columns)
