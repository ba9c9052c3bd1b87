"""The plan of a rollout: a TOML file. Canary, blue/green, A/B and shadow are plans; the engine has one path for all.

`docs/rollouts.md` explains every setting; a test holds it to that.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from k8s.rollout.answers import AnswerLimits, AnswersJudge
from k8s.rollout.ports import Arm, Source, Weights
from loadtests.judge import CANARY_OBJECTIVES, Judge, JudgeError, Objective, Policy, objectives_of
from serving.contract.errors import SettingsError

PLANS = Path(__file__).parent / "plans"

LIVE_KINDS = ("error_increase", "error_limit", "quantile_limit")
"""What counts by bucket can judge: errors exactly, and a quantile's limit where the limit is an edge of a bucket. A ratio of 1.05
between two arms cannot be told from buckets that are twice as wide each."""


MAX_WORKERS = 64
"""That send. One master takes all their samples in; and more is a typing error on most clusters."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Table):
    """One step: a weight, held until it is judged.

    Attributes
    ----------
    name
        For reports; else made of the weight.
    weight_pct
        Per cent of live traffic to the canary. 0: only requests that ask for it by header, and copies.
    mirror_pct
        Per cent of live requests that are copied to the canary, whose answers are dropped.
    samples
        Requests of each arm by which the step is to be decided. More than that, and it is inconclusive.
    bake_s
        Seconds that the step lasts at least, however early it is decided.
    timeout_s
        Seconds after which it is inconclusive, however few requests there were.
    replicas
        Processes of canary and baseline from this step on; None: as before.
    """

    name: str = ""
    weight_pct: int = Field(ge=0, le=100)
    mirror_pct: int = Field(default=0, ge=0, le=100)
    samples: int = Field(default=5000, ge=200)
    bake_s: float = Field(default=0.0, ge=0)
    timeout_s: float = Field(default=1800.0, gt=0)
    replicas: int | None = Field(default=None, ge=1)

    @property
    def title(self) -> str:
        """Name, or what there is to say."""
        return self.name or f"{self.weight_pct} %"

    @model_validator(mode="after")
    def _bake_ends(self) -> Self:
        if self.bake_s >= self.timeout_s:
            raise ValueError(f"bake_s is {self.bake_s:g}, it must be below timeout_s, {self.timeout_s:g}")
        return self


class WarmUp(_Table):
    """What a canary gets before it counts: a cold process is slow, and that says nothing about the release.

    Attributes
    ----------
    requests
        Answered requests of each arm after which it is warm; 0: no warm-up.
    mirror_pct
        Per cent of live requests that are copied to it meanwhile.
    timeout_s
        Seconds after which a canary that is not warm has failed.
    """

    requests: int = Field(default=300, ge=0)
    mirror_pct: int = Field(default=0, ge=0, le=100)
    timeout_s: float = Field(default=300.0, gt=0)

    def as_step(self) -> Step:
        """Return it as what `Traffic.begin` takes."""
        least = 200  # of Step.samples, which nothing here is judged by
        return Step(name="warm-up", weight_pct=0, mirror_pct=self.mirror_pct, samples=max(self.requests, least), timeout_s=self.timeout_s)


class Synthetic(_Table):
    """Made-up or recorded requests, sent by the load tests' open loop to all arms that are compared.

    Attributes
    ----------
    profile
        Name or path of a load profile: endpoints, sizes, token; arrivals and the end are the step's. On a cluster.
    rate_per_s
        Requests a second for all arms together; None: 200.
    workers
        Processes that send. On a cluster each is a pod of a Job, with one more that leads them where there are several; 0: the engine's own
        machine sends, as it always does for a rollout on one machine. None: one.
    """

    profile: str = "canary"
    rate_per_s: float | None = Field(default=None, gt=0)
    workers: int | None = Field(default=None, ge=0, le=MAX_WORKERS)


class Live(_Table):
    """The users' own requests, as counted by the service's metrics in Prometheus.

    Attributes
    ----------
    prometheus
        Address of Prometheus; None: from the command line.
    labels
        Labels that select the service's series, beside that of the arm.
    arm_label
        Label whose value is the name of the arm.
    every_s
        Seconds between two looks; not below the scrape interval.
    objectives
        Tables as of the judge, of the kinds that counts can judge: `error_increase`, `error_limit`, `quantile_limit`.
    """

    prometheus: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    arm_label: str = "arm"
    every_s: float = Field(default=15.0, gt=0)
    objectives: dict[str, Any] = Field(default_factory=lambda: {"error_increase": {}})

    @field_validator("objectives")
    @classmethod
    def _can_be_judged(cls, tables: dict[str, Any]) -> dict[str, Any]:
        unfit = tables.keys() - {"policy", *LIVE_KINDS}
        if unfit:
            raise ValueError(f"{', '.join(sorted(unfit))} cannot be judged by counts in buckets; there are {', '.join(LIVE_KINDS)}")
        _objectives(tables)
        return tables


