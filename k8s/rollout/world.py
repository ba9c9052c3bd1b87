"""All that the engine acts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from k8s.rollout.jury import AnswerJudges
from k8s.rollout.ports import Clock, Fleet, Journal, Lease, Notice, Router, Source, Traffic


@dataclass(frozen=True)
class World:
    """The ports together.

    Attributes
    ----------
    traffic
        For each source of the plan.
    answers
        Makes the judge of answers; None where none are compared.
    """

    router: Router
    fleet: Fleet
    traffic: Mapping[Source, Traffic]
    journal: Journal
    lease: Lease
    clock: Clock
    answers: AnswerJudges | None = None
    notices: Sequence[Notice] = ()
