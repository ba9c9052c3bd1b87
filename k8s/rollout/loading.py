"""What all who load the arms of a step have in common: what Locust is asked for, and what was seen as the engine takes it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from k8s.errors import Unavailable
from k8s.rollout.answers import AnswerLimits
from k8s.rollout.arms import Arm
from k8s.rollout.collector import Collector
from k8s.rollout.comparing import Comparer
from k8s.rollout.copies import Copies
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Step
from k8s.rollout.ports import Look, Traffic
from k8s.rollout.questions import Answers, Asked
from loadtests.batches import batch_of
from loadtests.judge import Batch
from loadtests.samples import Samples, joined

RATE_PER_S = 200.0
"""For all arms together, where the plan says nothing: two services, a proxy and the generator on two cores had some 40 % of them left."""

QUIET_S = 60.0
"""For which copies may come without one that can be compared, before it is told."""


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
    recorded
        Requests on which they are compared.
    collector
        Who takes copies of live requests. Where there is one, answers are compared on those alone: on recorded requests they would
        be judged before a live one had come.
    addresses
        Where an arm is reached by itself.
    """

    def __init__(
        self,
        host: str,
        limits: AnswerLimits | None,
        recorded: Sequence[Asked],
        collector: Collector | None = None,
        addresses: Mapping[Arm, str] | None = None,
    ) -> None:
        self._host, self._limits, self._recorded = host, limits, recorded
        self._collector, self._addresses = collector, addresses
        self._comparer: Comparer | None = None
        self._copies: Copies | None = None
        self._quiet_since_s: float | None = None

    def begin(self, arms: Sequence[Arm]) -> None:
        """Begin to ask; `arms` as of `Traffic.begin`."""
        self.end()
        if self._limits is None:
            return
        asked: Iterable[Asked] = self._recorded
        if self._collector is not None:
            self._copies = self._collector.begin()
            asked = self._copies.draw(self._limits.requests)
        elif not self._recorded:
            return
        self._quiet_since_s = time.monotonic()
        self._comparer = Comparer(self._host, asked, arms, self._limits.top_k, self._limits.rate_per_s, self._addresses)

    def take(self) -> Mapping[Arm, Answers]:
        """Return what has come since the last time, of each canary that there is something of.

        Raises
        ------
        Unavailable
            Copies come, and none of them could be compared for a while; it is said once.
        """
        if self._comparer is None:
            return {}
        found = self._comparer.take()
        if self._copies is None:
            return found
        if found:
            self._quiet_since_s = None
        elif self._quiet_since_s is not None and self._copies.came and time.monotonic() - self._quiet_since_s > QUIET_S:
            self._quiet_since_s = None
            raise Unavailable(f"no answers could be compared for {QUIET_S:.0f} s: {self._copies}")
        return {arm: replace(answers, note=str(self._copies)) for arm, answers in found.items()}

    def end(self) -> None:
        """Stop asking."""
        if self._collector is not None:
            self._collector.end()
        if self._comparer is not None:
            self._comparer.close()
        self._comparer = self._copies = None


class Compared:
    """A source of requests beside which answers are compared; a `Traffic`."""

    def __init__(self, traffic: Traffic, comparing: Comparing) -> None:
        self._traffic, self._comparing = traffic, comparing

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        """Begin both."""
        self._traffic.begin(step, arms)
        self._comparing.begin(arms)

    def look(self) -> Mapping[Arm, Look]:
        """Return what came at both since the last look."""
        answers = self._comparing.take()
        looks = self._traffic.look()
        without = {arm: Look(Batch(), answers[arm]) for arm in answers.keys() - looks.keys()}
        return {arm: replace(look, answers=answers.get(arm)) for arm, look in looks.items()} | without

    def end(self) -> None:
        """End both."""
        self._comparing.end()
        self._traffic.end()


def looks_of(arms: Sequence[Arm], chunks: Sequence[Samples], answers: Mapping[Arm, Answers]) -> dict[Arm, Look]:
    """Put what was seen beside each other, for each canary that there is something of; `arms` as of `Traffic.begin`."""
    *canaries, beside = arms
    if not chunks:
        return {arm: Look(Batch(), answers[arm]) for arm in canaries if arm in answers}
    samples = joined(chunks)
    return {arm: Look(batch_of(samples, arm, beside), answers.get(arm)) for arm in canaries}