class Inconclusive(_Table):
    """What happens when a step has had its requests, or its time, and the judge does not know.

    Attributes
    ----------
    extend
        Times that the step gets as many requests, and as much time, again.
    then
        `hold`: the weight stands and a person decides; `roll_back`.
    hold_s
        Seconds that a person has; then it is rolled back.
    """

    extend: int = Field(default=1, ge=0, le=20)
    then: Literal["hold", "roll_back"] = "roll_back"
    hold_s: float = Field(default=86400.0, gt=0)


class Health(_Table):
    """What a canary must not do, whatever its latencies are.

    Attributes
    ----------
    max_restarts
        Restarts of its processes; one more, and it has failed.
    max_losses
        Times that it may be without a ready process for a moment; its weight goes to stable at once, each time.
    max_memory_growth_pct
        Growth of its largest process since it was warm, less that of the arm it is compared with; more than this has failed.
    max_memory_bytes
        Memory of its largest process; None: not looked at.
    """

    max_restarts: int = Field(default=0, ge=0)
    max_losses: int = Field(default=1, ge=0)
    max_memory_growth_pct: float = Field(default=50.0, gt=0)
    max_memory_bytes: int | None = Field(default=None, gt=0)


class Times(_Table):
    """How long the engine waits.

    Attributes
    ----------
    ready_s
        Until an arm is ready.
    promote_s
        Until stable runs the new release, or the old one again.
    proven_s
        How long stable must be ready with the new release, without a restart, before weight returns to it.
    api_s
        For an API server, a proxy or metrics that do not answer. After that the engine ends (exit code 3); started again, it goes on.
    poll_s
        Between two looks.
    """

    ready_s: float = Field(default=600.0, gt=0)
    promote_s: float = Field(default=1800.0, gt=0)
    proven_s: float = Field(default=30.0, ge=0)
    api_s: float = Field(default=300.0, gt=0)
    poll_s: float = Field(default=2.0, gt=0, le=10)


class Plan(_Table):
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
        What is asked of the answers that both versions give to the same recorded requests; None: they are not compared.
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
        _objectives(tables)
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
        if self.synthetic is None:
            unseen = [step.title for step in self.steps if not step.weight_pct]
            if unseen:
                raise ValueError(
                    f"steps {', '.join(unseen)} have no live traffic, and there is no table [synthetic]: nothing could be judged"
                )
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where requests come from."""
        return tuple(source for source in ("synthetic", "live") if getattr(self, source) is not None)

    @property
    def beside(self) -> Arm:
        """What canaries are compared with."""
        return "baseline" if self.baseline else "stable"

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

    def require_room(self, releases: int) -> None:
        """Check that so many releases can be tried at the same time.

        Raises
        ------
        SettingsError
            They cannot, by this plan.
        """
        if releases == 1:
            return
        for step in self.steps:
            if releases * step.weight_pct > 100:
                most = 100 // step.weight_pct
                raise SettingsError(f"step {step.title} gives {step.weight_pct} % to each of {releases} releases: there is room for {most}")
        if self.warm_up.mirror_pct or any(step.mirror_pct for step in self.steps):
            raise SettingsError(f"plan {self.name} copies requests (mirror_pct), which go to one canary: try one release, or copy none")

    def _asked(self, source: Source) -> tuple[tuple[Objective, ...], Policy]:
        tables = self.live.objectives if source == "live" and self.live is not None else self.objectives
        asked, policy = _objectives(tables)
        return asked or CANARY_OBJECTIVES, policy

    def compares(self, source: Source) -> bool:
        """Whether requests of this source are judged beside another arm's, not by limits alone."""
        return any(objective.two_arms for objective in self._asked(source)[0])

    def judge(self, source: Source, attempt: int, releases: int = 1) -> Judge:
        """Return a judge of one of so many releases, in one attempt at a step."""
        asked, policy = self._asked(source)
        return Judge(asked, self._careful(policy, attempt, releases))

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
        parts = len(self.steps) * (len(self.sources) + (self.answers is not None))
        return Policy(**vars(policy) | {"false_alarm": policy.false_alarm * share / parts, "false_pass": policy.false_pass * share})


def _objectives(tables: dict[str, Any]) -> tuple[tuple[Objective, ...], Policy]:
    try:
        return objectives_of(tables)
    except JudgeError as error:
        raise ValueError(str(error)) from error


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
