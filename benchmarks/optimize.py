"""How fast the passes make two models, beside rivals and the machine's limit: ``python -m benchmarks.optimize [--quick] [--json]``.

Subjects, on one thread:

* ``dcn_v2``: 429 values a row, three cross layers, 512-256-128, trained on synthetic clicks; one request of 500 candidates, raw ids in.
  PyTorch runs the network as its paper draws it, one whole row a candidate, and gets ids that are hashed already;
* ``image_tower``: the image tower of CLIP ViT-B/32, architecture from transformers, seeded weights; one picture.

Arms: ``torch`` eager in float32; ``ort_fp32``, the graph as exported; ``stock_int8``, ``onnxruntime.quantization.quantize_dynamic`` as
it is; ``nncf`` and ``olive`` where they are installed; ``ours``, the fastest of our recipes whose answers stay inside the budget.

Limits: ``int8_limit_ms`` is the time of all matrix products of the model, as PyTorch computes it, at the best rate of ONNX Runtime's
integer kernels on large square matrices; ``int8_shapes_ms`` the time of those products by the fastest kernel at their own shapes.

How: recipes are compared among themselves first. Then a round visits every arm once in a fresh random order, as in
`benchmarks.ranking`; a figure is the median over rounds, a ratio the median of the rounds' ratios. ``--quick`` trains on fewer clicks,
takes a tower of three layers, which is named so and has no aims, fewer rounds and recipes, and leaves out rivals, the shapes and the
profile. ``--search`` also times what `pilotage optimize` does, with its default list, page and all, once from nothing and once from its
cache; export comes before and is not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.command import report
from benchmarks.ranking import measure
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of

if TYPE_CHECKING:
    from benchmarks.optimize_arms import Arm
    from benchmarks.optimize_subjects import Subject

SEED = 0
THREADS = 1
TORCH = "torch"
PACKAGES = ("numpy", "onnx", "onnxruntime", "torch", "transformers")

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Effort:
    """How much to measure: rows of clicks, epochs on them, layers of the tower, seconds for rounds, and all rivals and recipes or few."""

    impressions: int = 200_000
    epochs: int = 2
    tower_layers: int = 12
    choice_s: float = 20.0
    rounds_s: float = 30.0
    is_whole: bool = True
    searches: bool = False


QUICK = Effort(impressions=40_000, tower_layers=3, choice_s=1.0, rounds_s=3.0, is_whole=False)

SPEEDUP_AIMS = {"dcn_v2": 7.0, "image_tower": 10.0}
STOCK_AIMS = {"image_tower": 2.0}
SHARE_AIMS = {"dcn_v2": 30.0}
SEARCH_AIMS_S = {"dcn_v2": 180.0, "image_tower": 900.0}
AGAIN_AIM_S = 5.0
LIMIT_AIM = 2.5
"""The least speed-up over PyTorch and over stock int8, the largest share of the float32 file, the longest search, from nothing and from
its cache, the largest distance to the limit."""


@dataclass
class Findings:
    """What one subject gave."""

    figures: list[Figure] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def ratio(samples: Mapping[str, Sequence[float]], above: str, below: str) -> float:
    """Median of the rounds' ratios of two arms."""
    return median(a / b for a, b in zip(samples[above], samples[below], strict=True))


def choose(shares: Mapping[str, float], allowed: Mapping[str, bool]) -> str:
    """The fastest recipe that is allowed; the fastest of all where none is, so that the aim of quality shows it.

    Parameters
    ----------
    shares
        Of the time of the float32 graph in the same rounds.
    """
    fit = [name for name in shares if allowed[name]] or list(shares)
    return min(fit, key=lambda name: shares[name])


def run(effort: Effort, *, tell: Tell) -> Record:
    """Measure both subjects, one after the other."""
    import torch

    torch.set_num_threads(THREADS)
    found = Findings()
    for i, subject in enumerate(_subjects(effort, lambda what: tell(what, 0.0))):

        def step(what: str, share: float, done: int = i, name: str = subject.name) -> None:
            tell(f"{name}: {what}", (done + share) / 2)

        with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as folder:
            _measure_subject(subject, Path(folder), effort, found, step)
    return Record(machine_of(THREADS), versions_of(PACKAGES), tuple(found.figures), tuple(found.aims), found.notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aims are met, 3 when nothing could be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.optimize", description="What the passes bring a ranker and an image tower, beside rivals and the limit."
    )
    parser.add_argument("--quick", action="store_true", help="fewer clicks and rounds, no rivals: ends within 60 s")
    parser.add_argument("--search", action="store_true", help="also time a full search of each subject: some five minutes more")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    effort = replace(QUICK if options.quick else Effort(), searches=options.search)
    return report(lambda tell: run(effort, tell=tell), "optimize: one thread, p50", as_json=options.json)


