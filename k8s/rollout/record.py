"""The record of one rollout: where it is, what it was about to do, and all that happened. The journal stores it, the report shows it.

It is read again by another process, maybe of a later version: whoever changes a field raises the schema version.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from k8s.errors import Refused
from k8s.rollout.arms import CANARIES, Arm, Release, Weights
from k8s.rollout.phases import Outcome, Phase
from k8s.rollout.plan import Plan
from loadtests.judge import Verdict

RECORD_SCHEMA_VERSION = 2

MAX_ENTRIES = 1000
"""Lines of a timeline that are kept, the first and the last half of them; a line has some 200 bytes."""

MAX_BYTES = 500_000
"""Of a record. A ConfigMap holds 1 MiB: this one, and finished ones beside it (400,000 bytes). Five releases by ten steps, judged on two
sources and on answers, were measured at 329,000 bytes with ten lines, at 584,000 with a full timeline."""

MAX_WORDS = 4000
"""Characters of a line: what an API server says of an object that it refuses may be as long as the object."""

Item = TypeVar("Item")

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
    release
        Name of what is to be promoted, where several are tried; None: the first of those that are left.
    """

    id: str
    wish: Wish
    by: str
    at_s: float
    reason: str = ""
    release: str | None = None


class Entry(_Model):
    """A line of the timeline.

    Attributes
    ----------
    what
        ``started``, ``note``, ``took over``, ``phase``, ``analysis``, ``extended``, ``dropped``, ``asked``, ``drift``, ``blind``,
        ``withdrawn``, or an action's name.
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
    release
        Name of the one that was judged.
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
    release: str = ""

    def bare(self) -> Judged:
        """Return what was decided, and its sentence, without the findings."""
        return self.model_copy(update={"verdict": self.verdict | {"findings": []}})

    @staticmethod
    def of(at_s: float, record: Record, release: str, source: str, verdict: Verdict) -> Judged:
        """Take a verdict in, as it would be read back."""
        found = json.loads(verdict.to_json())
        return Judged(at_s=at_s, step=record.step_name, attempt=record.attempt, source=source, verdict=found, release=release)


class Dropped(_Model):
    """A release that is tried no longer, while others are.

    Attributes
    ----------
    conclusion
        As of the record.
    """

    arm: Arm
    why: str
    conclusion: Literal["fail", "inconclusive"]


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
    releases
        What is rolled out: one, or several that are tried at the same time, the preferred one first. Arm `canary` runs the first,
        `canary-2` the second, and so on.
    dropped
        Those that are tried no longer.
    chosen
        Arm whose release stable gets; None: not chosen yet.
    old_release
        What stable ran before, and what going back restores.
    step, attempt
        Number of the step in the plan, from 0; how often its analysis was begun. Evidence lives in the engine's memory: a restart begins it
        anew, and each beginning has half of the risk that the one before had.
    extensions
        How often the step was given more requests.
    losses
        How often a canary went away and came back.
    drifts
        How often somebody else changed the weights.
    stable_ready
        Processes that stable had at the start, which it must have again before weight goes back.
    since_s, step_since_s
        When the phase, and the weight of the step, began.
    handled
        Request that was carried out last.
    conclusion
        What the judge, a canary's health or the clock made of what was left at the end; None: nothing yet, or a person decided.
    progress
        How far the step is, in words.
    key
        Names the request that began it, or went on with it last: asked once more when it is over, it begins nothing.
    watches
        How often judging live requests was begun while a person decided; the n-th time has 1/n(n+1) of the risk.
    """

    schema_version: int = RECORD_SCHEMA_VERSION
    id: str
    service: str
    engine: str
    plan: Plan
    releases: tuple[Release, ...] = Field(min_length=1, max_length=len(CANARIES))
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
    dropped: tuple[Dropped, ...] = ()
    chosen: Arm | None = None
    watches: int = 0

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Arms of all releases, dropped or not."""
        return CANARIES[: len(self.releases)]

    @property
    def canaries(self) -> tuple[Arm, ...]:
        """Arms that still may win; one, once that is chosen."""
        if self.chosen is not None:
            return (self.chosen,)
        gone = {each.arm for each in self.dropped}
        return tuple(arm for arm in self.arms if arm not in gone)

    def release_of(self, arm: Arm) -> Release:
        """Return what a canary runs."""
        return self.releases[CANARIES.index(arm)]

    @property
    def title(self) -> str:
        """Name of the release, or of all that are tried until one is chosen."""
        return ", ".join(self.release_of(arm).name for arm in (self.canaries if self.chosen else self.arms))

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
        return self.model_copy(update={"timeline": lines if len(lines) <= MAX_ENTRIES else _without_middle(lines, 1)})

    def within(self, limit_bytes: int = MAX_BYTES) -> Record:
        """Return the record, small enough to be stored: the findings of the oldest verdicts go first, then lines from the middle."""
        record = self
        while len(record.to_json().encode()) > limit_bytes:
            full = [number for number, judged in enumerate(record.verdicts) if judged.verdict.get("findings")]
            if full:
                bare = {*full[: (len(full) + 1) // 2]}
                verdicts = (judged.bare() if number in bare else judged for number, judged in enumerate(record.verdicts))
                record = record.model_copy(update={"verdicts": tuple(verdicts)})
            elif len(record.timeline) > len(record.verdicts):
                record = record.model_copy(update={"timeline": _without_middle(record.timeline, (len(record.timeline) + 1) // 2)})
            elif record.verdicts:
                record = record.model_copy(update={"verdicts": _without_middle(record.verdicts, (len(record.verdicts) + 1) // 2)})
            else:
                break
        return record

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
            document = json.loads(text)
            version = document["schema_version"]
            if version == 1:  # one release
                document |= {"schema_version": RECORD_SCHEMA_VERSION, "releases": [document.pop("release")]}
            elif version != RECORD_SCHEMA_VERSION:
                raise Refused(f"the record has schema version {version}, this program reads 1 and {RECORD_SCHEMA_VERSION}")
            return Record.model_validate(document)
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise Refused(f"this is no record of a rollout: {error}") from error


def short(words: str, most: int = MAX_WORDS) -> str:
    """Return words that fit into a line of the record."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _without_middle(items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    """Leave out so many from the middle."""
    begin = (len(items) - count + 1) // 2
    return items[:begin] + items[begin + count :]
