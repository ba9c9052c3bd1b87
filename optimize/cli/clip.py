"""``pilotage clip export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from optimize.console import progress_bar

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make bundles of CLIP checkpoints.")


@app.callback()
def clip() -> None:
    """Make bundles of CLIP checkpoints."""


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="Folder as transformers or open_clip write it, or OWNER/NAME on the hub.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Bundle folder to write.  [default: bundles/NAME]")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit on the hub, 40 hexadecimal digits.")] = None,
    name: Annotated[str | None, typer.Option(help="Model name.  [default: the checkpoint's]")] = None,
    version: Annotated[str | None, typer.Option(help="Model version.  [default: first digits of the files' SHA-256]")] = None,
    templates: Annotated[str, typer.Option(help="Prompts for requests that name none: plain, single, simple or imagenet80.")] = "single",
    threads: Annotated[int, typer.Option(min=0, help="Threads of the check; 0 takes the cores that may be used.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on stdout.")] = False,
) -> None:
    """Export a CLIP checkpoint's two towers to ONNX, check them against it, and write a bundle."""
    from typing import get_args

    from optimize.clip_bundling import bundle_checkpoint, model_name
    from optimize.export.clip.load import load_checkpoint
    from serving.contract.clip import TemplateSet
    from serving.contract.errors import SettingsError
    from serving.runtime.cpus import usable_cores

    if templates not in get_args(TemplateSet):
        raise SettingsError(f"--templates {templates!r} is none of {', '.join(get_args(TemplateSet))}")
    with progress_bar() as progress:
        progress("reading the checkpoint", 0.0)
        read = load_checkpoint(checkpoint, revision=revision, templates=templates)
        bundle = bundle_checkpoint(
            read,
            out or Path("bundles") / model_name(read.source.name),
            name=name,
            version=version,
            replace=replace,
            threads=threads or usable_cores(),
            progress=progress,
        )
        progress("done", 1.0)
    manifest = bundle.manifest
    size_bytes = sum(entry.size_bytes for entry in manifest.files.values())
    if as_json:
        typer.echo(json.dumps({"bundle": str(bundle.path), "size_bytes": size_bytes, "manifest": manifest.model_dump(mode="json")}))
        return
    typer.echo(f"bundle {manifest.name} {manifest.version} ({size_bytes / 1e6:.1f} MB) written to {bundle.path}")
    for metric, value in manifest.quality.metrics.items():
        typer.echo(f"{metric.replace('_', ' ')} to torch: {value:.1e}")
    typer.echo(f"next: pilotage serve {bundle.path}")
