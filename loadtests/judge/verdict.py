"""The verdict, and ``verdict.json``.

``pass``, ``fail`` or ``inconclusive``; for each objective its effect with an interval, the counts behind it and a sentence. Whoever reads
the file gets the schema from here: `Verdict.from_json` takes only what this version writes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from loadtests.judge.errors import JudgeError

VERDICT_NAME = "verdict.json"
VERDICT_SCHEMA_VERSION = 1

Status = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Effect:
    """What was found, with an interval that holds at every look.

    Attributes
    ----------
    value
        None where there are too few requests to say.
    low, high
        Ends; None where nothing is known on that side.
    unit
        ``times``, ``percentage points``, ``ms``, ``percent``, ``share``.
    risk
        Chance that the truth ever lies beyond one end, for each end.
    """

    value: float | None
    low: float | None
    high: float | None
    unit: str
    risk: float


@dataclass(frozen=True)
class Finding:
    """What became of one objective.

    Attributes
    ----------
    canary_samples, baseline_samples
        Requests behind it.
    correlated
        How many requests count as one, because they are slow (or fail) together.
    evidence
        e-value against the objective; it fails at `evidence_needed`. Capped at 1e300, which JSON can hold.
    """

    objective: str
    status: Status
    sentence: str
    effect: Effect
    canary_samples: int
    baseline_samples: int
    correlated: float
    evidence: float
    evidence_needed: float


@dataclass(frozen=True)
class Verdict:
    """The whole verdict.

    Attributes
    ----------
    sentence
        For a tired person.
    reasons
        Why samples are not fit to be judged; empty where they are.
    canary_samples, baseline_samples
        Requests taken in.
    lag_measured
        Whether the generator said how late it was.
    """

    status: Status
    sentence: str
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    canary_samples: int
    baseline_samples: int
    lag_measured: bool
    false_alarm: float
    false_pass: float
    schema_version: int = VERDICT_SCHEMA_VERSION

    def to_json(self) -> str:
        """Write as JSON; a value that is no number is refused."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> Verdict:
        """Read what `to_json` wrote.

        Raises
        ------
        JudgeError
            It is no verdict of this schema version.
        """
        try:
            document = json.loads(text)
            version = document.get("schema_version") if isinstance(document, dict) else None
            if version != VERDICT_SCHEMA_VERSION:
                raise JudgeError(f"this is no verdict of schema version {VERDICT_SCHEMA_VERSION}: schema_version is {version!r}")
            findings = tuple(_finding(each) for each in document.pop("findings"))
            verdict = Verdict(**document | {"findings": findings, "reasons": tuple(document["reasons"])})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, JudgeError):
                raise
            raise JudgeError(f"this is no verdict: {error}") from error
        for status in (verdict.status, *(finding.status for finding in verdict.findings)):
            if status not in get_args(Status):
                raise JudgeError(f"this is no verdict: a status is {status!r}, it must be one of {', '.join(get_args(Status))}")
        if verdict.status == "pass" and (not verdict.findings or any(finding.status != "pass" for finding in verdict.findings)):
            raise JudgeError("this is no verdict: it passes although not every objective does")
        return verdict


def _finding(document: dict[str, Any]) -> Finding:
    unknown = document.keys() - {field.name for field in fields(Finding)}
    if unknown:
        raise JudgeError(f"this is no verdict: a finding has the unknown keys {', '.join(sorted(unknown))}")
    return Finding(**document | {"effect": Effect(**document["effect"])})
