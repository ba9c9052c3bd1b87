"""``pilotage train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from optimize.console import progress_bar

app = typer.Typer(add_completion=False)


@app.command()
def train(
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
    """Train a ranking model beside its baselines and write a run folder."""
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
