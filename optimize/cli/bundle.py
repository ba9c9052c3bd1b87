"""``pilotage bundle create | verify | import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make, check and import bundles.")


@app.command()
def create(
    run: Annotated[Path, typer.Argument(help="Run folder that `pilotage optimize` has been through.")],
    out: Annotated[Path | None, typer.Option(help="Bundle folder to write.  [default: bundles/NAME]")] = None,
    name: Annotated[str | None, typer.Option(help="Model name.")] = None,
    version: Annotated[str | None, typer.Option(help="Model version.  [default: first digits of the graph's SHA-256]")] = None,
    variant: Annotated[str | None, typer.Option(help="Ship this variant instead of the chosen one.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
) -> None:
    """Put the chosen variant, its manifest and its report into one checksummed folder."""
    from optimize.bundling import bundle_run

    bundle = bundle_run(run, out or Path("bundles") / run.resolve().name, name=name, version=version, variant=variant, replace=replace)
    typer.echo(f"bundle {bundle.manifest.name} {bundle.manifest.version} ({bundle.manifest.provenance.variant}) written to {bundle.path}")


@app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="Bundle folder.")]) -> None:
    """Check every file of a bundle against its manifest, and every graph against its signature."""
    from serving.contract.bundle import open_bundle
    from serving.runtime.session import GraphSession

    opened = open_bundle(bundle)
    for graph, signature in opened.graphs.items():
        GraphSession(graph, threads=1).require(signature)
    size_bytes = sum(entry.size_bytes for entry in opened.manifest.files.values())
    typer.echo(
        f"{bundle}: {opened.manifest.name} {opened.manifest.version}, {len(opened.manifest.files)} files, "
        f"{size_bytes / 1e6:.2f} MB, all checksums hold"
    )


@app.command("import")
def import_(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
) -> None:
    """Copy a bundle into BentoML's model store, from where `PILOTAGE_BUNDLE=bentoml:NAME:VERSION` serves it."""
    from serving.services.store import import_bundle

    tag = import_bundle(bundle)
    typer.echo(f"imported as {tag}; serve it with: pilotage serve bentoml:{tag}")