def _subjects(effort: Effort, tell: Callable[[str], None]) -> Iterator[Subject]:
    from benchmarks.optimize_subjects import image_tower, ranker

    yield ranker(effort.impressions, effort.epochs, tell)
    yield image_tower(effort.tower_layers)


def _measure_subject(subject: Subject, folder: Path, effort: Effort, found: Findings, tell: Tell) -> None:
    from benchmarks.optimize_arms import FP32, OURS, STOCK, load, stock
    from benchmarks.optimize_limit import INTEGERS, KERNELS, LARGE, limit_ms, product_arm, rate_gops, shapes_ms

    name = subject.name
    tell("loading", 0.0)
    arms = {FP32: load(subject, subject.graph, folder / "fp32.onnx", threads=THREADS, reference=None)}
    tell("choosing a recipe", 0.1)
    arms[OURS] = _ours(subject, folder, arms[FP32], effort, found)
    tell("quantizing as others do", 0.3)
    arms[STOCK] = load(subject, stock(subject), folder / "stock.onnx", threads=THREADS, reference=arms[FP32])
    if effort.is_whole:
        arms |= _rivals(subject, folder, arms[FP32], found)
    else:
        found.notes["rivals"] = "left out by --quick"
    runs = {(arm, 0): _session_run(subject, loaded) for arm, loaded in arms.items()}
    runs[TORCH, 0] = _eager_run(subject)
    products = [LARGE, *(subject.products if effort.is_whole else ())]
    kernels = {(kernel, product): f"{kernel} {product}" for product in products for kernel in KERNELS}
    runs |= {(key, 0): product_arm(kernel, product) for (kernel, product), key in kernels.items()}
    taken = measure(runs, seconds=effort.rounds_s, seed=SEED, on_round=lambda share: tell("measuring", 0.4 + 0.6 * share))
    samples = {key: values for (key, _), values in taken.items()}
    rounds = len(samples[OURS])

    def add(what: str, value: float, unit: str) -> None:
        found.figures.append(Figure(f"{name}_{what}", value, unit, rounds))

    for arm in (TORCH, *arms):
        add(f"{arm}_p50_ms", median(samples[arm]), "ms")
        if arm != TORCH:
            add(f"{arm}_speedup_over_torch", ratio(samples, TORCH, arm), "x")
    for arm in arms.keys() - {STOCK, FP32}:
        add(f"{arm}_speedup_over_stock_int8", ratio(samples, STOCK, arm), "x")
    for arm, loaded in arms.items():
        share = 100 * loaded.size_bytes / arms[FP32].size_bytes
        found.figures.append(Figure(f"{name}_{arm}_file", loaded.size_bytes / 1e6, "MB", 1))
        found.figures.append(Figure(f"{name}_{arm}_file_share", share, "%", 1))
        if arm != FP32:
            found.figures += [Figure(f"{name}_{arm}_{what}", value, subject.budget.unit, 1) for what, value in loaded.quality.items()]
    times = {kernel: median(samples[kernels[kernel, LARGE]]) for kernel in KERNELS}
    for kernel in KERNELS:
        add(f"large_{kernel}", rate_gops(LARGE, times[kernel]), "GOP/s")
    add("arithmetic", subject.operations / 1e9, "GOP")
    limit = limit_ms(subject.operations, times)
    add("int8_limit_ms", limit, "ms")
    if effort.is_whole:
        at_shapes = {(kernel, product): median(samples[key]) for (kernel, product), key in kernels.items() if kernel in INTEGERS}
        add("int8_shapes_ms", shapes_ms(subject.products, at_shapes), "ms")
        _profile(subject, arms[OURS], found)
    if effort.searches:
        _search(subject, folder, found, tell)
    if name == subject.family:
        found.aims += aims_of(subject, arms, samples, limit)
    else:
        found.notes[name] = f"stands in for {subject.family}, of which nothing is claimed here"


