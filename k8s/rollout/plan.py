"""The plan of a rollout: a TOML file. Canary, blue/green, A/B and shadow are plans; the engine has one path for all.

`docs/rollouts.md` explains every setting; a test holds it to that.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from k8s.rollout.answers import AnswerLimits, AnswersJudge
from k8s.rollout.arms import Arm, Weights
from k8s.rollout.plan_tables import Copied, Health, Inconclusive, Live, Source, Step, Synthetic, Table, Times, WarmUp, read_objectives
from loadtests.judge import CANARY_OBJECTIVES, Judge, Objective, Policy
from serving.contract.errors import SettingsError

PLANS = Path(__file__).parent / "plans"

REFUSALS = "refusal_increase"


class Plan(Table):
    """All of it.

    Attributes
    ----------
    baseline
        Whether a fresh copy of the old version, as large as the canary, is what the canary is compared with; else stable is.
    replicas
        Processes of canary and baseline at the start.
    finish
        After the last step: `promote`; `hold`: a person decides; `discard`: the canary goes, and the verdict stays.
    max_drifts
        Times that the engine sets the weights right after somebody else changed them; then it rolls back.
    answers
        What is asked of the answers that both versions give to the same requests, recorded ones or copies; None: they are not compared.
    objectives
        Tables as of the judge (docs/judge.md), for synthetic requests; empty: what a canary is asked by default.
    steps
        `[[step]]` in the file.
    """

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1, max_length=60)
    description: str = ""
    baseline: bool = True
    replicas: int = Field(default=1, ge=1)
    finish: Literal["promote", "hold", "discard"] = "promote"
    max_drifts: int = Field(default=3, ge=0)
    warm_up: WarmUp = WarmUp()
    synthetic: Synthetic | None = None
    live: Live | None = None
    answers: AnswerLimits | None = None
    objectives: dict[str, Any] = Field(default_factory=dict)
    inconclusive: Inconclusive = Inconclusive()
    health: Health = Health()
    times: Times = Times()
    steps: tuple[Step, ...] = Field(alias="step", min_length=1)

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    @field_validator("objectives")
    @classmethod
    def _known(cls, tables: dict[str, Any]) -> dict[str, Any]:
        if REFUSALS in tables:
            raise ValueError("load tests count refused requests (4xx) as failed, as error_increase does: ask it in [live.objectives]")
        read_objectives(tables)
        return tables

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if self.synthetic is None and self.live is None:
            raise ValueError("nothing is looked at: give a table [synthetic], a table [live], or both")
        titles = [step.title for step in self.steps]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"two steps are called {', '.join(twice)}: give them names")
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            if after.weight_pct < before.weight_pct:
                raise ValueError(f"step {after.title} has less weight than the one before, {before.weight_pct} %: weights only rise")
        if self.collects and (self.warm_up.mirror_pct or any(step.mirror_pct for step in self.steps)):
            raise ValueError(
                "answers.mirror_pct copies requests to the engine, and mirror_pct of the warm-up or a step to the canary: a route has one"
                " mirror, so choose one"
            )
        if self.synthetic is None:
            unseen = [step.title for step in self.steps if not step.weight_pct]
            if unseen:
                raise ValueError(
                    f"steps {', '.join(unseen)} have no live traffic, and there is no table [synthetic]: nothing could be judged"
                )
            if self.warm_up.requests and (self.baseline or not self.warm_up.mirror_pct):
                raise ValueError(
                    f"warm_up.requests is {self.warm_up.requests}, and nobody sends them: give a table [synthetic], or set it to 0"
                )
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where requests come from."""
        return tuple(source for source in ("synthetic", "live") if getattr(self, source) is not None)

    @property
    def collects(self) -> bool:
        """Whether live requests are copied to the engine, which compares the answers of all arms."""
        return self.answers is not None and self.answers.mirror_pct > 0

    def copies(self, step: Step) -> tuple[int, Copied]:
        """Return the per cent of live requests that are copied while a step is judged, and to whom."""
        if self.answers is not None and self.answers.mirror_pct:
            return self.answers.mirror_pct, "engine"
        return step.mirror_pct, "canary"

    @property
    def beside(self) -> Arm:
        """What canaries are compared with."""
        return "baseline" if self.baseline else "stable"

    def for_kept_users(self) -> Plan:
        """Return the plan for users who stay with an arm: the mistakes of one are all made there, and tell nothing of the release."""
        if self.live is None or REFUSALS not in self.live.objectives:
            return self
        left = {kind: table for kind, table in self.live.objectives.items() if kind != REFUSALS}
        return self.model_copy(update={"live": self.live.model_copy(update={"objectives": left})})

    def replicas_of(self, step: int) -> int:
        """Return how many processes canary and baseline have at a step."""
        given = [each.replicas for each in self.steps[: step + 1] if each.replicas is not None]
        return given[-1] if given else self.replicas

    def weights_of(self, step: int, canaries: Sequence[Arm] = ("canary",)) -> Weights:
        """Return the weights of a step. The baseline gets as much as each canary as long as stable keeps no less."""
        each = self.steps[step].weight_pct
        baseline = each if self.baseline and (len(canaries) + 2) * each <= 100 else 0
        shares = dict.fromkeys(canaries, each)
        return Weights.shared(shares | {"stable": 100 - len(canaries) * each - baseline, "baseline": baseline})

    def compared(self, weights: Weights, canaries: Sequence[Arm]) -> Mapping[Source, tuple[Arm, ...]]:
        """Return for each source that sees something at these weights the canaries, and last what they are compared with.

        The users' requests are compared with stable's where the baseline has none, at large weights.
        """
        found: dict[Source, tuple[Arm, ...]] = {"synthetic": (*canaries, self.beside)} if self.synthetic is not None else {}
        if self.live is not None and weights.tried:
            found["live"] = (*canaries, self.beside if weights.of(self.beside) else "stable")
        return found

    def require_room(self, releases: int) -> None:
        """Check that so many releases can be tried at the same time.

        Raises
        ------
        SettingsError
            They cannot, by this plan.
        """
        for step in self.steps:
            if releases * step.weight_pct > 100:
                most = 100 // step.weight_pct
                raise SettingsError(f"step {step.title} gives {step.weight_pct} % to each of {releases} releases: there is room for {most}")
            if releases * step.weight_pct == 100 and self.live is not None and self.compares("live"):
                raise SettingsError(
                    f"step {step.title} leaves no user with the old version, and [live.objectives] compare with that: ask for limits alone"
                )
        if releases == 1:
            return
        if self.warm_up.mirror_pct or any(step.mirror_pct for step in self.steps):
            raise SettingsError(f"plan {self.name} copies requests (mirror_pct), which go to one canary: try one release, or copy none")

    def _asked(self, source: Source) -> tuple[tuple[Objective, ...], Policy]:
        tables = self.live.objectives if source == "live" and self.live is not None else self.objectives
        asked, policy = read_objectives(tables)
        return asked or CANARY_OBJECTIVES, policy

    def compares(self, source: Source) -> bool:
        """Whether requests of this source are judged beside another arm's, not by limits alone."""
        return any(objective.two_arms for objective in self._asked(source)[0])

    def judge(self, source: Source, attempt: int, releases: int = 1) -> Judge:
        """Return a judge of one of so many releases, in one attempt at a step."""
        asked, policy = self._asked(source)
        return Judge(asked, self._careful(policy, attempt, releases))

    def holding_judge(self, number: int, releases: int = 1) -> Judge:
        """Return the n-th judge of live requests while a person decides; each has 1/n(n+1) of the risk of a false alarm there."""
        asked, policy = self._asked("live")
        share = 1 / (number * (number + 1)) / releases
        return Judge(asked, Policy(**vars(policy) | {"false_alarm": policy.false_alarm * share / self._parts}))

    def answers_judge(self, attempt: int, releases: int = 1) -> AnswersJudge | None:
        """Return a judge of the answers of one of so many releases, in one attempt at a step; None where they are not compared."""
        if self.answers is None:
            return None
        policy = self._careful(self._asked("synthetic")[1], attempt, releases)
        return AnswersJudge(self.answers, false_alarm=policy.false_alarm, false_pass=policy.false_pass)

    def _careful(self, policy: Policy, attempt: int, releases: int) -> Policy:
        """Divide the risk of a false alarm among steps and what is judged in each, and both risks among releases.

        The n-th attempt at a step, after a restart or a hold, has 2⁻ⁿ of what is left for the step, and 2⁻ⁿ of the risk of a false pass:
        however often it is tried, and however many releases are, the sum stays below what the plan allows.
        """
        share = 0.5**attempt / releases
        return Policy(**vars(policy) | {"false_alarm": policy.false_alarm * share / self._parts, "false_pass": policy.false_pass * share})

    @property
    def _parts(self) -> int:
        """Among what the risk of a false alarm is divided: what is judged in each step, and the users' requests while a person decides."""
        return len(self.steps) * (len(self.sources) + (self.answers is not None)) + (self.live is not None)


def plan_names() -> list[str]:
    """Return the names of the plans that ship."""
    return sorted(path.stem for path in PLANS.glob("*.toml"))


def load_plan(name: str) -> Plan:
    """Read a plan that ships, by name, or any, by path.

    Raises
    ------
    SettingsError
        There is none, or it is not valid.
    """
    path = Path(name) if name.endswith(".toml") or "/" in name else PLANS / f"{name}.toml"
    try:
        return parse_plan(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise SettingsError(f"plan {name} cannot be read: {error}; plans that ship: {', '.join(plan_names())}") from error


def parse_plan(text: str, where: str) -> Plan:
    """Read a plan.

    Raises
    ------
    SettingsError
        It is not valid; every mistake is named.
    """
    try:
        return Plan.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where} is no TOML: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc'])) or 'plan'}: {each['msg']}" for each in error.errors()]
        raise SettingsError(f"{where} is no valid plan:\n  " + "\n  ".join(lines)) from error
