"""``pilotage passes list | apply``."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import onnx

    from optimize.passes.base import Feeds
    from optimize.search.effect import Difference

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Apply single transformations to any ONNX model.")

COMPARED_RUNS = 16
"""Of the calibration runs, at most so many are compared before and after: the figures are for a first look."""


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print the passes as JSON on stdout.")] = False) -> None:
    """Name all passes, what they change, take and need."""
    from optimize.passes.base import shown
    from optimize.passes.registry import PASSES, pass_type

    steps = [pass_type(kind)() for kind in sorted(PASSES)]
    options = {step.kind: {field.name: shown(getattr(step, field.name)) for field in fields(step)} for step in steps}
    if as_json:
        typer.echo(json.dumps([{"kind": s.kind, "changes": s.changes, "options": options[s.kind], "needs": s.needs} for s in steps]))
        return
    table = Table("pass", "what it changes", "options and their defaults", "needs")
    for step in steps:
        table.add_row(step.kind, step.changes, "\n".join(f"{k}={v}" for k, v in options[step.kind].items()), ", ".join(step.needs))
    Console().print(table)


@app.command()
def apply(
    model: Annotated[Path, typer.Argument(help="ONNX file, with its external data beside it.")],
    passes: Annotated[list[str], typer.Argument(help="PASS or PASS:option=value,option=value; applied in this order.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write; large weights lie beside it as NAME.weights.")],
    calibration: Annotated[
        Path | None, typer.Option(help="Inputs of one run as .npz, an array for each input, or a folder of such files.")
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Go on where a pass has nothing to do, instead of failing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON on stdout.")] = False,
) -> None:
    """Apply passes to a model, and say how its size, its operators and its answers changed."""
    from optimize.export.files import load_graph, staged_graph, weights_of
    from optimize.passes.base import CalibrationError, Context, PassNotApplicable
    from optimize.passes.feeds import read_feeds
    from optimize.passes.registry import parse_pass
    from optimize.search.effect import operators
    from serving.runtime.session import open_session

    steps = [parse_pass(text) for text in passes]
    before = load_graph(model)
    open_session(model, threads=1)  # a model that does not load fails here, not in a pass
    runs = read_feeds(calibration, before) if calibration else []
    for step in steps:
        if "calibration" in step.needs and not runs:
            raise CalibrationError(f"pass {step.name} needs inputs to calibrate on: give them with --calibration")
    after, skipped = before, {}
    for step in steps:
        try:
            after = step.apply(after, Context(calibration=runs))
        except PassNotApplicable as error:
            if not skip:
                raise PassNotApplicable(f"{step.name} does not apply: {error}") from error
            skipped[step.name] = str(error)
    with staged_graph(after, output) as staged:
        open_session(staged, threads=1)
        compared, why_not = _compared(model, staged, before, runs)
        size = staged.stat().st_size + (weights_of(staged).stat().st_size if weights_of(staged).exists() else 0)
    sizes = {"before": _size_bytes(model), "after": size}
    counts = {"before": dict(operators(before)), "after": dict(operators(after))}
    inputs = f"{min(len(runs), COMPARED_RUNS)} calibration run(s)" if runs else "made-up inputs"
    if as_json:
        done = {"output": str(output), "size_bytes": sizes, "operators": counts, "skipped": skipped}
        typer.echo(json.dumps({**done, "inputs": inputs, "differences": [_finite(d) for d in compared], "not_compared": why_not}))
        return
    _print(output, sizes, counts, skipped, compared, why_not or f"on {inputs}")


def _finite(difference: Difference) -> dict[str, str | float | None]:
    """For JSON, which has no infinity."""
    return {name: value if isinstance(value, str) or isfinite(value or 0.0) else None for name, value in asdict(difference).items()}


def _compared(model: Path, staged: Path, before: onnx.ModelProto, runs: list[Feeds]) -> tuple[list[Difference], str | None]:
    """Differences, or none and why: made-up inputs need not make sense to a model."""
    from optimize.passes.base import CalibrationError
    from optimize.passes.feeds import made_up_feeds
    from optimize.search.effect import RunFailed, differences

    if runs:
        return differences(model, staged, runs[:COMPARED_RUNS]), None
    try:
        made_up = made_up_feeds(before)
        differences(model, model, [made_up])
    except (RunFailed, CalibrationError) as error:
        return [], f"not compared, as the model does not run on made-up inputs ({error}); give some with --calibration"
    return differences(model, staged, [made_up]), None


def _size_bytes(model: Path) -> int:
    from optimize.export.files import locations

    return sum(file.stat().st_size for file in (model, *(model.parent / name for name in locations(model))))


def _print(
    output: Path, sizes: dict[str, int], counts: dict[str, dict[str, int]], skipped: dict[str, str], compared: list[Difference], how: str
) -> None:
    console = Console(highlight=False)
    old, new = counts["before"], counts["after"]
    for name, why in skipped.items():
        console.print(f"{name} left out: {why}", soft_wrap=True)
    megabytes = [sizes[when] / 1e6 for when in ("before", "after")]
    console.print(
        f"{output}: {megabytes[0]:.2f} → {megabytes[1]:.2f} MB, {sum(old.values())} → {sum(new.values())} operators", soft_wrap=True
    )
    table = Table("operator", "before", "after")
    for kind in sorted(old.keys() | new.keys()):
        if old.get(kind, 0) != new.get(kind, 0):
            table.add_row(kind, str(old.get(kind, 0)), str(new.get(kind, 0)))
    if table.row_count:
        console.print(table)
    for d in compared:
        of = f"where the largest magnitude is {d.magnitude:.3g}" + (f", cosine {d.cosine:.6f}" if d.cosine is not None else "")
        console.print(f"output {d.output}: largest difference {d.largest:.2e} {of}", soft_wrap=True)
    console.print(how, soft_wrap=True)
