"""Whether an exported graph answers as its module does, on the runtime that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from optimize.export.inputs import BATCH, Example
from optimize.export.module import outputs_of
from optimize.export.to_onnx import ExportError
from serving.runtime.session import open_session

BATCH_SIZES = (1, 3, 64)

TOLERANCE = 1e-4
"""Largest difference of two float32 outputs, as a share of the output's largest magnitude: the two runtimes add the same products in
different orders, and a sum of n of them then differs by up to ``n * 2**-24`` of the sum of magnitudes (Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, section 4.2), 9e-5 for the 1,536 of a wide layer, while errors mostly cancel:
measured 2e-6 on CLIP ViT-B/32's image tower and 6e-7 on a small text encoder."""

HALF_TOLERANCE = 1e-2
"""Of a float16 output: 11 bits, rounded once a layer, 20 layers deep at worst."""

RUNS_TO_TELL = 4
"""Calls that have to agree before a module counts as deterministic: dropout of three numbers agrees once in eight."""


@dataclass(frozen=True)
class Check:
    """One comparison of graph and module.

    Attributes
    ----------
    sizes
        Symbol of an axis → its size.
    difference
        Largest difference of any output, as a share of that output's largest magnitude.
    """

    sizes: Mapping[str, int]
    difference: float


def check_module(
    module: torch.nn.Module,
    example: Example,
    path: Path,
    *,
    sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float | None = None,
    threads: int = 1,
) -> list[Check]:
    """Compare at several batch sizes, and with every other varying axis one shorter and one longer.

    Parameters
    ----------
    sizes
        Batch sizes; a longer or shorter other axis that the module itself refuses is passed over.
    tolerance
        Instead of `TOLERANCE` and `HALF_TOLERANCE`.

    Raises
    ------
    ExportError
        Naming the sizes, the output and the element that differs most.
    BundleError
        ONNX Runtime cannot load the graph.
    """
    session = open_session(path, threads=threads)
    checks = []
    for wanted, needed in _sizes(example, sizes):
        resized = example.at(wanted)
        try:
            expected = outputs_of(module, resized)
        except ExportError as error:
            if needed:
                raise ExportError(f"{error}; choose the sizes to check at with --batch-size") from error
            continue
        shown = ", ".join(f"{symbol}={size}" for symbol, size in wanted.items()) or "the example's sizes"
        try:
            found = session.run(None, resized.feeds())
        except Exception as error:  # ONNX Runtime raises several unrelated types
            first = str(error).strip().splitlines()[0]
            raise ExportError(f"at {shown} the module answers, but the graph fails: {first}; a size was taken for a constant") from error
        names = [output.name for output in session.get_outputs()]
        worst = 0.0
        for name, (_, tensor), array in zip(names, expected, found, strict=True):
            try:
                worst = max(worst, _compare(f"output {name!r} at {shown}", tensor.detach().cpu().numpy(), array, tolerance))
            except ExportError as error:
                if _is_random(module, resized):
                    raise ExportError(f"the module answers differently when it is called twice with one input; {error}") from error
                raise
        checks.append(Check(wanted, worst))
    return checks


def _sizes(example: Example, batches: Sequence[int]) -> list[tuple[dict[str, int], bool]]:
    """Sizes to check at, and whether the module has to take them."""
    own = example.sizes()
    needed = [{**own, BATCH: batch} for batch in batches] if BATCH in own else [own]
    others = [
        {**own, symbol: other}
        for symbol, size in own.items()
        if symbol != BATCH
        for other in (size - 1, size + 1)
        if other > 0
    ]  # fmt: skip
    return [*((sizes, True) for sizes in needed), *((sizes, False) for sizes in others)]


def _is_random(module: torch.nn.Module, example: Example) -> bool:
    first, *others = (outputs_of(module, example) for _ in range(RUNS_TO_TELL))
    return any(not torch.equal(a, b) for other in others for (_, a), (_, b) in zip(first, other, strict=True))


def _compare(what: str, expected: npt.NDArray[Any], found: npt.NDArray[Any], tolerance: float | None) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ExportError(
            f"{what}: the module gives {expected.dtype} {expected.shape}, the graph {found.dtype} {found.shape}; does forward branch on "
            "a size?"
        )
    if not expected.size:
        return 0.0
    if expected.dtype.kind != "f":
        different = np.flatnonzero(expected.ravel() != found.ravel())
        if different.size:
            at = np.unravel_index(different[0], expected.shape)
            raise ExportError(
                f"{what}: {different.size} of {expected.size} elements differ; the first is {_index(at)}: the module gives {expected[at]}, "
                f"the graph {found[at]}"
            )
        return 0.0
    if np.isnan(expected).all():
        raise ExportError(f"{what}: the module itself gives NaN alone, which proves nothing; give example inputs as it will be served")
    limit = tolerance if tolerance is not None else HALF_TOLERANCE if expected.dtype == np.float16 else TOLERANCE
    finite = np.isfinite(expected)
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    magnitude = float(np.abs(expected[finite]).max(initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(expected.astype(np.float64) - found)) / magnitude
    gap = np.where(np.isnan(gap), np.inf, gap)
    at = np.unravel_index(int(gap.argmax()), gap.shape)
    if not gap[at] <= limit:
        raise ExportError(
            f"{what}: element {_index(at)} differs most: the module gives {expected[at]:.7g}, the graph {found[at]:.7g}, {gap[at]:.1e} of "
            f"the largest magnitude {magnitude:.4g}, more than the tolerance {limit:.0e}"
        )
    return float(gap[at])


def _index(at: Sequence[Any]) -> str:
    return f"[{', '.join(str(int(i)) for i in at)}]"