def aims_of(subject: Subject, arms: Mapping[str, Arm], samples: Mapping[str, Sequence[float]], limit: float) -> list[Aim]:
    """What is wanted of a subject."""
    from benchmarks.optimize_arms import FP32, OURS, STOCK

    name, budget, ours = subject.name, subject.budget, arms[OURS]
    aims = [Aim(f"{name}_speedup_over_torch", ratio(samples, TORCH, OURS), "x", SPEEDUP_AIMS[name])]
    if name in STOCK_AIMS:
        aims.append(Aim(f"{name}_speedup_over_stock_int8", ratio(samples, STOCK, OURS), "x", STOCK_AIMS[name]))
    aims.append(Aim(f"{name}_{budget.decisive}", ours.quality[budget.decisive], budget.unit, budget.bound, at_most=budget.at_most))
    if name in SHARE_AIMS:
        share = 100 * ours.size_bytes / arms[FP32].size_bytes
        aims.append(Aim(f"{name}_file_share", share, "%", SHARE_AIMS[name], at_most=True))
    aims.append(Aim(f"{name}_over_int8_limit", median(samples[OURS]) / limit, "x", LIMIT_AIM, at_most=True))
    return aims


def _ours(subject: Subject, folder: Path, reference: Arm, effort: Effort, found: Findings) -> Arm:
    """Build all recipes, time them beside each other, and keep one."""
    from benchmarks.optimize_arms import FP32, Kitchen, load, recipes

    offered = recipes(subject.family, flags=machine_of(THREADS)["flags"], is_whole=effort.is_whole)
    kitchen = Kitchen(subject)
    built = {
        name: load(subject, kitchen.cook(recipe), folder / f"ours-{name}.onnx", threads=THREADS, reference=reference)
        for name, recipe in offered.items()
    }
    arms = {(name, 0): _session_run(subject, arm) for name, arm in (*built.items(), (FP32, reference))}
    taken = measure(arms, seconds=effort.choice_s, seed=SEED, on_round=lambda _: None)
    samples = {name: values for (name, _), values in taken.items()}
    shares = {name: ratio(samples, name, FP32) for name in built}
    allowed = {name: subject.budget.allows(arm.quality) for name, arm in built.items()}
    chosen = choose(shares, allowed)
    found.notes[f"{subject.name}_ours"] = ", ".join(offered[chosen])
    for name, arm in built.items():
        quality = ", ".join(f"{what} {value:.4g}" for what, value in arm.quality.items())
        verdict = "chosen" if name == chosen else "allowed" if allowed[name] else "outside the budget"
        found.notes[f"{subject.name}_recipe_{name}"] = f"{shares[name]:.3g} of float32's time, {quality}: {verdict}"
    return built[chosen]


def _rivals(subject: Subject, folder: Path, reference: Arm, found: Findings) -> dict[str, Arm]:
    from benchmarks.optimize_arms import RIVALS, ArmUnavailable, load
    from serving.contract.errors import PilotageError

    arms: dict[str, Arm] = {}
    for rival, build in RIVALS.items():
        try:
            arms[rival] = load(subject, build(subject), folder / f"{rival}.onnx", threads=THREADS, reference=reference)
        except ArmUnavailable as error:
            found.notes[f"{subject.name}_{rival}"] = f"left out: {error}"
        except PilotageError as error:
            found.notes[f"{subject.name}_{rival}"] = f"its graph does not run: {str(error)[:200]}"
    return arms


def _search(subject: Subject, folder: Path, found: Findings, tell: Tell) -> None:
    from benchmarks.optimize_search import timed

    name = subject.name
    searched = timed(subject, folder, THREADS, lambda what, _: tell(f"searching: {what}", 1.0))
    found.notes[f"{name}_search"] = searched.report.reason
    found.figures.append(Figure(f"{name}_search_candidates", len(searched.report.candidates), "", 1))
    found.figures.append(Figure(f"{name}_search_cpu_s", searched.cpu_s, "s", 1))
    for what, value, aim in (("search", searched.first_s, SEARCH_AIMS_S.get(name)), ("search_again", searched.again_s, AGAIN_AIM_S)):
        found.figures.append(Figure(f"{name}_{what}_s", value, "s", 1))
        if name == subject.family and aim is not None:
            found.aims.append(Aim(f"{name}_{what}_s", value, "s", aim, at_most=True))


def _profile(subject: Subject, ours: Arm, found: Findings) -> None:
    from optimize.search.plain_sessions import PROFILED_RUNS, operator_times

    times = operator_times(ours.session.path, subject.feeds, THREADS)
    for kind, taken in sorted(times.items(), key=lambda item: -item[1]):
        found.figures.append(Figure(f"{subject.name}_ours_share_{kind}", 100 * taken / sum(times.values()), "%", PROFILED_RUNS))


def _session_run(subject: Subject, arm: Arm) -> Callable[[int], object]:
    return lambda _: arm.session.run(subject.feeds)


def _eager_run(subject: Subject) -> Callable[[int], object]:
    import torch

    def forward(_: int) -> object:
        with torch.inference_mode():
            return subject.eager()

    return forward


if __name__ == "__main__":
    sys.exit(main())
