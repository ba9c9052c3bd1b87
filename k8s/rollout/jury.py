"""The judges of one step: for each canary one a source of requests, and one for the answers where they are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from k8s.errors import Refused
from k8s.rollout.arms import Arm
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Source
from k8s.rollout.ports import Look
from k8s.rollout.questions import Answers
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


AnswerJudges = Callable[[Plan, int, int], AnswerJudge | None]
"""Makes the judge of one canary's answers, given the plan, the attempt, and how many releases are tried; None where none are compared."""


class Jury:
    """Judges one canary, by what some sources see of it and by its answers."""

    def __init__(self, plan: Plan, judges: Mapping[Source, Judge], answers: AnswerJudge | None = None) -> None:
        self._plan, self._judges, self._answers = plan, judges, answers

    @staticmethod
    def of_step(
        plan: Plan, attempt: int, answers: AnswerJudge | None = None, releases: int = 1, sources: Iterable[Source] | None = None
    ) -> Jury:
        """Make the jury of one attempt at a step.

        Parameters
        ----------
        attempt
            From 1; each has half of the risk of the one before.
        sources
            That see something at this step; None: all of the plan.
        releases
            Tried at the same time, which share the risk.
        """
        return Jury(plan, {source: plan.judge(source, attempt, releases) for source in sources or plan.sources}, answers)

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


class Trial:
    """A jury for each canary."""

    def __init__(self, juries: Mapping[Arm, Jury]) -> None:
        self._juries = dict(juries)
        self._verdicts = {arm: jury.verdicts() for arm, jury in juries.items()}

    @staticmethod
    def of_step(
        plan: Plan,
        attempt: int,
        canaries: Sequence[Arm],
        releases: int,
        answers: AnswerJudges | None = None,
        sources: Iterable[Source] | None = None,
    ) -> Trial:
        """Make one attempt at a step.

        Parameters
        ----------
        canaries
            That are left of `releases`.
        answers
            Makes the judges of answers; None: they are not compared.
        sources
            As of `Jury.of_step`.
        """
        made = answers or (lambda *_: None)
        return Trial({arm: Jury.of_step(plan, attempt, made(plan, attempt, releases), releases, sources) for arm in canaries})

    def replace(self, arm: Arm, jury: Jury) -> None:
        """Have a canary judged anew."""
        self._juries[arm], self._verdicts[arm] = jury, jury.verdicts()

    def add(self, seen: Iterable[tuple[Source, Mapping[Arm, Look]]]) -> None:
        """Take in what the sources saw; raises as of `Jury.add`."""
        fresh = set()
        for source, looks in seen:
            for arm, look in looks.items():
                self._juries[arm].add(source, look)
                fresh.add(arm)
        self._verdicts |= {arm: self._juries[arm].verdicts() for arm in fresh}

    def verdicts(self, arm: Arm) -> Mapping[str, Verdict]:
        """Return what the jury of a canary says."""
        return self._verdicts[arm]

    def status(self, arm: Arm) -> Status:
        """Return what it comes to."""
        return together(self._verdicts[arm])

    def samples(self, canaries: Iterable[Arm]) -> int:
        """Return requests of the arm that had fewest."""
        return min(samples(self._verdicts[arm]) for arm in canaries)


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
