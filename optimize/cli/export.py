"""``pilotage export``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from serving.contract.errors import SettingsError

if TYPE_CHECKING:
    import torch

app = typer.Typer(add_completion=False)

DEFAULT_IDS = 2
"""Ids of made-up inputs are below this unless a number is given: every embedding table has rows 0 and 1."""


@app.command()
def export(
    factory: Annotated[
        str, typer.Argument(help="package.module:factory, which gives a torch.nn.Module, or a pair (module, example inputs).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write; large weights lie beside it as NAME.weights.")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Made-up example input, NAME:DTYPE:SHAPE[:IDS], as in ids:int64:2x16:30522.")
    ] = None,
    dynamic: Annotated[
        list[str] | None, typer.Option(help="An axis that varies, INPUT:AXIS=SYMBOL; axis 0 of every input varies as B anyway.")
    ] = None,
    static: Annotated[list[str] | None, typer.Option(help="An input, or INPUT:AXIS, that does not vary.")] = None,
    output_name: Annotated[
        list[str] | None, typer.Option(help="Name of an output, once for each.  [default: the dict's keys, or output_0 …]")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 18 to 25.  [default: 20]")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(min=1, help="Batch size to check at.  [default: 1, 3 and 64]")] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest difference to torch, as a share of an output's largest magnitude.  [default: 1e-4]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was exported as JSON on stdout.")] = False,
) -> None:
    """Export any torch module to ONNX, and check that it answers alike at several batch sizes."""
    sys.path.insert(0, str(Path.cwd()))
    from optimize.export.factory import load_factory
    from optimize.export.files import files_of, staged_graph
    from optimize.export.inputs import example_of
    from optimize.export.module import export_module
    from optimize.export.module_parity import BATCH_SIZES, check_module
    from optimize.features.graph import OPSET
    from serving.runtime.cpus import usable_cores

    axes = _dynamic(dynamic or [])
    fixed = [_axis(text) for text in static or []]
    made_up = dict(_made_up(text) for text in inputs or [])
    module, given = load_factory(factory)
    if not made_up and given is None:
        raise SettingsError(f"{factory} gives no example inputs: let it give a pair (module, inputs), or describe each with --input")
    example = example_of(module, made_up or given, axes, fixed)
    graph = export_module(module, example, outputs=output_name or (), opset=opset or OPSET)
    with staged_graph(graph, output) as staged:
        checks = check_module(
            module, example, staged, sizes=batch_size or BATCH_SIZES, tolerance=tolerance, threads=usable_cores()
        )  # fmt: skip
    size_bytes = sum(file.stat().st_size for file in files_of(output))
    tensors = [
        {"kind": kind, "name": v.name, "shape": [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]}
        for kind, values in (("input", graph.graph.input), ("output", graph.graph.output))
        for v in values
    ]
    if as_json:
        done = {"output": str(output), "size_bytes": size_bytes, "opset": graph.opset_import[0].version, "tensors": tensors}
        typer.echo(json.dumps({**done, "checks": [{"sizes": c.sizes, "difference": c.difference} for c in checks]}))
        return
    console = Console()
    console.print(f"{output}: {len(graph.graph.node)} operators, {size_bytes / 1e6:.2f} MB", soft_wrap=True, highlight=False)
    table = Table()
    for title in ("", "name", "shape"):
        table.add_column(title)
    for tensor in tensors:
        table.add_row(tensor["kind"], tensor["name"], " × ".join(map(str, tensor["shape"])) or "scalar")
    console.print(table)
    for check in checks:
        shown = ", ".join(f"{symbol}={size}" for symbol, size in check.sizes.items()) or "the example's sizes"
        console.print(f"at {shown}: differs from torch by {check.difference:.1e} of the largest magnitude", soft_wrap=True, highlight=False)


def _axis(text: str) -> tuple[str, int | None]:
    name, _, axis = text.partition(":")
    if not name or (axis and not axis.isdigit()):
        raise SettingsError(f"{text!r} is no axis: write INPUT or INPUT:AXIS, as in ids:1")
    return name, int(axis) if axis else None


def _dynamic(texts: list[str]) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for text in texts:
        place, _, symbol = text.partition("=")
        name, axis = _axis(place)
        if axis is None or not symbol.isidentifier():
            raise SettingsError(f"--dynamic {text!r} is not INPUT:AXIS=SYMBOL, as in ids:1=S")
        found.setdefault(name, {})[axis] = symbol
    return found


def _made_up(text: str) -> tuple[str, torch.Tensor]:
    """Parse ``NAME:DTYPE:SHAPE[:IDS]`` and draw the input, always the same one."""
    import torch

    from optimize.export.inputs import DTYPES

    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    name, dtype, shape, *ids = text.split(":")[:5] if text.count(":") in (2, 3) else ("", "", "")
    sizes = shape.split("x") if shape else []
    if not name or dtype not in dtypes or not all(size.isdigit() and int(size) > 0 for size in (*sizes, *ids)):
        raise SettingsError(
            f"--input {text!r} is not NAME:DTYPE:SHAPE[:IDS], as in pixels:float32:2x3x224x224 or ids:int64:2x16:30522; dtypes are "
            f"{', '.join(dtypes)}"
        )
    generator = torch.Generator().manual_seed(0)
    size = [int(given) for given in sizes]
    if dtypes[dtype] == torch.bool:
        return name, torch.ones(size, dtype=torch.bool)
    if dtypes[dtype].is_floating_point:
        return name, torch.randn(size, generator=generator).to(dtypes[dtype])
    return name, torch.randint(int(ids[0]) if ids else DEFAULT_IDS, size, generator=generator).to(dtypes[dtype])
