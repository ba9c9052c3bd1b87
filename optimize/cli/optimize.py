"""``pilotage optimize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from optimize.console import progress_bar

app = typer.Typer(add_completion=False)


@app.command()
def optimize(
    run: Annotated[Path, typer.Argument(help="Run folder that `pilotage train` wrote.")],
    max_ne_increase_pct: Annotated[float, typer.Option(min=0, help="Accuracy budget: most that NE may rise, in percent.")] = 0.1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of one run, as in the service; 0 takes the cores that may be used.")] = 0,
    rounds: Annotated[int, typer.Option(min=5, max=10_000, help="Interleaved timing rounds.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Export to ONNX, build variants, choose the fastest inside the accuracy budget, write the report."""
    from optimize.data.interactions import load
    from optimize.models.load import load_model
    from optimize.search.page import render
    from optimize.search.report import PAGE_NAME, REPORT_NAME
    from optimize.search.search import SearchSettings, search
    from optimize.training.records import TEST_NAME, VALIDATION_NAME, WEIGHTS_NAME, read_run
    from serving.contract.files import replace_folder
    from serving.runtime.cpus import usable_cores

    record = read_run(run)
    model = load_model(record.recipe.model, record.features, run / WEIGHTS_NAME)
    settings = SearchSettings(max_ne_increase_pct=max_ne_increase_pct, threads=threads or usable_cores(), rounds=rounds, seed=record.seed)
    target = run / "variants"
    with progress_bar() as progress, replace_folder(target, marker=REPORT_NAME) as folder:
        report = search(
            model, load(run / VALIDATION_NAME), load(run / TEST_NAME), run.resolve().name, record.data, folder, settings, progress
        )
        (folder / REPORT_NAME).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / PAGE_NAME).write_text(render(report, record), encoding="utf-8")
        progress("done", 1.0)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    table = Table(title=f"variants of {report.run}, {report.machine.threads} thread(s)")
    for title in (
        "variant",
        *(f"{latency.candidates} cand., ms" for latency in report.candidates[0].latency),
        "MB",
        "NE change, %",
        "test AUC",
        "verdict",
    ):
        table.add_column(title, justify="left" if title in ("variant", "verdict") else "right")
    for c in report.candidates:
        verdict = c.refused or ("chosen" if c.name == report.chosen else "allowed")
        change = f"{c.ne_change.change_pct:+.3f}" if c.ne_change else "–"
        times = [f"{latency.p50_ms:.2f}" for latency in c.latency] or ["–"] * len(report.candidates[0].latency)
        table.add_row(c.name, *times, f"{(c.size_bytes or 0) / 1e6:.2f}", change, f"{c.test.get('auc', float('nan')):.4f}", verdict)
    console = Console()
    console.print(table)
    console.print(f"chosen: {report.reason}", soft_wrap=True)
    console.print(f"report: {target}/{PAGE_NAME}; next: pilotage bundle create {run}", soft_wrap=True)
