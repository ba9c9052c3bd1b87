"""``pilotage train``, and ``pilotage train clip``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from optimize.console import progress_bar

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def train(
    ctx: typer.Context,
    data: Annotated[str, typer.Option(help="Data set: movielens or clicks.")] = "movielens",
    model: Annotated[str, typer.Option(help="Architecture: dcn_v2 or wide_deep.")] = "dcn_v2",
    data_path: Annotated[Path | None, typer.Option(help="Folder (or recbole wheel) with MovieLens-100k.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe TOML of your own instead of the shipped one.")] = None,
    features: Annotated[Path | None, typer.Option(help="Feature specification TOML of your own.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.  [default: runs/DATA-MODEL]")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the split, the weights and the batches.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 takes the cores that may be used.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run record as JSON on stdout.")] = False,
) -> None:
    """Train a ranking model beside its baselines and write a run folder; `clip` trains a small CLIP instead."""
    if ctx.invoked_subcommand is not None:
        return
    from optimize.training.recipe import RECIPES, load_recipe, shipped
    from optimize.training.records import RUN_NAME
    from optimize.training.run import load_source, run
    from serving.contract.fields import load_spec
    from serving.contract.files import require_replaceable
    from serving.runtime.cpus import usable_cores

    chosen = load_recipe(recipe or shipped(data, model))
    spec = load_spec(features or RECIPES / chosen.data.source / "features.toml")
    folder = out or Path("runs") / f"{chosen.data.source}-{chosen.model.architecture}"
    require_replaceable(folder, RUN_NAME)
    with progress_bar() as progress:
        progress("loading data", 0.0)
        source = load_source(chosen.data, data_path, seed)
        record = run(chosen, spec, source, folder, seed=seed, threads=threads or usable_cores(), progress=progress)
    if as_json:
        typer.echo(record.model_dump_json(indent=2))
        return
    table = Table(title=f"{record.data}: test part, {record.rows['test']} interactions")
    table.add_column("model")
    for name in record.contenders[0].metrics:
        table.add_column(name, justify="right")
    for contender in record.contenders:
        table.add_row(contender.name, *(f"{value:.4f}" for value in contender.metrics.values()))
    console = Console()
    console.print(table)
    if record.best_possible_log_loss is not None:
        console.print(f"best possible log loss (true probabilities): {record.best_possible_log_loss:.4f}")
    console.print(f"run written to {folder}/{RUN_NAME}; next: pilotage optimize {folder}")


@app.command()
def clip(
    out: Annotated[Path, typer.Option(help="Run folder to write; the bundle comes into it.")] = Path("runs/clip-scenes"),
    scenes: Annotated[
        int | None, typer.Option(min=100, max=10_000_000, help="Pictures to draw for training, 12 kB of memory each.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=1000, help="Passes over them.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**16 - 1, help="Seed of scenes, weights and batches.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Threads and drawing processes; 0 takes the cores that may be used.")] = 0,
    pictures: Annotated[int, typer.Option(min=1, max=1000, help="Test pictures for each unseen combination.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Train a small CLIP on rendered scenes, judge it on combinations that it never saw, and bundle it."""
    from optimize.embedded.report import REPORT_NAME
    from optimize.embedded.run import BUNDLE_FOLDER, run
    from optimize.models.clip_small import ClipSmallSettings
    from optimize.training.contrastive import ContrastiveSettings
    from serving.contract.files import require_replaceable
    from serving.runtime.cpus import usable_cores

    given = {name: value for name, value in (("scenes", scenes), ("epochs", epochs)) if value is not None}
    require_replaceable(out, REPORT_NAME)
    with progress_bar() as progress:
        report = run(
            ClipSmallSettings(),
            ContrastiveSettings.model_validate(given),
            out,
            seed=seed,
            threads=threads or usable_cores(),
            progress=progress,
            per_label=pictures,
        )
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    table = Table(title="accuracy on combinations that training never saw, %")
    for title in ("suite", "pictures", "labels", "chance", *report.sizes):
        table.add_column(title, justify="left" if title == "suite" else "right")
    for suite in report.suites:
        figures = (suite.chance, *(suite.accuracy[name] for name in report.sizes))
        table.add_row(suite.name, str(suite.pictures), str(suite.choices), *(f"{100 * value:.1f}" for value in figures))
    Console().print(table)
    typer.echo(f"bundle with {report.chosen} written to {out}/{BUNDLE_FOLDER}; next: pilotage serve {out}/{BUNDLE_FOLDER}")
