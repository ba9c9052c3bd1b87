"""``report.json``: what was tried, what it cost, what was chosen and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from optimize.search.budget import Change
from optimize.search.machine import Machine
from optimize.search.measure import Latency
from optimize.search.metrics import MetricName
from optimize.search.pairs import Ratio
from optimize.search.scores import Differences
from optimize.search.subject import Agreement
from serving.contract.errors import PilotageError

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
SCHEMA_VERSION: Literal[2] = 2


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CandidateRecord(_Frozen):
    """One variant.

    Attributes
    ----------
    passes
        Names of the passes, in order; empty is the reference.
    peak_memory_bytes
        By how much a fresh process grew at most while it loaded the graph and ran it at the decisive size.
    change
        Of the budget's metric against the reference, on the validation part; None for the reference and for what could not be scored.
    test_change
        The same on the test part, which took no part in the choice.
    validation, test
        Metrics by name.
    latency
        Fewer rounds for what was clearly slower than the fastest; none for what was refused before it was timed.
    speedup
        Over the reference at the decisive size, in the same rounds; intervals hold for all candidates at once. None without a latency.
    refused
        Why it cannot be chosen; None when it can.
    pareto
        Nothing that may be chosen is at least as good in latency, size, memory and quality, and better in one.
    """

    name: str
    file: str | None = None
    passes: tuple[str, ...]
    changes: str
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    change: Change | None = None
    test_change: Change | None = None
    validation: dict[str, float] = {}
    test: dict[str, float] = {}
    differences: Differences | None = None
    latency: tuple[Latency, ...] = ()
    speedup: Ratio | None = None
    refused: str | None = None
    pareto: bool = False

    def p50_ms(self, size: int) -> float | None:
        """Median latency at a size; None where it was not timed."""
        return next((latency.p50_ms for latency in self.latency if latency.size == size), None)


def counted(size: int, unit: str) -> str:
    """``8 pictures``, ``1 picture``; `unit` is a plural."""
    return f"{size} {unit.removesuffix('s') if size == 1 else unit}"


class BudgetRecord(_Frozen):
    """What a candidate had to keep.

    Attributes
    ----------
    looks
        Candidates judged on the same data; intervals are so wide that at ``confidence`` all of them hold.
    """

    metric: MetricName
    limit: float
    unit: str
    confidence: float
    looks: int


class LayerSensitivity(_Frozen):
    """What quantizing one layer alone does.

    Attributes
    ----------
    change
        Of the budget's metric, in its unit; positive is worse.
    max_difference
        Largest change of an answer.
    """

    layer: str
    weights: int
    change: float
    max_difference: float


class OperatorTime(_Frozen):
    """Time of one kind of operator in one run at the decisive size, by ONNX Runtime's own profile; 0 where a graph has none."""

    operator: str
    before_ms: float
    after_ms: float


class Technique(_Frozen):
    """One of the five techniques, and what it brought here.

    Attributes
    ----------
    measured
        What was compared → milliseconds, or the unit that its name says.
    words
        What it means, with its limits.
    """

    name: str
    headline: str
    measured: dict[str, float]
    words: str


class OptimizeReport(_Frozen):
    """``report.json``."""

    schema_version: Literal[2] = SCHEMA_VERSION
    created_at: AwareDatetime
    seconds: float
    run: str
    data: str
    family: str
    rows: dict[str, int]
    fingerprints: dict[str, str]
    budget: BudgetRecord
    parity_tolerance: float
    parity: tuple[Agreement, ...]
    size_unit: str
    decisive_size: int
    candidates: tuple[CandidateRecord, ...]
    chosen: str
    reason: str
    explanation: tuple[str, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    techniques: tuple[Technique, ...] = ()
    machine: Machine
    versions: dict[str, str]

    @property
    def decisive(self) -> str:
        """The size at which latency decided, in words."""
        return counted(self.decisive_size, self.size_unit)

    def candidate(self, name: str) -> CandidateRecord:
        """The candidate of this name."""
        return next(candidate for candidate in self.candidates if candidate.name == name)


def read_report(folder: Path) -> OptimizeReport:
    """Read ``report.json``.

    Raises
    ------
    PilotageError
        There is none, it is of another release, or it is not valid.
    """
    path = folder / REPORT_NAME
    try:
        content = path.read_bytes()
        document = json.loads(content)
    except OSError as error:
        raise PilotageError(f"{path} cannot be read; `pilotage optimize` writes it") from error
    except ValueError as error:
        raise PilotageError(f"{path} is not a valid report: {error}; `pilotage optimize` writes it anew") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise PilotageError(f"{path} has schema version {version}, this release reads {SCHEMA_VERSION}; run `pilotage optimize` again")
    try:
        return OptimizeReport.model_validate_json(content)
    except ValidationError as error:
        raise PilotageError(f"{path} is not a valid report: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}") from error
