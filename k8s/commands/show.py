"""``pilotage rollout status``, ``history`` and ``explain``: they look, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from k8s.commands.endings import EXIT_INTERRUPTED, fail, wrong
from k8s.commands.place import Context, Folder, Json, Name, Namespace, Place


def status(
    *,
    name: Name = None,
    namespace: Namespace = "default",
    context: Context = None,
    folder: Folder = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until it is over.")] = False,
    as_json: Json = False,
) -> None:
    """Say where the rollout is; with --watch, live."""
    from k8s.showing import follow, picture
    from serving.contract.errors import PilotageError

    place = Place(name, namespace, context, folder)
    try:
        record = place.record()
        if watch:
            record = follow(record, place.changes())
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except PilotageError as error:
        fail(error)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    elif not watch:
        from rich.console import Console

        Console().print(picture(record))


def history(
    *, name: Name = None, namespace: Namespace = "default", context: Context = None, folder: Folder = None, as_json: Json = False
) -> None:
    """List rollouts, the newest first."""
    import json

    from k8s.rollout.report import history_rows
    from serving.contract.errors import PilotageError

    try:
        rows = history_rows(Place(name, namespace, context, folder).journal().history())
    except PilotageError as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in ("id", "release", "over", "plan", "outcome", "decided by"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("id", "release", "over", "plan", "outcome", "decided_by")))
    Console().print(table)


def explain(
    rollout_id: Annotated[str | None, typer.Argument(metavar="ID", help="Of the rollout, as in the history; else the last.")] = None,
    *,
    name: Name = None,
    namespace: Namespace = "default",
    context: Context = None,
    folder: Folder = None,
    report: Annotated[Path | None, typer.Option(help="Folder for report.json and report.html.")] = None,
    as_json: Json = False,
) -> None:
    """Say what happened in a rollout and why, with the evidence."""
    import json

    from k8s.rollout.report import as_document, write_report
    from k8s.rollout.report import explain as lines_of
    from serving.contract.errors import PilotageError

    try:
        records = Place(name, namespace, context, folder).journal().history()
        found = [record for record in records if rollout_id in (None, record.id)]
        if not found:
            known = ", ".join(record.id for record in records)
            raise wrong(f"there is no rollout {rollout_id}; there are {known}" if known else "there is no rollout here: start one")
        if report is not None:
            typer.echo(str(write_report(found[-1], report)), err=True)
    except (PilotageError, OSError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(as_document(found[-1]), indent=1))
    else:
        typer.echo("\n".join(lines_of(found[-1])))
