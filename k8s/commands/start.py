"""``pilotage rollout start``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from k8s.commands.endings import EXIT_INTERRUPTED, fail, finish, stop_at_sigterm
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
    installation,
    laptop,
    local_releases,
)

if TYPE_CHECKING:
    from k8s.rollout.plan import Plan

READ: Any = {"exists": True, "dir_okay": False, "readable": True}


def start(
    *,
    plan: Annotated[str, typer.Option(help="Name of a plan (canary, blue-green, ab, abn, shadow, live) or a .toml file.")] = "canary",
    name: Name = None,
    namespace: Namespace = "default",
    context: Context = None,
    folder: Folder = None,
    release: Annotated[list[str] | None, typer.Option(help="Name of the release, for people; repeated, of each.")] = None,
    key: Annotated[str | None, typer.Option(help="Names this request: asked again when its rollout is over, it begins nothing.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="Cluster: image of the release, name@sha256:…; repeated, of each. Else the chart's.")
    ] = None,
    take_over: Annotated[list[str] | None, typer.Option(help="Cluster: manager whose part of stable is taken over; repeated.")] = None,
    values: Values = None,
    values_command: ValuesCommand = "",
    gateway: Annotated[str | None, typer.Option(help="Cluster: address of the gateway; else the arms' Services are loaded.")] = None,
    prometheus: Annotated[str | None, typer.Option(help="Cluster: address of Prometheus, for plans that judge live traffic.")] = None,
    prometheus_token_file: Annotated[Path | None, typer.Option(help="Cluster: file with its bearer token.", **READ)] = None,
    prometheus_ca: Annotated[
        Path | None, typer.Option(help="Cluster: authorities (PEM) that its certificate is signed by.", **READ)
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Local: bundle of the release; repeated, to try several at the same time.")
    ] = None,
    stable: Annotated[Path | None, typer.Option(help="Local: bundle that stable serves, where nothing is served yet.")] = None,
    port: Port = LAPTOP_PORT,
    requests_file: Annotated[Path | None, typer.Option(help="Recorded requests to send and to compare answers on, one a line.")] = None,
    collect_at: Annotated[
        str | None,
        typer.Option(help="Cluster: HOST:PORT where this engine's pod gets copies of live requests; the chart's Job says it of its own."),
    ] = None,
    supersede: Annotated[bool, typer.Option("--supersede", help="Put another release that is under way back first.")] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for report.json and report.html at the end.")] = None,
    as_json: Json = False,
) -> None:
    """Begin a rollout, or go on with the one that was interrupted, and wait for its end."""
    from k8s.cluster.prometheus import PrometheusAccess
    from k8s.errors import RolloutError, Settled
    from k8s.rollout.clock import SystemClock
    from k8s.rollout.plan import load_plan
    from k8s.rollout.start import begin, engine_name, held, person, plan_under_way
    from k8s.showing import tell
    from serving.contract.errors import PilotageError

    place = Place(name, namespace, context, folder)
    engine, begun = engine_name(), False
    stop_at_sigterm()
    try:
        asked = load_plan(plan)
        if folder is not None:
            wanted = local_releases(bundle or [], release or [])
            there = laptop(folder, port, stable)
            asked = _goes_on_by(asked, plan_under_way(there.journal, SystemClock(), wanted, asked))
            world = there.world(asked, engine, requests_file=requests_file, notices=[tell])
        else:
            here = installation(place, take_over, values, values_command)
            wanted = here.releases(release or [], image or [])
            asked = _goes_on_by(asked, plan_under_way(here.journal, SystemClock(), wanted, asked))
            access = PrometheusAccess(prometheus or "", prometheus_token_file, prometheus_ca)
            given: dict[str, Any] = {"gateway": gateway, "prometheus": access, "requests_file": requests_file, "collect_at": collect_at}
            world = here.world(asked, engine, **given, notices=[tell])
        with held(world.lease, world.clock):
            by = (key or person()) if supersede else None
            carrying = begin(world, str(place), asked, wanted, engine, key=key, superseded_by=by)
            begun = True
            if carrying.record.is_over:
                over = carrying.record
                said = str(over.outcome).replace("_", " ")
                typer.echo(f"rollout {over.id}, asked for by the same key, is over, {said}: {over.why}", err=True)
            record = carrying.run()
    except KeyboardInterrupt:
        typer.echo("interrupted: weights stay as they are; start again to go on, or abort", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except PilotageError as error:
        if begun and isinstance(error, RolloutError) and not isinstance(error, Settled):
            typer.echo("what was begun stands in the journal: start again to go on, or abort", err=True)
        fail(error)
    finish(record, report, as_json=as_json)


def _goes_on_by(asked: Plan, under_way: Plan) -> Plan:
    """Say so where a rollout goes on by another plan than the one that was asked for."""
    if under_way not in (asked, asked.for_kept_users()):
        typer.echo(
            f"goes on by plan {under_way.name} as it was when the rollout began; {asked.name} as it is now is for the next one", err=True
        )
    return under_way
