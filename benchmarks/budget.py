"""Does what the search chooses keep its budget on data it never saw? ``python -m benchmarks.budget [--quick] [--json]``.

For each seed: a small DCN-v2 is trained on synthetic clicks, the search chooses among the default candidates on a validation part, and
the chosen graph is judged on `UNSEEN_ROWS` fresh impressions that neither training nor search has seen. There the true click
probabilities are known, so that the change of normalized entropy is taken as an expectation over clicks, without their noise.

* ``seeds_within_budget``: seeds whose chosen variant gets worse by at most the budget on the unseen data; the aim is all of them;
* ``worst_change_pct``, ``median_change_pct``: of the chosen variants, on the unseen data;
* ``seeds_reference_chosen``: seeds where nothing but the reference was chosen, which keeps every budget and proves nothing;
* ``allowed``, ``refused_on_quality``: candidates let through and refused by the budget, over all seeds;
* ``allowed_over_budget``: of those let through, how many are over the budget on the unseen data, chosen or not;
* ``refused_though_its_middle_is_inside``: what judging by the point estimate alone would have let through as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import onnx
import torch

from benchmarks.command import report
from benchmarks.record import Aim, Figure, Record, machine_of, versions_of
from optimize.data import clicks
from optimize.data.interactions import Interactions
from optimize.export.feeds import request_feeds
from optimize.export.to_onnx import export_ranking
from optimize.features.encode import encode
from optimize.models.registry import DcnV2Settings, build
from optimize.search.budget import Budget
from optimize.search.cache import Cache
from optimize.search.candidates import Candidate, default_candidates, parse_candidate
from optimize.search.rankers import part_of
from optimize.search.report import OptimizeReport
from optimize.search.search import SearchSettings, search
from optimize.search.subject import Subject
from optimize.training import calibration, loop
from optimize.training.metrics import EPSILON
from optimize.training.recipe import RECIPES
from serving.contract.errors import PilotageError
from serving.contract.fields import FeatureSpec, load_spec
from serving.runtime.session import GraphSession

SEEDS, QUICK_SEEDS = 20, 2
TRAINING_ROWS, VALIDATION_ROWS, TEST_ROWS, UNSEEN_ROWS = 20_000, 12_000, 2_000, 40_000
CALIBRATION_ROWS, CALIBRATION_RUNS = 1024, 16
ROUNDS = 8
"""Which of the allowed is chosen may be left to noise: whoever it is must keep the budget."""

BUDGET_PCT = 0.1
HARD_PASSES = ("low_rank:rank=48", "low_rank:rank=16", "low_rank:rank=8", "prune_magnitude:sparsity=0.3", "prune_magnitude:sparsity=0.5")
"""Beside the default list: passes whose loss is near the budget on such models, so that there is something to refuse."""

PACKAGES = ("numpy", "onnx", "onnxruntime", "torch")
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Outcome:
    """One seed.

    Attributes
    ----------
    unseen
        Candidate → change of NE in percent on the unseen data.
    """

    report: OptimizeReport
    unseen: dict[str, float]

    @property
    def chosen_pct(self) -> float:
        """What the chosen one changes on the unseen data."""
        return self.unseen[self.report.chosen]


def expected_losses(truth: npt.NDArray[np.float64], probability: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Log loss of each impression, ``(B,) float64``, as expected over its click."""
    p = np.clip(probability.astype(np.float64), EPSILON, 1 - EPSILON)
    out: npt.NDArray[np.float64] = -(truth * np.log(p) + (1 - truth) * np.log1p(-p))
    return out


def one_seed(seed: int, spec: FeatureSpec, folder: Path, tell: Tell) -> Outcome:
    """Train, search, and judge all that was allowed on fresh data."""
    tell("drawing clicks", 0.0)
    total = TRAINING_ROWS + CALIBRATION_ROWS + VALIDATION_ROWS + TEST_ROWS + UNSEEN_ROWS
    data = clicks.draw(clicks.ClickSettings(impressions=total, seed=seed))
    order = np.random.default_rng(seed).permutation(total)
    bounds = np.cumsum([TRAINING_ROWS, CALIBRATION_ROWS, VALIDATION_ROWS, TEST_ROWS])
    train, quiet, validation, test, unseen = (data.take(index) for index in np.split(order, bounds))
    tell("training", 0.1)
    graph = _trained(spec, train, validation, seed)
    sample = [part_of(spec, quiet.take(index)).feeds[0] for index in np.split(np.arange(CALIBRATION_ROWS), CALIBRATION_RUNS)]
    subject = Subject(
        name=f"seed {seed}",
        data="synthetic ad clicks",
        family="ranking",
        reference=graph,
        validation=part_of(spec, validation),
        test=part_of(spec, test),
        timing={500: request_feeds(spec, validation, np.arange(500))},
        decisive_size=500,
        calibration=sample,
        size_unit="candidates",
    )
    settings = SearchSettings(budget=Budget("ne", BUDGET_PCT), threads=1, rounds=ROUNDS, seed=seed, studies=False)
    variants = folder / "variants"
    variants.mkdir()
    report = search(subject, candidates(), variants, settings, Cache(folder / "cache"), lambda what, share: tell(what, 0.4 + 0.4 * share))
    tell("judging on unseen data", 0.8)
    return Outcome(report, _on_unseen(report, spec, unseen, variants))


