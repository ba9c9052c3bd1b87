"""All that the engine acts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from k8s.rollout.arms import Arm
from k8s.rollout.jury import AnswerJudges
from k8s.rollout.plan_tables import Source, Step
from k8s.rollout.ports import Clock, Fleet, Journal, Lease, Look, Notice, Router, Traffic


@dataclass(frozen=True)
class World:
    """The ports together.

    Attributes
    ----------
    traffic
        For each source of the plan.
    answers
        Makes the judge of answers; None where none are compared.
    collects
        Whether this engine takes copies of live requests.
    """

    router: Router
    fleet: Fleet
    traffic: Mapping[Source, Traffic]
    journal: Journal
    lease: Lease
    clock: Clock
    answers: AnswerJudges | None = None
    collects: bool = False
    notices: Sequence[Notice] = ()


class Silence:
    """Traffic that is none."""

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        """Send nothing."""

    def look(self) -> Mapping[Arm, Look]:
        """See nothing."""
        return {}

    def end(self) -> None:
        """Nothing to end."""
