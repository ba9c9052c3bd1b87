"""``pilotage rollout``: start, watch and steer a rollout, on a cluster (``--name``) or on this machine (``--folder``).

Exit codes of what waits for the end: 0 promoted (or shown to be good, where the plan promotes nothing; or stable runs the release
already), 1 rolled back, 2 wrong use, 3 could not be carried on, and starting again goes on, 4 rolled back because the judge could not tell.
"""

from __future__ import annotations

import getpass
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from k8s.installation import Installation
    from k8s.local.laptop import Laptop
    from k8s.rollout.ports import Journal, Release
    from k8s.rollout.record import Record, Wish

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

EXIT_FAILED, EXIT_WRONG_USE, EXIT_INFRASTRUCTURE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

LAPTOP_PORT, GATE_PORT = 8080, 8089

Name = Annotated[str | None, typer.Option(help="Cluster: full name of the chart's installation, such as my-ranker-pilotage.")]
Namespace = Annotated[str, typer.Option(help="Cluster: its namespace.")]
Context = Annotated[str | None, typer.Option(help="Cluster: context of the kubeconfig; else this pod's cluster, or the current context.")]
Folder = Annotated[Path | None, typer.Option(help="Local: folder of a rollout on this machine.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the record.")]


@app.callback()
def rollout() -> None:
    """Take a release from 0 to 100 % in judged steps, or back."""


