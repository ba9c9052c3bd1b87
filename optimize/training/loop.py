"""The training loop of the ranking models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from optimize.features.encode import Encoded
from optimize.models.base import RankingModel
from optimize.training.metrics import auc
from optimize.training.settings import EpochReport, TrainingSettings
from serving.contract.errors import PilotageError

__all__ = ["EpochReport", "TrainingData", "TrainingDiverged", "TrainingSettings", "logits", "train"]

EVALUATION_ROWS = 8192


class TrainingDiverged(PilotageError, FloatingPointError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class TrainingData:
    """Encoded training and validation parts, one interaction a row.

    Attributes
    ----------
    target
        ``(B,) float32`` in [0, 1], what the loss is measured against.
    label
        ``(B,) float32`` of the validation part.
    """

    train: Encoded
    target: npt.NDArray[np.float32]
    validation: Encoded
    label: npt.NDArray[np.float32]


def train(
    model: RankingModel,
    data: TrainingData,
    settings: TrainingSettings,
    seed: int,
    on_epoch: Callable[[EpochReport], None],
    *,
    after_step: Callable[[], None] | None = None,
) -> list[EpochReport]:
    """Train `model` in place and leave it at its best epoch, unseen rows settled.

    Parameters
    ----------
    after_step
        Called after each step of the optimizer, to hold weights at what they must be.

    Raises
    ------
    TrainingDiverged
        The loss became NaN or infinite.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups = [
        {"params": [p for p in model.parameters() if id(p) in tables], "weight_decay": settings.embedding_decay},
        {"params": [p for p in model.parameters() if id(p) not in tables], "weight_decay": settings.weight_decay},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    loss_of = nn.BCEWithLogitsLoss()
    parameters: list[Tensor] = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(data.target)
    history: list[EpochReport] = []
    best, best_weights, steps = -1.0, [p.detach().clone() for p in parameters], 0
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        model.train()
        losses = []
        for index, rows, numbers in _batches(data.train, rng.permutation(len(target)), settings.batch_size):
            loss = loss_of(model.interaction_logits(rows, numbers), target[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if after_step is not None:
                after_step()
            steps += 1
            losses.append(loss.item())
            with torch.no_grad():
                # The ramp keeps the first, random weights out of a young average; as in TensorFlow's ExponentialMovingAverage.
                torch._foreach_lerp_(average, parameters, 1 - min(settings.averaging, (1 + steps) / (10 + steps)))
        if not np.isfinite(losses).all():
            raise TrainingDiverged(
                f"the training loss became {losses[-1]} in epoch {epoch}; try a lower learning_rate than {settings.learning_rate}"
            )
        current = [p.detach().clone() for p in parameters]
        _assign(parameters, average if settings.averaging else current)
        score = auc(data.label, logits(model, data.validation))
        history.append(EpochReport(epoch, float(np.mean(losses)), score, time.perf_counter() - started))
        on_epoch(history[-1])
        if score > best:
            best, best_weights = score, [p.detach().clone() for p in parameters]
        elif epoch - max(history, key=lambda report: report.validation_auc).epoch >= settings.patience:
            break
        _assign(parameters, current)
    _assign(parameters, best_weights)
    model.eval()
    model.settle_unseen({name: torch.from_numpy(rows) for name, rows in data.train.rows.items()})
    return history


def logits(model: RankingModel, encoded: Encoded) -> npt.NDArray[np.float32]:
    """Raw log-odds ``(B,) float32`` of interactions, in evaluation mode."""
    model.eval()
    total = len(next(iter(encoded.rows.values())))
    with torch.inference_mode():
        chunks = [
            model.interaction_logits(rows, numbers).numpy() for _, rows, numbers in _batches(encoded, np.arange(total), EVALUATION_ROWS)
        ]
    return np.concatenate(chunks)


def _batches(data: Encoded, order: npt.NDArray[np.int64], size: int) -> Iterator[tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]]:
    rows = {name: torch.from_numpy(values) for name, values in data.rows.items()}
    numbers = {name: torch.from_numpy(values) for name, values in data.numbers.items()}
    for index in torch.split(torch.from_numpy(order), size):
        yield index, {k: v[index] for k, v in rows.items()}, {k: v[index] for k, v in numbers.items()}


@torch.no_grad()
def _assign(parameters: list[Tensor], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
