"""The record of one rollout: where it is, what it was about to do, and all that happened. The journal stores it, the report shows it.

It is read again by another process, maybe of a later version: whoever changes a field raises the schema version.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from k8s.errors import Refused
from k8s.rollout.phases import Outcome, Phase
from k8s.rollout.plan import Plan
from k8s.rollout.ports import Release, Weights
from loadtests.judge import Verdict

RECORD_SCHEMA_VERSION = 1

MAX_ENTRIES = 1000
"""Lines of a timeline that are kept, the first and the last half of them: a ConfigMap holds 1 MiB, a line has some 200 bytes."""

Wish = Literal["pause", "resume", "promote", "abort"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Request(_Model):
    """What a person asks of a running rollout.

    Attributes
    ----------
    id
        Unlike all others: the engine carries each out once.
    by
        Who asks, as far as that is known.
    """

    id: str
    wish: Wish
    by: str
    at_s: float
    reason: str = ""


class Entry(_Model):
    """A line of the timeline.

    Attributes
    ----------
    what
        ``started``, ``note``, ``took over``, ``phase``, ``analysis``, ``extended``, ``asked``, ``drift``, ``blind``, or an action's name.
    by
        ``engine``, ``judge``, or the person who asked.
    weights
        Weights that the engine holds to be right at this moment.
    """

    at_s: float
    phase: Phase
    step: str
    what: str
    detail: str
    by: str
    weights: Weights


class Judged(_Model):
    """A verdict that decided something.

    Attributes
    ----------
    source
        Requests that it looked at: ``synthetic``, ``live``, or ``answers``.
    verdict
        As in ``verdict.json``.
    """

    at_s: float
    step: str
    attempt: int
    source: str
    verdict: dict[str, Any]

    @staticmethod
    def of(at_s: float, step: str, attempt: int, source: str, verdict: Verdict) -> Judged:
        """Take a verdict in, as it would be read back."""
        return Judged(at_s=at_s, step=step, attempt=attempt, source=source, verdict=json.loads(verdict.to_json()))


class Intent(_Model):
    """An action that was begun and is not known to have ended. All are idempotent: after a crash it is done again.

    Attributes
    ----------
    action
        ``weights``, ``mirror``, ``ensure``, ``remove``, ``rest``, ``floor``.
    """

    action: str
    detail: str


class Record(_Model):
    """All that is known of a rollout.

    Attributes
    ----------
    id
        Name in the history.
    service
        What is rolled out: name of the chart's release, or of the local service.
    old_release
        What stable ran before, and what going back restores.
    step, attempt
        Number of the step in the plan, from 0; how often its analysis was begun. Evidence lives in the engine's memory: a restart begins it
        anew, and each beginning has half of the risk that the one before had.
    extensions
        How often the step was given more requests.
    losses
        How often the canary went away and came back.
    drifts
        How often somebody else changed the weights.
    stable_ready
        Processes that stable had at the start, which it must have again before weight goes back.
    since_s, step_since_s
        When the phase, and the weight of the step, began.
    handled
        Request that was carried out last.
    conclusion
        What the judge, the canary's health or the clock made of the release; None: nothing yet, or a person decided.
    progress
        How far the step is, in words.
    key
        Names the request that began it, or went on with it last: asked once more when it is over, it begins nothing.
    """

    schema_version: int = RECORD_SCHEMA_VERSION
    id: str
    service: str
    engine: str
    plan: Plan
    release: Release
    old_release: Release
    started_s: float
    ended_s: float | None = None
    phase: Phase = Phase.PREPARING
    outcome: Outcome | None = None
    conclusion: Literal["pass", "fail", "inconclusive"] | None = None
    why: str = ""
    progress: str = ""
    step: int = 0
    attempt: int = 0
    extensions: int = 0
    losses: int = 0
    drifts: int = 0
    paused: bool = False
    weights: Weights = Weights()
    mirror_pct: int = 0
    stable_ready: int = 0
    since_s: float
    step_since_s: float
    intent: Intent | None = None
    handled: str | None = None
    timeline: tuple[Entry, ...] = ()
    verdicts: tuple[Judged, ...] = ()
    key: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase is Phase.DONE

    @property
    def step_name(self) -> str:
        """Name of the step it is at."""
        return self.plan.steps[min(self.step, len(self.plan.steps) - 1)].title

    def with_entry(self, entry: Entry) -> Record:
        """Return the record with one line more; from the middle of a very long timeline the oldest line goes."""
        lines = (*self.timeline, entry)
        half = MAX_ENTRIES // 2
        return self.model_copy(update={"timeline": lines if len(lines) <= MAX_ENTRIES else lines[:half] + lines[half + 1 :]})

    def to_json(self) -> str:
        """Write as JSON."""
        return self.model_dump_json(indent=1) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> Record:
        """Read what `to_json` wrote.

        Raises
        ------
        Refused
            It is no record of this schema version.
        """
        try:
            record = Record.model_validate_json(text)
        except ValidationError as error:
            raise Refused(f"this is no record of a rollout: {error}") from error
        if record.schema_version != RECORD_SCHEMA_VERSION:
            raise Refused(f"the record has schema version {record.schema_version}, this program reads {RECORD_SCHEMA_VERSION}")
        return record
