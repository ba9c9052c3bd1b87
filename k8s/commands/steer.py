"""``pilotage rollout pause``, ``resume``, ``promote``, ``abort`` and ``stop``: they ask something of a rollout that is under way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k8s.commands.endings import fail, finish, wrong
from k8s.commands.place import (
    LAPTOP_PORT,
    Context,
    Folder,
    Json,
    Name,
    Namespace,
    Place,
    Port,
    Values,
    ValuesCommand,
    current,
    installation,
    laptop,
)

if TYPE_CHECKING:
    from k8s.rollout.record import Wish

Reason = Annotated[str, typer.Option(help="Why; it stands in the record.")]


def pause(
    *, name: Name = None, namespace: Namespace = "default", context: Context = None, folder: Folder = None, reason: Reason = ""
) -> None:
    """Keep the weights as they are until told otherwise; a release that turns out to be bad still goes back."""
    _ask("pause", Place(name, namespace, context, folder), reason)


def resume(
    *, name: Name = None, namespace: Namespace = "default", context: Context = None, folder: Folder = None, reason: Reason = ""
) -> None:
    """Go on after a pause, or judge the step again that nobody could decide."""
    _ask("resume", Place(name, namespace, context, folder), reason)


def promote(
    *,
    name: Name = None,
    namespace: Namespace = "default",
    context: Context = None,
    folder: Folder = None,
    release: Annotated[str | None, typer.Option(help="Which, of several that are tried; else the first of those that are left.")] = None,
    reason: Reason = "",
) -> None:
    """Skip what is left of the plan: stable gets the release now."""
    _ask("promote", Place(name, namespace, context, folder), reason, release)


def abort(
    *,
    name: Name = None,
    namespace: Namespace = "default",
    context: Context = None,
    folder: Folder = None,
    port: Port = LAPTOP_PORT,
    values: Values = None,
    values_command: ValuesCommand = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Put everything back, and wait until that is done; where no engine is at work any more, by this command itself."""
    from k8s.rollout.start import engine_name, held, put_back
    from k8s.showing import tell
    from serving.contract.errors import PilotageError

    place = Place(name, namespace, context, folder)
    _ask("abort", place, reason)
    engine = engine_name()
    try:
        record = place.record()
        # Nothing is loaded any more: sources that would need an address of their own are not set up.
        quiet = record.plan.model_copy(update={"synthetic": None, "live": None, "answers": None})
        if folder is not None:
            world = laptop(folder, port).world(quiet, engine, notices=[tell])
        else:
            world = installation(place, values=values, values_command=values_command).world(quiet, engine, notices=[tell])
        with held(world.lease, world.clock):
            record = put_back(world, record, engine)
    except PilotageError as error:
        fail(error)
    finish(record, None, as_json=as_json)


def stop(*, folder: Annotated[Path, typer.Option(help="Local: folder of rollouts on this machine.")]) -> None:
    """Local: end the proxy, the services behind it and their load. What is known of rollouts stays in the folder."""
    from k8s.local.processes import Processes
    from serving.contract.errors import PilotageError

    try:
        for part in ("load", "processes"):
            Processes(folder.resolve() / part, end_with_us=False).end_all()
    except PilotageError as error:
        fail(error)


def _ask(wish: Wish, place: Place, reason: str, release: str | None = None) -> None:
    from k8s.rollout.start import ask, person
    from serving.contract.errors import PilotageError

    try:
        journal = place.journal()
        record = current(journal)
        if record.is_over:
            raise wrong(f"rollout {record.id} is over: {record.outcome}")
        if release is not None and release not in (left := [record.release_of(arm).name for arm in record.canaries]):
            raise wrong(f"{release} is not tried, or not any more; what is left is {', '.join(left)}")
        ask(journal, record, wish, by=person(), at_s=time.time(), reason=reason, release=release)
    except PilotageError as error:
        fail(error)
    typer.echo(f"asked the engine of {record.id} to {wish}; `pilotage rollout status` says what came of it", err=True)