@app.command()
def start(
    *,
    plan: Annotated[str, typer.Option(help="Name of a plan (canary, blue-green, shadow, ab, live) or path of a .toml file.")] = "canary",
    name: Name = None,
    namespace: Namespace = "default",
    context: Context = None,
    folder: Folder = None,
    release: Annotated[str | None, typer.Option(help="Name of the release, for people.")] = None,
    image: Annotated[str | None, typer.Option(help="Cluster: image of the release, name@sha256:…; else the chart's canary.image.")] = None,
    take_over: Annotated[list[str] | None, typer.Option(help="Cluster: manager whose part of stable is taken over; repeated.")] = None,
    values: Annotated[Path | None, typer.Option(help="Cluster: promote by writing this values file (GitOps).")] = None,
    values_command: Annotated[str, typer.Option(help="Cluster: run after that, such as a script that commits it.")] = "",
    gateway: Annotated[str | None, typer.Option(help="Cluster: address of the gateway; else the arms' Services are loaded.")] = None,
    prometheus: Annotated[str | None, typer.Option(help="Cluster: address of Prometheus, for plans that judge live traffic.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Local: bundle of the release.")] = None,
    stable: Annotated[Path | None, typer.Option(help="Local: bundle that stable serves, where nothing is served yet.")] = None,
    port: Annotated[int, typer.Option(help="Local: port where callers ask.")] = LAPTOP_PORT,
    requests_file: Annotated[Path | None, typer.Option(help="Recorded requests to send and to compare answers on, one a line.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for report.json and report.html at the end.")] = None,
    as_json: Json = False,
) -> None:
    """Begin a rollout, or go on with the one that was interrupted, and wait for its end."""
    from k8s.errors import RolloutError, Settled
    from k8s.rollout.plan import load_plan
    from k8s.rollout.start import begin, engine_name, held
    from k8s.showing import tell
    from serving.contract.errors import PilotageError

    _require_one(name, folder)
    engine, begun = engine_name(), False
    signal.signal(signal.SIGTERM, lambda *_: _stop())
    try:
        asked = load_plan(plan)
        if folder is not None:
            if bundle is None:
                raise _wrong("name the bundle of the release (--bundle)")
            wanted = _release(bundle, release)
            laptop = _laptop(folder, port, stable)
            world = laptop.world(asked, engine, requests_file=requests_file, notices=[tell])
        else:
            here = _installation(name, namespace, context, take_over, values, values_command)
            wanted = here.release(release, image)
            world = here.world(asked, engine, gateway=gateway, prometheus=prometheus, requests_file=requests_file, notices=[tell])
        with held(world.lease, world.clock):
            carrying = begin(world, name or str(folder), asked, wanted, engine)
            begun = True
            record = carrying.run()
    except KeyboardInterrupt:
        typer.echo("interrupted: weights stay as they are; start again to go on, or abort", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except PilotageError as error:
        if begun and isinstance(error, RolloutError) and not isinstance(error, Settled):
            typer.echo("what was begun stands in the journal: start again to go on, or abort", err=True)
        _fail(error)
    _finish(record, report, as_json=as_json)


@app.command()
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

    try:
        record = _current(_journal(name, namespace, context, folder))
        if watch:
            record = follow(record, _changes(name, namespace, context, folder))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except PilotageError as error:
        _fail(error)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    elif not watch:
        from rich.console import Console

        Console().print(picture(record))


@app.command()
def history(
    *, name: Name = None, namespace: Namespace = "default", context: Context = None, folder: Folder = None, as_json: Json = False
) -> None:
    """List rollouts, the newest first."""
    import json

    from k8s.rollout.report import history_rows
    from serving.contract.errors import PilotageError

    try:
        rows = history_rows(_journal(name, namespace, context, folder).history())
    except PilotageError as error:
        _fail(error)
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


@app.command()
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
        records = _journal(name, namespace, context, folder).history()
        found = [record for record in records if rollout_id in (None, record.id)]
        if not found:
            known = ", ".join(record.id for record in records)
            raise _wrong(f"there is no rollout {rollout_id}; there are {known}" if known else "there is no rollout here: start one")
        if report is not None:
            typer.echo(str(write_report(found[-1], report)), err=True)
    except (PilotageError, OSError) as error:
        _fail(error)
    if as_json:
        typer.echo(json.dumps(as_document(found[-1]), indent=1))
    else:
        typer.echo("\n".join(lines_of(found[-1])))


@app.command()
def pause(
    *, name: Name = None, namespace: Namespace = "default", context: Context = None, folder: Folder = None, reason: Reason = ""
) -> None:
    """Keep the weights as they are until told otherwise; a release that turns out to be bad still goes back."""
    _ask("pause", name, namespace, context, folder, reason)


@app.command()
def resume(
    *, name: Name = None, namespace: Namespace = "default", context: Context = None, folder: Folder = None, reason: Reason = ""
) -> None:
    """Go on after a pause, or judge the step again that nobody could decide."""
    _ask("resume", name, namespace, context, folder, reason)


@app.command()
def promote(
    *, name: Name = None, namespace: Namespace = "default", context: Context = None, folder: Folder = None, reason: Reason = ""
) -> None:
    """Skip what is left of the plan: stable gets the release now."""
    _ask("promote", name, namespace, context, folder, reason)


@app.command()
def abort(
    *,
    name: Name = None,
    namespace: Namespace = "default",
    context: Context = None,
    folder: Folder = None,
    port: Annotated[int, typer.Option(help="Local: port where callers ask.")] = LAPTOP_PORT,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Put everything back, and wait until that is done; where no engine is at work any more, by this command itself."""
    from dataclasses import replace

    from k8s.rollout.start import engine_name, go_on, held
    from k8s.showing import tell
    from serving.contract.errors import PilotageError

    _ask("abort", name, namespace, context, folder, reason)
    engine = engine_name()
    try:
        current = _current(_journal(name, namespace, context, folder))
        # Nothing is loaded any more: sources that would need an address of their own are not set up.
        quiet = current.plan.model_copy(update={"synthetic": None, "live": None, "answers": None})
        if folder is not None:
            world = _laptop(folder, port, None).world(quiet, engine, notices=[tell])
        else:
            world = _installation(name, namespace, context).world(quiet, engine, notices=[tell])
        silent: Any = _Silence()
        with held(world.lease, world.clock):
            record = go_on(replace(world, traffic=dict.fromkeys(current.plan.sources, silent)), engine).run()
    except PilotageError as error:
        _fail(error)
    _finish(record, None, as_json=as_json)


@app.command()
def stop(*, folder: Annotated[Path, typer.Option(help="Local: folder of rollouts on this machine.")]) -> None:
    """Local: end the proxy, the services behind it and their load. What is known of rollouts stays in the folder."""
    from k8s.local.processes import Processes
    from serving.contract.errors import PilotageError

    try:
        for part in ("load", "processes"):
            Processes(folder.resolve() / part, end_with_us=False).end_all()
    except PilotageError as error:
        _fail(error)


@app.command()
def gate(
    *,
    canary: Annotated[str, typer.Option(help="Address of the canary, http://host:port.")],
    baseline: Annotated[str, typer.Option(help="Address of what it is compared with.")],
    plan: Annotated[str, typer.Option(help="Plan whose first step is judged.")] = "shadow",
    listen: Annotated[str, typer.Option(help="Address to answer at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to answer at.")] = GATE_PORT,
) -> None:
    """Answer Argo Rollouts (`web` metric at /verdict) and Flagger (webhook at /flagger) with the judge's verdict, until ended."""
    import tempfile

    from k8s.gate import Gate, serve
    from k8s.installation import ServiceLoad
    from k8s.local.processes import Processes
    from k8s.local.traffic import LocalTraffic
    from k8s.rollout.plan import load_plan
    from serving.contract.errors import PilotageError

    try:
        asked = load_plan(plan)
        if asked.synthetic is None or asked.live is not None:
            raise _wrong(f"plan {plan} does not judge synthetic requests alone, which is what a gate does")
        addresses = dict(zip(asked.arms, (canary, baseline), strict=True))
        with tempfile.TemporaryDirectory(prefix="pilotage-gate-") as folder:
            load = LocalTraffic(baseline, Processes(Path(folder), end_with_us=True), ServiceLoad(baseline, asked, addresses, None))
            judged = Gate(asked, {"synthetic": load})
            try:
                with serve(judged, listen, port) as server:
                    typer.echo(f"answering at http://{listen}:{server.server_port}", err=True)
                    server.serve_forever()
            finally:
                judged.close()
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except PilotageError as error:
        _fail(error)


class _Silence:
    """Traffic that is none."""

    def begin(self, step: Any, arms: Any) -> None:
        """Send nothing."""

    def look(self) -> None:
        """See nothing."""

    def end(self) -> None:
        """Nothing to end."""


def _ask(wish: Wish, name: str | None, namespace: str, context: str | None, folder: Path | None, reason: str) -> None:
    from k8s.rollout.record import Request
    from serving.contract.errors import PilotageError

    try:
        journal = _journal(name, namespace, context, folder)
        record = _current(journal)
        if record.is_over:
            raise _wrong(f"rollout {record.id} is over: {record.outcome}")
        journal.ask(Request(id=secrets.token_hex(4), wish=wish, by=getpass.getuser(), at_s=time.time(), reason=reason))
    except PilotageError as error:
        _fail(error)
    typer.echo(f"asked the engine of {record.id} to {wish}; `pilotage rollout status` says what came of it", err=True)


def _require_one(name: str | None, folder: Path | None) -> None:
    if (name is None) == (folder is None):
        _fail(_wrong("say where: --name of an installation on a cluster, or --folder of a rollout on this machine"))


def _installation(
    name: str | None,
    namespace: str,
    context: str | None,
    take_over: list[str] | None = None,
    values: Path | None = None,
    values_command: str = "",
) -> Installation:
    from k8s.cluster.values import ValuesFile
    from k8s.installation import Installation

    written = ValuesFile(values, values_command) if values is not None else None
    return Installation.of(str(name), namespace, context, take_over or (), written)


def _laptop(folder: Path, port: int, stable: Path | None) -> Laptop:
    from k8s.local.laptop import Laptop

    served = None if stable is None else _release(stable)
    laptop = Laptop(folder, port)
    if served is not None and not laptop.fleet.state("stable").wanted:
        laptop.serve(served)
    return laptop


def _release(bundle: Path, name: str | None = None) -> Release:
    """Return a release of this machine; a bundle that cannot be served is told before anything is started."""
    from k8s.rollout.ports import Release
    from serving.contract.bundle import open_bundle
    from serving.contract.errors import BundleError

    try:
        path = open_bundle(bundle.resolve()).path
    except BundleError as error:
        raise _wrong(str(error)) from error
    return Release(name or path.name, bundle={"path": str(path)})


def _journal(name: str | None, namespace: str, context: str | None, folder: Path | None) -> Journal:
    _require_one(name, folder)
    if folder is not None:
        from k8s.rollout.disk import DiskJournal

        return DiskJournal(folder / "journal")
    return _installation(name, namespace, context).journal


def _current(journal: Journal) -> Record:
    stored = journal.load()
    if stored is None:
        raise _wrong("there is no rollout here: start one")
    return stored.record


def _changes(name: str | None, namespace: str, context: str | None, folder: Path | None) -> Iterator[Record]:
    if folder is None:
        yield from _installation(name, namespace, context).changes()
        return
    journal = _journal(name, namespace, context, folder)
    while True:
        yield _current(journal)
        time.sleep(0.5)


def _finish(record: Record, report: Path | None, *, as_json: bool) -> NoReturn:
    """Write the report, and end with the code that says what came of it."""
    if report is not None:
        from k8s.rollout.report import write_report

        typer.echo(str(write_report(record, report)), err=True)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    good = record.outcome == "promoted" or (record.outcome == "discarded" and record.conclusion == "pass")
    raise typer.Exit(0 if good else EXIT_INCONCLUSIVE if record.conclusion == "inconclusive" else EXIT_FAILED)


def _wrong(message: str) -> Exception:
    from serving.contract.errors import SettingsError

    return SettingsError(message)


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"pilotage rollout: {error}", err=True)
    raise typer.Exit(getattr(error, "exit_code", EXIT_INFRASTRUCTURE))


def _stop() -> NoReturn:
    """End as a pod that is deleted does: the next one goes on."""
    typer.echo("told to end: weights stay as they are; started again, it goes on", err=True)
    sys.exit(128 + signal.SIGTERM)
