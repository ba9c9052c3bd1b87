"""Load profiles: what is sent when and for how long, and what the run is held against.

A profile is a TOML file. The named ones lie in ``loadtests/profiles/``; a path to a file of your own works as well::

    name = "checkout"
    description = "Ranking at the rate of a Monday evening."
    samples = 20000

    [arrivals]
    kind = "poisson"
    rate_rps = 150

    [[traffic.requests]]
    endpoint = "rank"

    [[objective]]
    endpoint = "rank"
    p99_ms = 50
    max_error_pct = 0.5

How long it lasts is said in requests (``samples``) where what matters is how much will be known: a verdict on a p99 takes thousands of them
whatever the rate. It is said in seconds where time itself does something: a soak, a closed loop on a service of unknown speed.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtests.arrivals import MAX_STARTS, Arrivals, Closed, Poisson, schedule
from loadtests.early_stopping import EarlyStopping, requests_needed
from loadtests.mistakes import mistakes_told
from loadtests.objectives import Judged, Objective
from loadtests.report import Asked
from loadtests.saturation import Search
from loadtests.sources.traffic import ENDPOINTS, RankRequests, Traffic
from serving.contract.errors import SettingsError
from serving.contract.files import write_bytes

PROFILES = Path(__file__).parent / "profiles"

ARRIVAL_KINDS = ("closed", "constant", "poisson", "bursts", "ramp", "steps", "replay")

MAX_USERS = 1000
"""One generator process is one Python interpreter: beyond some dozens of users it measures itself, beyond this it is a typing error."""

MAX_DURATION_S = 24 * 3600
"""A day: samples are kept in memory, 63 bytes a request."""


class LoadProfile(BaseModel):
    """One way to load a service, and what it must keep meanwhile.

    Attributes
    ----------
    name
        For people and reports.
    description
        What the profile is good for, one sentence.
    arrivals
        When requests are sent.
    traffic
        What is sent.
    samples, duration_s
        Requests, or seconds of load; what ends first, where both are given. A search has neither: its runs are as long as it says.
    users
        Most requests under way in an open loop; None lets the generator choose.
    seed
        Of everything that is drawn: schedule, arms and bodies.
    objective
        Limits per endpoint.
    max_failures
        More failed requests than these fail the run, whatever their share; None leaves that to the objectives.
    compare
        Names of the canary's and the baseline's arm, where one is to be compared with the other.
    early_stopping
        End as soon as a quantile is shown to be within its limit, or beyond it.
    saturation
        Search for the highest rate that keeps the objectives.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    description: str
    arrivals: Arrivals = Closed()
    traffic: Traffic = Traffic()
    samples: Annotated[int, Field(ge=1, le=MAX_STARTS)] | None = None
    duration_s: Annotated[float, Field(gt=0, le=MAX_DURATION_S)] | None = None
    users: Annotated[int, Field(ge=1, le=MAX_USERS)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    objective: tuple[Objective, ...] = ()
    max_failures: Annotated[int, Field(ge=0)] | None = None
    compare: tuple[str, str] | None = None
    early_stopping: EarlyStopping | None = None
    saturation: Search | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.saturation is not None:
            return self._searches()
        if self.samples is None and self.duration_s is None and self.arrivals.kind != "replay":
            raise ValueError("it has no end: give samples, or duration_s")
        if self.compare is not None and self.compare[0] == self.compare[1]:
            raise ValueError(f"compare names {self.compare[0]!r} twice: give the canary's arm and the baseline's")
        if self.early_stopping is not None:
            self._can_stop_early(self.early_stopping)
        if self.objective or self.compare:
            self._judged()
        return self

    def _searches(self) -> Self:
        if not self.objective:
            raise ValueError("a saturation search has to know what the service must keep: give at least one objective")
        if not isinstance(self.arrivals, Poisson | Closed):
            raise ValueError(
                f"a saturation search sends Poisson arrivals at rates of its own, arrivals are {self.arrivals.kind}: leave them out"
            )
        if self.samples is not None or self.duration_s is not None or self.early_stopping is not None or self.compare is not None:
            raise ValueError("a saturation search has runs of its own: leave out samples, duration_s, early_stopping and compare")
        self._judged()
        return self

    def _can_stop_early(self, stopping: EarlyStopping) -> None:
        if isinstance(self.arrivals, Closed):
            raise ValueError("early_stopping needs a schedule: in a closed loop a service that stalls is asked less")
        if self.samples is None:
            raise ValueError("early_stopping looks at even distances on the way to samples: give them")
        needed = requests_needed(0, stopping.quantile, stopping.confidence_a_look)
        if self.samples < needed:
            raise ValueError(f"early_stopping takes at least {needed} requests with none over the limit, samples is {self.samples}")

    def _judged(self) -> None:
        try:
            Judged(self.objective, compare=self.compare, planned=self.samples or 1)
        except SettingsError as error:
            raise ValueError(str(error)) from error

    @property
    def asked(self) -> Asked:
        """What a run is held against."""
        planned = self.samples if self.early_stopping is not None else None
        return Asked(
            objectives=self.objective,
            max_failures=self.max_failures,
            compare=self.compare,
            early_stopping=self.early_stopping,
            planned=planned,
        )

    def seconds(self) -> float | None:
        """How long the load will last; None where that depends on the service."""
        if isinstance(self.arrivals, Closed):
            return self.duration_s if self.samples is None else None
        if self.samples is None and self.duration_s is not None:
            return self.duration_s
        return float(schedule(self.arrivals, self.seed, duration_s=self.duration_s, samples=self.samples)[-1])


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come along."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.toml")))


