"""What all who load the arms of a step have in common: what Locust is asked for, and what was seen as the engine takes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from k8s.rollout.answers import AnswerLimits
from k8s.rollout.comparing import Comparer
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Step
from k8s.rollout.ports import Answers, Arm, Look
from loadtests.batches import batch_of
from loadtests.judge import Batch
from loadtests.samples import Samples, joined

RATE_PER_S = 200.0
"""For all arms together, where the plan says nothing: two services, a proxy and the generator on two cores had some 40 % of them left."""


def longest_s(plan: Plan, step: Step) -> float:
    """Return how long a step may be loaded, with all its extensions."""
    return step.timeout_s * (1 + plan.inconclusive.extend)


def load_options(plan: Plan, step: Step, arms: Sequence[Arm], host: str, addresses: Mapping[Arm, str]) -> list[str]:
    """Return options of Locust: constant arrivals at random times, for as long as the step can take, shared among the arms at random.

    Parameters
    ----------
    host
        Address of the proxy, gateway or service.
    addresses
        Where an arm is reached by itself; others are by header at `host`.
    """
    rate = (plan.synthetic.rate_per_s if plan.synthetic else None) or RATE_PER_S
    return [
        *(f"--arm={arm}={addresses.get(arm, f'header:{arm}')}" for arm in arms),
        f"--host={host}",
        f"--arrivals=poisson:{rate:g}",
        f"--duration-s={longest_s(plan, step):g}",
        # A new schedule for each step: one that happens to be kind to an arm is not kind again.
        f"--seed={int.from_bytes(os.urandom(3), 'big')}",
        "--exit-code-on-error=0",
    ]


class Comparing:
    """Compares answers while the arms of a step are loaded, where that is asked for.

    Parameters
    ----------
    host
        Address of the proxy or gateway, which tells arms by header.
    limits
        What is asked of answers; None: they are not compared.
    bodies
        Recorded requests on which they are compared.
    """

    def __init__(self, host: str, limits: AnswerLimits | None, bodies: Sequence[bytes]) -> None:
        self._host, self._limits, self._bodies = host, limits, bodies
        self._comparer: Comparer | None = None

    def begin(self, arms: Sequence[Arm]) -> None:
        """Begin to ask; `arms` as of `Traffic.begin`."""
        self.end()
        if self._limits is not None and self._bodies:
            self._comparer = Comparer(self._host, self._bodies, arms, self._limits.top_k, self._limits.rate_per_s)

    def take(self) -> Mapping[Arm, Answers]:
        """Return what has come since the last time, of each canary that there is something of."""
        return self._comparer.take() if self._comparer is not None else {}

    def end(self) -> None:
        """Stop asking."""
        if self._comparer is not None:
            self._comparer.close()
        self._comparer = None


def looks_of(arms: Sequence[Arm], chunks: Sequence[Samples], answers: Mapping[Arm, Answers]) -> dict[Arm, Look]:
    """Put what was seen beside each other, for each canary that there is something of; `arms` as of `Traffic.begin`."""
    *canaries, beside = arms
    if not chunks:
        return {arm: Look(Batch(), answers[arm]) for arm in canaries if arm in answers}
    samples = joined(chunks)
    return {arm: Look(batch_of(samples, arm, beside), answers.get(arm)) for arm in canaries}
