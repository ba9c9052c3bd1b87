"""``report.json``: what was tried, what it cost, what was chosen and why."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from optimize.export.parity import Parity
from optimize.search.budget import NeChange
from optimize.search.measure import Latency
from serving.contract.errors import PilotageError

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CandidateRecord(_Frozen):
    """One variant.

    Attributes
    ----------
    passes
        Names of the passes, in order; empty is the reference.
    refused
        Why it cannot be chosen; None when it can.
    ne_change
        Against the reference, on the validation part; None for the reference and for what could not be built.
    validation, test
        Metrics by name.
    """

    name: str
    passes: tuple[str, ...]
    changes: str
    size_bytes: int | None
    ne_change: NeChange | None
    validation: dict[str, float]
    test: dict[str, float]
    latency: tuple[Latency, ...]
    refused: str | None


class Machine(_Frozen):
    """Where latencies were measured."""

    cpu: str
    flags: tuple[str, ...]
    cores: int
    threads: int


class OptimizeReport(_Frozen):
    """``report.json``."""

    schema_version: Literal[1] = 1
    created_at: AwareDatetime
    run: str
    data: str
    rows: dict[str, int]
    fingerprints: dict[str, str]
    max_ne_increase_pct: float
    parity_tolerance: float
    parity: tuple[Parity, ...]
    decisive_candidates: int
    candidates: tuple[CandidateRecord, ...]
    chosen: str
    reason: str
    machine: Machine
    versions: dict[str, str]


def read_report(folder: Path) -> OptimizeReport:
    """Read ``report.json``.

    Raises
    ------
    PilotageError
        There is none, or it is not valid.
    """
    path = folder / REPORT_NAME
    try:
        return OptimizeReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PilotageError(f"{path} cannot be read; `pilotage optimize` writes it") from error
    except ValidationError as error:
        raise PilotageError(f"{path} is not a valid report: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}") from error
