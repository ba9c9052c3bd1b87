"""How a command ends: its exit code, and what it says.

Exit codes of what waits for the end: 0 promoted (or shown to be good, where the plan promotes nothing; or stable runs the release
already), 1 rolled back, 2 wrong use, 3 could not be carried on, and starting again goes on, 4 rolled back because the judge could not tell.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from k8s.rollout.record import Record

EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 3, 4, 130


def finish(record: Record, report: Path | None, *, as_json: bool) -> NoReturn:
    """Write the report, and end with the code that says what came of it."""
    if report is not None:
        from k8s.rollout.report import write_report

        typer.echo(str(write_report(record, report)), err=True)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    good = record.outcome == "promoted" or (record.outcome == "discarded" and record.conclusion == "pass")
    raise typer.Exit(0 if good else EXIT_INCONCLUSIVE if record.conclusion == "inconclusive" else EXIT_FAILED)


def wrong(message: str) -> Exception:
    """Return the error of a command that was called wrongly."""
    from serving.contract.errors import SettingsError

    return SettingsError(message)


def fail(error: Exception) -> NoReturn:
    """Say what went wrong, and end with the error's code."""
    typer.echo(f"pilotage rollout: {error}", err=True)
    raise typer.Exit(getattr(error, "exit_code", EXIT_INFRASTRUCTURE))


def stop_at_sigterm() -> None:
    """End at SIGTERM as a pod that is deleted does: the next one goes on."""
    signal.signal(signal.SIGTERM, lambda *_: _stop())


def _stop() -> NoReturn:
    typer.echo("told to end: weights stay as they are; started again, it goes on", err=True)
    sys.exit(128 + signal.SIGTERM)
