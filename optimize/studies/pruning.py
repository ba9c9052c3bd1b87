"""What pruning costs a ranker, and what training on wins back: ``python -m optimize.studies.pruning [--quick] [--out FOLDER]``.

A DCN-v2 is trained on synthetic clicks, then pruned in each way and at each level of `PLANS`, and each pruned model is judged three
times: as it is, after fine-tuning on the labels, and after fine-tuning on the labels mixed with the full model's answers. All that twice:
with the labels as drawn, and with a share of the training labels flipped. Validation data, on which each model is calibrated and its best
epoch chosen, and test data are always clean. Every seed draws its own data, model and flips. ``pruning.json`` holds every figure,
``pruning.png`` the picture; docs/studies/pruning.md reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from optimize.console import progress_bar
from optimize.data import clicks
from optimize.data.interactions import Interactions
from optimize.features.encode import Encoded, encode
from optimize.models.base import RankingModel
from optimize.models.registry import DcnV2Settings, build
from optimize.studies.pruning_summary import Outcome, draw, summarize
from optimize.training import calibration, loop, metrics
from optimize.training.finetune import FINE_TUNING, finetune
from optimize.training.recipe import RECIPES
from optimize.training.shrink import Masks, factor, keep_largest, keep_two_of_four, linear_layers, remove_units
from serving.contract.fields import load_spec

PLANS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("none", (0.0,)),
    ("magnitude", (0.5, 0.7, 0.8, 0.9, 0.95)),
    ("two_of_four", (0.5,)),
    ("neurons", (0.25, 0.5, 0.75)),
    ("low_rank", (32, 16, 8)),
)
"""Ways of pruning and their levels: share of zeros, share of hidden units removed, rank."""

MODEL = DcnV2Settings(cross_layers=2, hidden=(128, 64))
TRAINING = loop.TrainingSettings(epochs=6, patience=2, learning_rate=2e-3, embedding_decay=20.0)
"""As the shipped recipe for clicks, optimize/recipes/clicks/dcn_v2.toml."""

SAMPLE_ROWS = 4096
"""Training rows on which activations are observed, some thirty a value."""


@dataclass(frozen=True)
class StudySettings:
    """Size of the study.

    Attributes
    ----------
    impressions
        Of each seed; four fifths train.
    flipped
        Share of training labels that is turned round in the noisy half.
    teacher_share
        Weight of the full model's answers in distillation.
    """

    impressions: int = 100_000
    seeds: tuple[int, ...] = (0, 1, 2)
    flipped: float = 0.2
    teacher_share: float = 0.5
    epochs: int = 6
    fine_tuning_epochs: int = 4
    plans: tuple[tuple[str, tuple[float, ...]], ...] = PLANS


QUICK = StudySettings(
    impressions=20_000, seeds=(0,), epochs=3, fine_tuning_epochs=1,
    plans=(("none", (0.0,)), ("magnitude", (0.5, 0.9)), ("two_of_four", (0.5,)), ("neurons", (0.5,)), ("low_rank", (16,))),
)  # fmt: skip
"""To see that it runs; one seed says nothing about quality."""


def run_half(settings: StudySettings, seed: int, labels: str) -> list[Outcome]:
    """Train, prune and judge with one seed, on ``clean`` or ``noisy`` training labels."""
    torch.set_num_threads(1)  # results do not depend on the machine's number of cores
    torch.manual_seed(seed)
    spec = load_spec(RECIPES / "clicks" / "features.toml")
    split = clicks.split(clicks.ClickSettings(impressions=settings.impressions, seed=seed), "random")
    train, validation, test = (encode(spec, part.columns) for part in (split.train, split.validation, split.test))
    target = split.train.label
    if labels == "noisy":
        turned = np.random.default_rng([seed, 7]).random(len(target)) < settings.flipped
        target = np.where(turned, 1 - target, target).astype(np.float32)
    data = loop.TrainingData(train, target, validation, split.validation.label)
    full = build(MODEL, spec)
    loop.train(full, data, TRAINING.model_copy(update={"epochs": settings.epochs}), seed, _silent)
    teacher = loop.logits(full, train)
    weights = _weights(full)
    sample = train.take(np.arange(min(SAMPLE_ROWS, len(target))))
    tuning = FINE_TUNING.model_copy(update={"epochs": settings.fine_tuning_epochs})
    outcomes = []
    for technique, levels in settings.plans:
        for level in levels:
            for training, told in (("none", None), ("labels", None), ("teacher", teacher)):
                model = deepcopy(full)
                masks = _prune(model, technique, level, sample)
                if training != "none":
                    finetune(model, data, tuning, seed, _silent, masks=masks, teacher_logit=told, teacher_share=settings.teacher_share)
                ne, auc = _quality(model, validation, split.validation, test, split.test)
                outcomes.append(Outcome(seed, labels, technique, level, training, _weights(model) / weights, ne, auc))
    return outcomes


def run(settings: StudySettings, workers: int) -> list[Outcome]:
    """Run all seeds on both kinds of labels, in a fixed order whatever finishes first."""
    jobs = [(seed, labels) for seed in settings.seeds for labels in ("clean", "noisy")]
    if workers <= 1:
        return [outcome for seed, labels in jobs for outcome in run_half(settings, seed, labels)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, progress_bar() as progress:
        futures = [pool.submit(run_half, settings, seed, labels) for seed, labels in jobs]
        for done, _ in enumerate(as_completed(futures), start=1):
            progress(f"{done} of {len(jobs)} trainings with all their prunings", done / len(jobs))
        return [outcome for future in futures for outcome in future.result()]


def write(outcomes: Sequence[Outcome], settings: StudySettings, folder: Path) -> dict[str, object]:
    """Write ``pruning.json`` and ``pruning.png`` into `folder`; return what the JSON holds."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, object] = {
        "settings": asdict(settings),
        "summary": [asdict(row) for row in summarize(outcomes)],
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    (folder / "pruning.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(summarize(outcomes), folder / "pruning.png")
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(prog="python -m optimize.studies.pruning", description="What pruning costs a ranker.")
    parser.add_argument("--quick", action="store_true", help="one seed, little data, under a minute: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/pruning"), help="folder of the JSON and the picture")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 6), help="processes, one thread each")
    given = parser.parse_args(arguments)
    settings = QUICK if given.quick else StudySettings()
    document = write(run(settings, given.workers), settings, given.out)
    json.dump(document["summary"], sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


def _prune(model: RankingModel, technique: str, level: float, sample: Encoded) -> Masks | None:
    if technique == "magnitude":
        return keep_largest(model, level)
    if technique == "two_of_four":
        return keep_two_of_four(model)
    if technique == "neurons":
        remove_units(model, level, sample)
    elif technique == "low_rank":
        factor(model, int(level), sample)
    return None


def _quality(
    model: RankingModel, validation: Encoded, validation_part: Interactions, test: Encoded, test_part: Interactions
) -> tuple[float, float]:
    """NE and AUC on the test part, calibrated on the validation part.

    Pruning can shrink log-odds many times, and calibration's prior on scale 1 would keep them so: they are standardized first.
    """
    raw, judged = (loop.logits(model, part).astype(np.float64) for part in (validation, test))
    mean, deviation = float(raw.mean()), float(raw.std()) or 1.0
    fitted = calibration.fit((raw - mean) / deviation, validation_part.label)
    logit = fitted.scale * (judged - mean) / deviation + fitted.offset
    return metrics.normalized_entropy(test_part.label, 1 / (1 + np.exp(-logit))), metrics.auc(test_part.label, logit)


def _weights(model: RankingModel) -> int:
    """Weights of linear layers that are not zero."""
    return sum(int(torch.count_nonzero(layer.weight)) for layer in linear_layers(model))


def _silent(report: loop.EpochReport) -> None:
    """Say nothing of an epoch."""


if __name__ == "__main__":
    raise SystemExit(main())
