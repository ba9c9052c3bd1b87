"""A version that answers otherwise is stopped; one that answers alike, or is a little better trained, passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from k8s.rollout.answers import AnswerLimits, AnswersJudge
from k8s.rollout.questions import Answers, top_overlap

CANDIDATES = 20

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def asked(change: Change, requests: int = 50, seed: int = 0) -> Answers:
    """Requests with a mood of their own, so that their candidates are anything but independent."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(-1, 1, (requests, 1)) + draw.normal(0, 1, (requests, CANDIDATES))
    stable, canary = sigmoid(logits), change(logits, draw)
    orders = [[list(np.argsort(-row)) for row in scores] for scores in (stable, canary)]
    overlap = np.array([top_overlap(first, second, 10) for first, second in zip(*orders, strict=True)])
    none = np.zeros((requests, 2), dtype=bool)
    return Answers(stable.ravel(), canary.ravel(), np.full(requests, CANDIDATES), overlap, none[:, 0], none)


def refused(share_pct: float, of_stable_pct: float, seed: int, requests: int = 50) -> Answers:
    """Requests of which each version refuses some for itself; the others are answered alike."""
    draw = np.random.default_rng([seed, 1])
    sides = draw.random((requests, 2)) < np.array([share_pct, of_stable_pct]) / 100
    sides = sides[~sides.all(axis=1)]
    answers = asked(HARMLESS["the same"], int((~sides.any(axis=1)).sum()), seed)
    return replace(answers, refused=sides)


def judge(limits: AnswerLimits | None = None) -> AnswersJudge:
    return AnswersJudge(limits or AnswerLimits(), false_alarm=0.01, false_pass=0.05)


