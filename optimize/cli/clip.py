"""``pilotage clip export | optimize``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from optimize.console import progress_bar

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make bundles of CLIP checkpoints, and faster ones of bundles.")


@app.callback()
def clip() -> None:
    """Make bundles of CLIP checkpoints, and faster ones of bundles."""


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


@app.command()
def optimize(
    bundle: Annotated[Path, typer.Argument(help="Bundle of the family clip.")],
    pictures: Annotated[Path, typer.Argument(help="Folder with a folder of image files for each label, or with captions.jsonl.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Bundle folder to write.  [default: BUNDLE-optimized]")] = None,
    tower: Annotated[list[str] | None, typer.Option(help="image or text; again for both.  [default: both]")] = None,
    max_accuracy_loss: Annotated[
        float, typer.Option(min=0, max=100, help="Budget: most that zero-shot accuracy may fall, in points, with both towers.")
    ] = 0.5,
    max_cosine_distance: Annotated[
        float | None, typer.Option(min=0, max=2, help="Budget in 1 - cosine to the bundle's embeddings instead, for each tower.")
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Passes to try on both, say fuse_attention+int8_dynamic; again for each.  [default: a list]")
    ] = None,
    max_pictures: Annotated[int, typer.Option(min=16, max=1_000_000, help="Most pictures to read; they are held in memory.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Which pictures calibrate, choose and judge.")] = 0,
    version: Annotated[str | None, typer.Option(help="Model version.  [default: first digits of the files' SHA-256]")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of one run, as in the service; 0 takes the cores that may be used.")] = 0,
    rounds: Annotated[int, typer.Option(min=5, max=10_000, help="Interleaved timing rounds.")] = 60,
    cache: Annotated[Path | None, typer.Option(help="Folder of results kept by content.  [default: OUT.cache]")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything anew, whatever the cache holds.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON on stdout.")] = False,
) -> None:
    """Try compositions of passes on each tower, and bundle the fastest inside a budget, with both reports."""
    from optimize.search.candidates import default_candidates, parse_candidate
    from serving.contract.errors import SettingsError

    towers = tower or ["image", "text"]
    unknown = [given for given in towers if given not in ("image", "text")]
    if unknown:
        raise SettingsError(f"--tower {unknown[0]!r} is neither 'image' nor 'text'")
    listed = [parse_candidate(text) for text in candidate] if candidate else default_candidates("transformer")
    from optimize.clip_optimizing import optimize_bundle
    from optimize.data.pictures import load_pictures
    from optimize.search.budget import Budget
    from optimize.search.cache import Cache
    from optimize.search.search import SearchSettings
    from serving.contract.bundle import ClipBundle, open_bundle
    from serving.contract.errors import BundleError
    from serving.runtime.cpus import usable_cores

    opened = open_bundle(bundle)
    if not isinstance(opened, ClipBundle):
        raise BundleError(f"bundle {bundle} is of the family {opened.manifest.family!r}; `pilotage optimize` takes the run of a ranker")
    budget = Budget("accuracy", max_accuracy_loss) if max_cosine_distance is None else Budget("cosine", max_cosine_distance)
    target = out or bundle.with_name(f"{bundle.resolve().name}-optimized")
    with progress_bar() as progress:
        written, reports, together = optimize_bundle(
            opened,
            load_pictures(pictures),
            target,
            dict.fromkeys(dict.fromkeys(towers), listed),
            SearchSettings(budget=budget, threads=threads or usable_cores(), rounds=rounds, seed=seed),
            Cache(cache or target.with_name(f"{target.name}.cache"), fresh=fresh),
            max_pictures=max_pictures,
            version=version,
            replace=replace,
            progress=progress,
        )
        progress("done", 1.0)
    if as_json:
        told = {name: report.model_dump(mode="json") for name, report in reports.items()}
        typer.echo(json.dumps({"bundle": str(target), "together": together.model_dump(mode="json"), "towers": told}))
        return
    for name, report in reports.items():
        typer.echo(f"{name} tower: {report.reason}")
    if together.reason:
        typer.echo(together.reason)
    typer.echo(
        f"zero-shot accuracy {100 * together.accuracy:.1f} %, before {100 * together.reference_accuracy:.1f} %; cosine to before "
        f"{together.image_cosine:.5f} (pictures), {together.text_cosine:.5f} (labels)"
    )
    typer.echo(f"bundle {written.manifest.name} {written.manifest.version} written to {target}; reports in {target}/optimize")
