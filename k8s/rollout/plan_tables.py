"""Tables of a plan, each with what is asked of it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from loadtests.judge import JudgeError, Objective, Policy, objectives_of

Source = Literal["synthetic", "live"]

Copied = Literal["canary", "engine"]
"""Who gets copies of live requests: the canary, so that it has load; or the engine, which asks all arms and compares their answers."""

LIVE_KINDS = ("error_increase", "refusal_increase", "error_limit", "quantile_limit")
"""What counts by bucket can judge: errors and refusals exactly, and a quantile's limit where the limit is an edge of a bucket. A ratio of
1.05 between two arms cannot be told from buckets that are twice as wide each."""


MAX_WORKERS = 64
"""That send. One master takes all their samples in; and more is a typing error on most clusters."""


class Table(BaseModel):
    """What all have in common: a misspelt setting is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(Table):
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


class WarmUp(Table):
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


class Synthetic(Table):
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


class Live(Table):
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
        Tables as of the judge, of the kinds that counts can judge: `error_increase`, `refusal_increase`, `error_limit`, `quantile_limit`.
    """

    prometheus: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    arm_label: str = "arm"
    every_s: float = Field(default=15.0, gt=0)
    objectives: dict[str, Any] = Field(default_factory=lambda: {"error_increase": {}, "refusal_increase": {}})

    @field_validator("objectives")
    @classmethod
    def _can_be_judged(cls, tables: dict[str, Any]) -> dict[str, Any]:
        unfit = tables.keys() - {"policy", *LIVE_KINDS}
        if unfit:
            raise ValueError(f"{', '.join(sorted(unfit))} cannot be judged by counts in buckets; there are {', '.join(LIVE_KINDS)}")
        read_objectives(tables)
        return tables


class Inconclusive(Table):
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


class Health(Table):
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


class Times(Table):
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


def read_objectives(tables: dict[str, Any]) -> tuple[tuple[Objective, ...], Policy]:
    """Read tables of objectives; a mistake is a `ValueError`, which names the table in the plan."""
    try:
        return objectives_of(tables)
    except JudgeError as error:
        raise ValueError(str(error)) from error
