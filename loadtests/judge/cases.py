"""One objective under judgement: what is fed to it, whether it fails, whether it may pass, and in words.

Letters: ``R`` lanes is 1 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from loadtests.judge.blocks import Block
from loadtests.judge.verdict import Effect, Status


@dataclass(frozen=True)
class Look:
    """How much evidence a look takes.

    Attributes
    ----------
    fail_risk
        Part of the policy's false alarms that this objective may use.
    pass_risk
        The policy's false passes.
    """

    fail_risk: float
    pass_risk: float

    def risk(self, status: Status) -> float:
        """Of the interval that goes with a status."""
        return self.fail_risk if status == "fail" else self.pass_risk


@dataclass(frozen=True)
class Account:
    """What a case has to say for itself.

    Attributes
    ----------
    canary_samples, baseline_samples
        Requests it looked at.
    correlated
        Requests that count as one.
    """

    effect: Effect
    sentence: str
    canary_samples: int
    baseline_samples: int
    correlated: float


class Case(Protocol):
    """One objective under judgement."""

    def add(self, block: Block) -> None:
        """Take in a block."""

    def learn(self) -> None:
        """Set what the next block is measured against; called when the shared counts hold the block."""

    def log_evidence(self, needed: float) -> float:
        """Log of the evidence that the objective is missed; may be anything below `needed` where it does not reach that."""

    def holds(self, look: Look) -> bool:
        """Whether it is shown that the objective is met."""

    def account(self, look: Look, status: Status) -> Account:
        """Say what was found."""