def candidates() -> list[Candidate]:
    """The default list and `HARD_PASSES`, those that there are."""
    found = default_candidates("ranking")
    for text in HARD_PASSES:
        try:
            found.append(parse_candidate(text))
        except PilotageError:
            continue
    return found


def _trained(spec: FeatureSpec, train: Interactions, validation: Interactions, seed: int) -> onnx.ModelProto:
    torch.manual_seed(seed)
    model = build(DcnV2Settings(cross_layers=2, hidden=(256, 128)), spec)
    encoded, judged = encode(spec, train.columns), encode(spec, validation.columns)
    settings = loop.TrainingSettings(epochs=2, batch_size=1024, learning_rate=4e-3, embedding_decay=20.0)
    loop.train(model, loop.TrainingData(encoded, train.label, judged, validation.label), settings, seed, lambda _: None)
    fitted = calibration.fit(loop.logits(model, encoded), train.label)
    model.scale.fill_(fitted.scale)
    model.offset.fill_(fitted.offset)
    return export_ranking(model)


def _on_unseen(report: OptimizeReport, spec: FeatureSpec, unseen: Interactions, folder: Path) -> dict[str, float]:
    part, truth = part_of(spec, unseen), unseen.truth
    if truth is None:
        raise PilotageError("the data has no true probabilities; only synthetic clicks have")
    mean = {
        c.name: float(expected_losses(truth, part.answers(GraphSession(folder / c.file, threads=1))).mean())
        for c in report.candidates
        if c.file is not None
    }
    base = mean[report.candidates[0].name]
    return {name: 100 * (value / base - 1) for name, value in mean.items()}


def summarise(outcomes: Sequence[Outcome]) -> tuple[list[Figure], list[Aim]]:
    """Figures over all seeds."""
    count = len(outcomes)
    changes = [outcome.chosen_pct for outcome in outcomes]
    within = sum(change <= BUDGET_PCT for change in changes)
    judged = [(o, c) for o in outcomes for c in o.report.candidates if c.passes and c.change is not None]
    allowed = [(o, c) for o, c in judged if c.refused is None]
    over = sum(o.unseen[c.name] > BUDGET_PCT for o, c in allowed)
    doubtful = sum(c.change is not None and c.change.value <= BUDGET_PCT < c.change.high for _, c in judged)
    figures = [
        Figure("seeds_within_budget", within, "seeds", count),
        Figure("seeds_reference_chosen", sum(not o.report.candidate(o.report.chosen).passes for o in outcomes), "seeds", count),
        Figure("worst_change_pct", max(changes), "%", count),
        Figure("median_change_pct", median(changes), "%", count),
        Figure("allowed", len(allowed), "candidates", count),
        Figure("allowed_over_budget", over, "candidates", count),
        Figure("refused_on_quality", len(judged) - len(allowed), "candidates", count),
        Figure("refused_though_its_middle_is_inside", doubtful, "candidates", count),
    ]
    return figures, [Aim("seeds_within_budget", within, "seeds", count)]


def run(*, quick: bool, tell: Tell) -> Record:
    """Go through all seeds."""
    torch.set_num_threads(1)
    spec = load_spec(RECIPES / "clicks" / "features.toml")
    seeds = QUICK_SEEDS if quick else SEEDS
    outcomes = []
    for seed in range(seeds):

        def step(what: str, share: float, seed: int = seed) -> None:
            tell(f"seed {seed}: {what}", (seed + share) / seeds)

        with tempfile.TemporaryDirectory(prefix="pilotage-benchmark-") as folder:
            outcomes.append(one_seed(seed, spec, Path(folder), step))
    figures, aims = summarise(outcomes)
    return Record(machine_of(1), versions_of(PACKAGES), tuple(figures), tuple(aims))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 whether or not the aims are met, 3 when nothing could be measured."""
    described = "Is what the search chooses within its budget on unseen data?"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=described)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds instead of {SEEDS}: ends within 60 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    options = parser.parse_args(arguments)
    return report(lambda tell: run(quick=options.quick, tell=tell), "the search's choice on data that it never saw", as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
