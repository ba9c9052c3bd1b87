"""What every pass does to two models: ``python -m benchmarks.passes [--quick] [--json]``.

Subjects, with seeded weights, on one thread:

* ``ranker``: the DCN-v2 of `benchmarks.optimize`, 429 values a row, hashing included; one request of 500 candidates of synthetic clicks;
* ``tower``: the image tower of CLIP ViT-B/32 with two layers (``--quick``: one); one picture.

Each pass of the registry is applied alone, with its defaults and with the options below, and some after others. Figures of each:

* ``…_file``: the file, in percent of float32's;
* ``…_speedup``: time before over time after, the median of the ratios of paired rounds, both orders alike often;
* ``…_change``: norm of the change of the answers over the norm of the answers, on requests that calibration does not have.

A pass that does not apply to a subject has a note that says why. Weights are drawn: what a loss costs a trained model is for
`docs/studies` and the search to say. ``--quick`` takes the defaults alone, leaves out the two passes that
try layers one by one, and measures in fewer rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.command import report
from benchmarks.ranking import measure
from benchmarks.record import Figure, Record, machine_of, versions_of

if TYPE_CHECKING:
    import onnx

    from benchmarks.optimize_subjects import Subject
    from serving.runtime.session import GraphSession

SEED = 0
THREADS = 1
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch", "transformers")

FUSED = "fuse_attention:form=contrib+fuse_gelu"

OPTIONS = (
    "fuse_layer_norm:residual=true",
    f"{FUSED}+merge_projections",
    f"{FUSED}+merge_projections+int8_dynamic",
    "conv_to_matmul+used_position",
    "table_bits:bits=4",
    "table_quotient_remainder:combine=product",
    "weight_only:bits=8",
    "int8_dynamic:weight_type=int8",
    "int8_dynamic:weight_type=int7",
    "int8_static:method=entropy",
    "int8_static:per_channel=false",
    "smooth_quant+int8_dynamic",
    "mixed_precision:base=int8_static",
    "prune_neurons:share=0.5",
    "prune_heads:share=0.5",
    "prune_width:share=0.125",
    "prune_width:share=0.25",
    "prune_width:share=0.5",
    "low_rank:rank=8",
)
"""Beside the defaults of every pass. Of 768 channels, these shares leave multiples of 16."""

SLOW = frozenset(["low_rank", "mixed_precision"])
"""14 of 80 s of processor time of a quick run were theirs."""

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Effort:
    """How much to measure: rows of clicks, layers of the tower, requests to calibrate, seconds for a composition, and all or few."""

    impressions: int = 40_000
    tower_layers: int = 2
    calibration: int = 32
    rounds_s: float = 3.0
    is_whole: bool = True


QUICK = Effort(impressions=6_000, tower_layers=1, calibration=8, rounds_s=0.1, is_whole=False)


@dataclass
class Findings:
    """What was measured, and what did not apply."""

    figures: list[Figure] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def compositions(*, is_whole: bool) -> tuple[str, ...]:
    """Passes joined by ``+``, in the order of their names; the options too where the benchmark is whole."""
    from optimize.passes.registry import PASSES

    return tuple(sorted((*PASSES, *OPTIONS) if is_whole else PASSES.keys() - SLOW))


def change_of(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """Norm of the change over the norm of the answers of all requests."""
    first, second = (np.concatenate([answer.ravel() for answer in answers]).astype(np.float64) for answers in (before, after))
    return float(np.linalg.norm(second - first) / np.linalg.norm(first))


def run(effort: Effort, *, tell: Tell) -> Record:
    """Measure all compositions on both subjects."""
    import torch

    torch.set_num_threads(THREADS)
    found = Findings()
    for i, (name, subject) in enumerate(_subjects(effort, lambda what: tell(what, 0.0))):

        def step(what: str, share: float, done: int = i, subject_name: str = name) -> None:
            tell(f"{subject_name}: {what}", (done + share) / 2)

        with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as folder:
            _measure_subject(name, subject, Path(folder), effort, found, step)
    return Record(machine_of(THREADS), versions_of(PACKAGES), tuple(found.figures), (), found.notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 when measured, 3 when nothing could be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes", description="What every pass does to a ranker and an image tower.")
    parser.add_argument("--quick", action="store_true", help="most defaults alone, a smaller tower, fewer rounds: ends within 60 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    return report(lambda tell: run(QUICK if options.quick else Effort(), tell=tell), "passes: one thread", as_json=options.json)


def _subjects(effort: Effort, tell: Callable[[str], None]) -> Iterator[tuple[str, Subject]]:
    from benchmarks.optimize_subjects import SPEC, image_tower, ranking_subject, untrained
    from optimize.data import clicks
    from serving.contract.fields import load_spec

    tell("drawing clicks")
    data = clicks.split(clicks.ClickSettings(impressions=effort.impressions, seed=SEED), "random")
    yield "ranker", ranking_subject(untrained(load_spec(SPEC)), data)
    tell("exporting the tower")
    yield "tower", image_tower(effort.tower_layers)


def _measure_subject(name: str, subject: Subject, folder: Path, effort: Effort, found: Findings, tell: Tell) -> None:
    from optimize.export.files import save_graph
    from optimize.passes.base import Context, PassNotApplicable
    from optimize.passes.registry import parse_pass
    from serving.runtime.session import GraphSession

    def loaded(graph: onnx.ModelProto, file: str) -> tuple[GraphSession, int]:
        path = folder / file / "model.onnx"
        path.parent.mkdir()
        save_graph(graph, path)
        return GraphSession(path, threads=THREADS), sum(part.stat().st_size for part in path.parent.iterdir())

    context = Context(calibration=subject.calibration[: effort.calibration])
    before, size = loaded(subject.graph, "float32")
    expected = [before.run(feeds)[0] for feeds in subject.test.feeds]
    found.figures.append(Figure(f"{name}_float32_file", size / 1e6, "MB", 1))
    every = compositions(is_whole=effort.is_whole)
    for number, composition in enumerate(every):
        tell(composition, number / len(every))
        graph = subject.graph
        try:
            for text in composition.split("+"):
                graph = parse_pass(text).apply(graph, context)
        except PassNotApplicable as error:
            found.notes[f"{name}_{composition}"] = str(error)
            continue
        after, bytes_after = loaded(graph, f"{number}")
        arms = {(arm, 0): partial(_served, session, subject) for arm, session in (("before", before), ("after", after))}
        taken = measure(arms, seconds=effort.rounds_s, seed=SEED, on_round=lambda _: None)
        ratios = [first / second for first, second in zip(taken["before", 0], taken["after", 0], strict=True)]
        change = change_of(expected, [after.run(feeds)[0] for feeds in subject.test.feeds])
        found.figures += [
            Figure(f"{name}_{composition}_file", 100 * bytes_after / size, "%", 1),
            Figure(f"{name}_{composition}_speedup", median(ratios), "x", len(ratios)),
            Figure(f"{name}_{composition}_change", 100 * change, "%", len(expected)),
        ]


def _served(session: GraphSession, subject: Subject, _: int) -> object:
    return session.run(subject.feeds)


if __name__ == "__main__":
    sys.exit(main())
