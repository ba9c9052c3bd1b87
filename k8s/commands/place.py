"""Where a rollout is, as the options of all commands say it: an installation on a cluster, or a folder of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k8s.commands.endings import fail, wrong

if TYPE_CHECKING:
    from k8s.installation import Installation
    from k8s.local.laptop import Laptop
    from k8s.rollout.arms import Release
    from k8s.rollout.ports import Journal
    from k8s.rollout.record import Record

LAPTOP_PORT = 8080

Name = Annotated[str | None, typer.Option(help="Cluster: full name of the chart's installation, such as my-ranker-pilotage.")]
Namespace = Annotated[str, typer.Option(help="Cluster: its namespace.")]
Context = Annotated[str | None, typer.Option(help="Cluster: context of the kubeconfig; else this pod's cluster, or the current context.")]
Folder = Annotated[Path | None, typer.Option(help="Local: folder of a rollout on this machine.")]
Port = Annotated[int, typer.Option(help="Local: port where callers ask.")]
Values = Annotated[Path | None, typer.Option(help="Cluster: values file that the rollout writes in place of the cluster (GitOps).")]
ValuesCommand = Annotated[str, typer.Option(help="Cluster: run after each change of it, such as a script that commits it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@dataclass(frozen=True)
class Place:
    """One of both: `name` on a cluster, or `folder`."""

    name: str | None
    namespace: str
    context: str | None
    folder: Path | None

    def __post_init__(self) -> None:
        """Check that it is one."""
        if (self.name is None) == (self.folder is None):
            fail(wrong("say where: --name of an installation on a cluster, or --folder of a rollout on this machine"))

    def __str__(self) -> str:
        """Return what the record calls the service."""
        return self.name or str(self.folder)

    def journal(self) -> Journal:
        """Return where the record stands."""
        if self.folder is not None:
            from k8s.rollout.disk import DiskJournal

            return DiskJournal(self.folder / "journal")
        return installation(self).journal

    def record(self) -> Record:
        """Return the record of the current or last rollout.

        Raises
        ------
        SettingsError
            There is none.
        """
        return current(self.journal())

    def changes(self) -> Iterator[Record]:
        """Yield the record again and again, as it changes."""
        if self.folder is None:
            yield from installation(self).changes()
            return
        while True:
            yield self.record()
            time.sleep(0.5)


def current(journal: Journal) -> Record:
    """Return the record of the current or last rollout.

    Raises
    ------
    SettingsError
        There is none.
    """
    stored = journal.load()
    if stored is None:
        raise wrong("there is no rollout here: start one")
    return stored.record


def installation(place: Place, take_over: list[str] | None = None, values: Path | None = None, values_command: str = "") -> Installation:
    """Reach the cluster."""
    from k8s.installation import Installation

    return Installation.of(str(place.name), place.namespace, place.context, take_over or (), values, values_command)


def laptop(folder: Path, port: int, stable: Path | None = None) -> Laptop:
    """Return what runs here; where nothing does, `stable` is served first."""
    from k8s.local.laptop import Laptop

    served = None if stable is None else local_release(stable)
    found = Laptop(folder, port)
    if served is not None and not found.fleet.state("stable").wanted:
        found.serve(served)
    return found


def local_releases(bundles: Sequence[Path], names: Sequence[str]) -> list[Release]:
    """Return a release for each bundle of this machine, by its name where there is one for it."""
    if not bundles:
        raise wrong("name the bundle of the release (--bundle)")
    if len(names) > len(bundles):
        raise wrong(f"{len(names)} names (--release) for {len(bundles)} bundles: name at most as many, in their order")
    return [local_release(bundle, name) for bundle, name in zip_longest(bundles, names)]


def local_release(bundle: Path, name: str | None = None) -> Release:
    """Return a release of this machine; a bundle that cannot be served is told before anything is started."""
    from k8s.rollout.arms import Release
    from serving.contract.bundle import open_bundle
    from serving.contract.errors import BundleError

    try:
        path = open_bundle(bundle.resolve()).path
    except BundleError as error:
        raise wrong(str(error)) from error
    return Release(name or path.name, bundle={"path": str(path)})