def load_profile(name_or_path: str, **overrides: Any) -> LoadProfile:
    """Read a profile; values of `overrides` that are not None replace what the file says (see `replaced`).

    Raises
    ------
    SettingsError
        When there is no such profile, it cannot be parsed, or a value is out of bounds.
    """
    path = Path(name_or_path)
    if path.suffix not in (".toml", ".json"):
        if name_or_path not in profile_names():
            names = ", ".join(profile_names())
            raise SettingsError(f"no profile is called {name_or_path!r}; there are {names}, or give the path of a .toml file")
        path = PROFILES / f"{name_or_path}.toml"
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SettingsError(f"profile {path} cannot be read: {error}") from error
    return replaced(_valid(document, path), path, **overrides)


def replaced(
    profile: LoadProfile,
    source: object,
    *,
    candidates: str | None = None,
    recorded: Path | None = None,
    users: int | None = None,
    samples: int | None = None,
    duration_s: float | None = None,
    **others: Any,
) -> LoadProfile:
    """Return a profile with some of its values replaced by those that are not None.

    Parameters
    ----------
    candidates, recorded
        Of all ranking requests; where the profile names no requests, of ``rank``.
    users
        Of a closed loop; in an open one the most that may wait.
    samples, duration_s
        One that is given replaces both.
    others
        Settings of the profile; ``token_file`` and ``ca_file`` are those of its traffic.

    Raises
    ------
    SettingsError
        A value is out of bounds.
    """
    document = profile.model_dump(mode="json")
    if samples is not None or duration_s is not None:
        document = {key: value for key, value in document.items() if key not in ("samples", "duration_s")}
        document |= {key: value for key, value in (("samples", samples), ("duration_s", duration_s)) if value is not None}
    document |= {key: value for key, value in others.items() if value is not None and key not in ("token_file", "ca_file")}
    if others.get("traffic") is not None:
        document["traffic"] = others["traffic"].model_dump(mode="json")
    document["traffic"] |= {key: others[key] for key in ("token_file", "ca_file") if others.get(key) is not None}
    ranking = {key: value for key, value in (("candidates", candidates), ("recorded", recorded)) if value is not None}
    if ranking:
        entries = _valid(document, source).traffic.requests or (RankRequests(endpoint="rank"),)
        document["traffic"]["requests"] = [{**each.model_dump(), **(ranking if isinstance(each, RankRequests) else {})} for each in entries]
    changed = _valid(document, source)
    if users is not None:
        closed = isinstance(changed.arrivals, Closed)
        changed = _valid({**document, **({"arrivals": {"kind": "closed", "users": users}} if closed else {"users": users})}, source)
    return changed


def _valid(document: object, source: object) -> LoadProfile:
    try:
        return LoadProfile.model_validate(document)
    except ValidationError as error:
        raise SettingsError(f"profile {source} is not valid:\n{mistakes_told(error, (*ENDPOINTS, *ARRIVAL_KINDS), 'profile')}") from error


def write_profile(profile: LoadProfile, target: Path) -> None:
    """Write a profile as JSON, which `load_profile` reads, completely or not at all."""
    write_bytes(target, (profile.model_dump_json(indent=2) + "\n").encode())
