"""The judges of one step: one for each source of requests, and one for the answers where they are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from k8s.errors import Refused
from k8s.rollout.plan import Plan
from k8s.rollout.ports import Answers, Look, Source
from loadtests.judge import Judge, JudgeError, Status, Verdict
from loadtests.judge.arms import no_requests


class AnswerJudge(Protocol):
    """Who judges answers that both versions gave to the same requests."""

    def add(self, answers: Answers) -> None:
        """Take in what came since the last time."""
        ...

    def verdict(self) -> Verdict:
        """Judge what has come so far."""
        ...


AnswerJudges = Callable[[Plan, int], AnswerJudge | None]
"""Makes the judge of answers for an attempt at a step; None where the plan compares none."""


class Jury:
    """Judges one attempt at a step.

    Parameters
    ----------
    attempt
        From 1; each has half of the risk of the one before.
    """

    def __init__(self, plan: Plan, attempt: int, answers: AnswerJudge | None = None) -> None:
        self._plan = plan
        self._judges: dict[Source, Judge] = {source: plan.judge(source, attempt) for source in plan.sources}
        self._answers = answers

    def add(self, source: Source, look: Look) -> None:
        """Take in what a source saw.

        Raises
        ------
        Refused
            It cannot be judged by what the plan asks.
        """
        batch = look.batch if self._plan.compares(source) else replace(look.batch, baseline=no_requests())
        try:
            self._judges[source].add(batch)
        except JudgeError as error:
            raise Refused(f"what {source} traffic saw cannot be judged: {error}") from error
        if self._answers is not None and look.answers is not None:
            self._answers.add(look.answers)

    def verdicts(self) -> Mapping[str, Verdict]:
        """Return each judge's verdict."""
        found: dict[str, Verdict] = {source: judge.verdict() for source, judge in self._judges.items()}
        if self._answers is not None:
            found["answers"] = self._answers.verdict()
        return found


def together(verdicts: Mapping[str, Verdict]) -> Status:
    """One that fails is enough; all must pass; none passes nothing."""
    statuses = {verdict.status for verdict in verdicts.values()}
    if "fail" in statuses:
        return "fail"
    return "pass" if statuses == {"pass"} else "inconclusive"


def samples(verdicts: Mapping[str, Verdict]) -> int:
    """Return requests of the arm that had fewest, at the source that had fewest."""
    judged = [verdict for source, verdict in verdicts.items() if source != "answers"]
    # Judges of limits alone look at no baseline, and take none in.
    fewest = (min(each.canary_samples, each.baseline_samples) if each.baseline_samples else each.canary_samples for each in judged)
    return min(fewest, default=0)