HARMLESS: dict[str, Change] = {
    "the same": lambda logits, _: sigmoid(logits),
    "trained again": lambda logits, draw: sigmoid(logits + draw.normal(0, 0.2, logits.shape)),
}
HARMFUL: dict[str, tuple[Change, str]] = {
    "a bias": (lambda logits, _: sigmoid(logits + 0.4), "calibration"),
    "other features": (lambda logits, draw: sigmoid(draw.permuted(logits, axis=1)), "overlap of the top 10"),
    "one score for all": (lambda logits, _: np.full(logits.shape, 0.3), "scores"),
    "another scale": (lambda logits, _: sigmoid(2 * logits), "scores"),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_a_version_that_answers_alike_passes(change: Change) -> None:
    judged = judge()
    for seed in range(16):
        judged.add(asked(change, seed=seed))
        assert judged.verdict().status != "fail"
    assert judged.verdict().status == "pass"


def test_a_version_that_refuses_what_the_other_takes_fails_whatever_else_it_answers() -> None:
    judged = judge()
    for seed in range(12):
        judged.add(refused(5, 0, seed))
    verdict = judged.verdict()
    assert verdict.status == "fail"
    (finding,) = [finding for finding in verdict.findings if finding.status == "fail"]
    assert finding.objective == "refusals"
    assert "refuse" in finding.sentence


def test_versions_that_refuse_as_much_as_each_other_pass() -> None:
    judged = judge()
    for seed in range(40):
        judged.add(refused(1, 1, seed))
    assert judged.verdict().status == "pass"


def test_one_that_refuses_everything_fails_without_an_answer() -> None:
    judged = judge()
    nothing = np.zeros(0)
    for _ in range(6):
        judged.add(
            Answers(
                nothing, nothing, nothing.astype(np.int64), nothing, nothing.astype(bool), np.array([[True, False]] * 50), note="copies"
            )
        )
    verdict = judged.verdict()
    assert verdict.status == "fail"
    assert verdict.sentence.startswith(
        "Other answers after 300 requests to both versions (of copies): the canary refuses more often: 100 %"
    )


def images(agree: float, sharper: float, seed: int, requests: int = 50) -> Answers:
    """Requests of two images each, whose best label is the same with this probability."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(1.5, 1, 2 * requests)
    same = (draw.random((requests, 2)) < agree).mean(axis=1)
    none = np.zeros((requests, 2), dtype=bool)
    return Answers(
        sigmoid(logits), sigmoid(sharper * logits), np.full(requests, 2), same, images=np.ones(requests, dtype=bool), refused=none
    )


@pytest.mark.parametrize(
    ("agree", "sharper", "status", "objective"),
    [(0.99, 1.0, "pass", ""), (0.8, 1.0, "fail", "agreement"), (0.99, 3.0, "fail", "scores")],
)
def test_images_are_compared_by_their_best_label_and_how_sure_it_is(agree: float, sharper: float, status: str, objective: str) -> None:
    judged = judge()
    for seed in range(16):
        judged.add(images(agree, sharper, seed))
    verdict = judged.verdict()
    assert verdict.status == status
    assert not objective or objective in {finding.objective for finding in verdict.findings if finding.status == "fail"}
    assert "overlap of the top 10" not in {finding.objective for finding in verdict.findings}


def test_rankings_and_images_are_each_held_to_their_own() -> None:
    judged = judge()
    for seed in range(16):
        judged.add(asked(HARMLESS["trained again"], seed=seed))
        judged.add(images(0.8, 1.0, seed))
    found = {finding.objective: finding.status for finding in judged.verdict().findings}
    assert (found["overlap of the top 10"], found["agreement"]) == ("pass", "fail")


@pytest.mark.parametrize(("change", "objective"), HARMFUL.values(), ids=HARMFUL)
def test_a_version_that_answers_otherwise_fails_within_a_few_hundred_requests(change: Change, objective: str) -> None:
    judged = judge()
    for seed in range(12):
        judged.add(asked(change, seed=seed))
    verdict = judged.verdict()
    assert verdict.status == "fail"
    assert objective in {finding.objective for finding in verdict.findings if finding.status == "fail"}
    assert "Other answers after 600 requests" in verdict.sentence


def test_no_data_is_never_a_pass() -> None:
    verdict = judge().verdict()
    assert verdict.status == "inconclusive"
    assert verdict.reasons == ("no request was answered by either version",)
    few = judge()
    few.add(asked(HARMLESS["the same"], requests=30))
    assert few.verdict().status == "inconclusive"


def test_a_failure_once_shown_stays() -> None:
    judged = judge()
    for seed in range(8):
        judged.add(asked(HARMFUL["other features"][0], seed=seed))
    shown = judged.verdict()
    for seed in range(8, 40):
        judged.add(asked(HARMLESS["the same"], seed=seed))
    assert shown.status == judged.verdict().status == "fail"


def test_a_verdict_can_be_written_and_read() -> None:
    from loadtests.judge import Verdict

    judged = judge()
    judged.add(asked(HARMFUL["a bias"][0], requests=600))
    assert Verdict.from_json(judged.verdict().to_json()) == judged.verdict()


def test_the_overlap_counts_the_top_alone() -> None:
    assert top_overlap([1, 2, 3, 4], [2, 1, 4, 3], 2) == 1.0
    assert top_overlap([1, 2, 3, 4], [3, 1, 4, 2], 2) == 0.5
    assert top_overlap([1, 2], [2, 1], 10) == 1.0


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ({"tolerated_refusal_points": 6}, "max_refusal_points"),
        ({"tolerated_distance": 0.3}, "max_distance"),
        ({"min_overlap": 0.7}, "tolerated_overlap"),
        ({"min_agreement": 0.95}, "tolerated_agreement"),
        ({"tolerated_ratio": 1.5}, "max_ratio"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(low: dict[str, float], high: str) -> None:
    with pytest.raises(ValidationError, match=f"must be below {high}"):
        AnswerLimits.model_validate(low)


def test_every_setting_is_documented_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "laptop-rollouts.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")]
    told = {name: value for names, values, *_ in rows for name, value in zip(names.split(", "), values.split(", "), strict=True)}
    assert told == {f"`{name}`": f"{field.default:g}" for name, field in AnswerLimits.model_fields.items()}
