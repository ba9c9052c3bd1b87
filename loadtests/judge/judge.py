"""The judge: samples in, a verdict out, as often as one likes.

Memory does not grow with the samples: latencies and scores are kept as counts in cells, everything else as sums. Looking costs nothing in
false alarms; an objective that has failed once stays failed.
"""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.judge.arms import Batch
from loadtests.judge.cases import Look
from loadtests.judge.errors import JudgeError
from loadtests.judge.fitness import Fitness
from loadtests.judge.objectives import CANARY_OBJECTIVES, Objective, Policy
from loadtests.judge.sentences import number
from loadtests.judge.stream import Stream, part_of
from loadtests.judge.verdict import Finding, Status, Verdict


class Judge:
    """Judges one release.

    Parameters
    ----------
    objectives
        All must pass; one that fails is enough to fail. The risk of a false alarm is divided among them by their weights (Bonferroni); for
        passing, all have to be shown, so each may use the whole risk of a false pass.
    policy
        How sure the verdict must be.

    Raises
    ------
    JudgeError
        There is no objective, or two are the same.
    """

    def __init__(self, objectives: Sequence[Objective] = CANARY_OBJECTIVES, policy: Policy | None = None) -> None:
        policy = policy or Policy()
        titles = [objective.title for objective in objectives]
        if not titles:
            raise JudgeError("there is nothing to judge: give at least one objective")
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise JudgeError(f"these objectives are given twice: {', '.join(twice)}")
        self._policy, self._titles = policy, titles
        self._two_arms = any(objective.two_arms for objective in objectives)
        total = sum(objective.share_of_risk for objective in objectives)
        by_endpoint: dict[str | None, list[tuple[Objective, Look]]] = {}
        for objective in objectives:
            look = Look(fail_risk=policy.false_alarm * objective.share_of_risk / total, pass_risk=policy.false_pass)
            by_endpoint.setdefault(objective.endpoint, []).append((objective, look))
        self._streams = {endpoint: Stream(looks, policy) for endpoint, looks in by_endpoint.items()}
        self._fitness = Fitness(policy, two_arms=self._two_arms)

    def add(self, batch: Batch) -> None:
        """Take in the requests since the last batch.

        Raises
        ------
        JudgeError
            An objective asks for what the batch does not have, or a baseline is given where nothing is compared.
        """
        if len(batch.baseline) and not self._two_arms:
            raise JudgeError("a baseline is given and no objective compares with one: add one that does, or leave the baseline out")
        self._fitness.add(batch)
        for endpoint, stream in self._streams.items():
            stream.add(part_of(batch, endpoint))

    def verdict(self) -> Verdict:
        """Judge what has come so far."""
        found = {finding.objective: finding for stream in self._streams.values() for finding in stream.findings()}
        findings = tuple(found[title] for title in self._titles)
        reasons = self._fitness.reasons()
        status = _status(findings, reasons)
        return Verdict(
            status=status,
            sentence=self._sentence(status, findings, reasons),
            reasons=reasons,
            findings=findings,
            canary_samples=self._fitness.requests[0],
            baseline_samples=self._fitness.requests[1],
            lag_measured=self._fitness.lag_measured,
            false_alarm=self._policy.false_alarm,
            false_pass=self._policy.false_pass,
        )

    def _sentence(self, status: Status, findings: tuple[Finding, ...], reasons: tuple[str, ...]) -> str:
        canary, baseline = self._fitness.requests
        after = f"{number(canary)} requests" + (f" of the canary and {number(baseline)} of the baseline" if self._two_arms else "")
        if reasons:
            return f"Not judged: {'; '.join(reasons)}."
        if status == "pass":
            return f"Passed after {after}: every objective is met."
        chosen = [finding.sentence for finding in findings if finding.status == status]
        head = "Failed" if status == "fail" else "Undecided"
        return f"{head} after {after}: {chosen[0]}" + (f" (and {len(chosen) - 1} more)." if len(chosen) > 1 else ".")


def _status(findings: tuple[Finding, ...], reasons: tuple[str, ...]) -> Status:
    """Nothing passes or fails on samples that are not fit to be judged."""
    statuses = {finding.status for finding in findings}
    if reasons:
        return "inconclusive"
    if "fail" in statuses:
        return "fail"
    return "pass" if statuses == {"pass"} else "inconclusive"
