"""``pilotage optimize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from optimize.console import progress_bar

if TYPE_CHECKING:
    from optimize.search.report import OptimizeReport

app = typer.Typer(add_completion=False)


@app.command()
def optimize(
    run: Annotated[Path, typer.Argument(help="Run folder that `pilotage train` wrote.")],
    max_ne_increase_pct: Annotated[float, typer.Option(min=0, help="Accuracy budget: most that NE may rise, in percent.")] = 0.1,
    max_auc_loss: Annotated[float | None, typer.Option(min=0, max=1, help="Budget in AUC instead: most that it may fall.")] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Passes to try, say clean_up+low_rank:rank=32+int8_dynamic; again for each.  [default: a list]")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of one run, as in the service; 0 takes the cores that may be used.")] = 0,
    rounds: Annotated[int, typer.Option(min=5, max=10_000, help="Interleaved timing rounds.")] = 60,
    cache: Annotated[Path | None, typer.Option(help="Folder of results kept by content.  [default: RUN/cache]")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything anew, whatever the cache holds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Export to ONNX, try compositions of passes, choose the fastest inside the accuracy budget, write the report."""
    from optimize.search.candidates import default_candidates, parse_candidate

    listed = [parse_candidate(text) for text in candidate] if candidate else default_candidates("ranking")
    from optimize.search.budget import Budget
    from optimize.search.cache import Cache
    from optimize.search.page import render
    from optimize.search.rankers import ranking_subject
    from optimize.search.report import PAGE_NAME, REPORT_NAME
    from optimize.search.search import SearchSettings, search
    from optimize.training.records import read_run
    from serving.contract.files import replace_folder
    from serving.runtime.cpus import usable_cores

    record = read_run(run)
    budget = Budget("ne", max_ne_increase_pct) if max_auc_loss is None else Budget("auc", max_auc_loss)
    settings = SearchSettings(
        budget=budget, threads=threads or usable_cores(), rounds=rounds, seed=record.seed, all_remedies=candidate is not None
    )
    kept = Cache(cache or run / "cache", fresh=fresh)
    target = run / "variants"
    with progress_bar() as progress, replace_folder(target, marker=REPORT_NAME) as folder:
        progress("exporting", 0.0)
        subject = ranking_subject(run, record, kept)
        report = search(subject, listed, folder, settings, kept, progress)
        (folder / REPORT_NAME).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / PAGE_NAME).write_text(render(report, record, kept), encoding="utf-8")
        progress("done", 1.0)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    _show(report)
    console = Console()
    console.print(f"chosen: {report.reason}", soft_wrap=True, markup=False)
    console.print(f"report: {target}/{PAGE_NAME}; next: pilotage bundle create {run}", soft_wrap=True, markup=False)


def _show(report: OptimizeReport) -> None:
    """Print candidates as a table, and below it why some are out."""
    sizes = [latency.size for latency in report.candidates[0].latency]
    unit = f", {report.budget.unit}" if report.budget.unit else ""
    table = Table(title=f"candidates of {report.run}, {report.machine.threads} thread(s)")
    table.add_column("candidate", overflow="fold", min_width=24)
    for title in (*(f"{size}, ms" for size in sizes), "MB", f"{report.budget.metric}{unit}", "test AUC"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for c in report.candidates:
        verdict = "refused" if c.refused else "chosen" if c.name == report.chosen else "allowed"
        change = f"{c.change.value:+.3g}" if c.change else "–"
        times = [f"{latency.p50_ms:.2f}" for latency in c.latency] or ["–"] * len(sizes)
        auc = f"{c.test['auc']:.4f}" if "auc" in c.test else "–"
        table.add_row(c.name, *times, f"{c.size_bytes / 1e6:.2f}" if c.size_bytes else "–", change, auc, verdict)
    console = Console()
    console.print(table)
    for c in report.candidates:
        if c.refused:
            console.print(f"{c.name} refused: {c.refused}", soft_wrap=True, markup=False)
