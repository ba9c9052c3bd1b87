"""How to train, and what an epoch reports: what run folders hold, to be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class TrainingSettings(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: Annotated[int, Field(ge=1, le=1000)] = 15
    """Most passes over the training data."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Stop after so many epochs without a better validation AUC."""
    batch_size: Annotated[int, Field(ge=1)] = 2048
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Of the dense layers (AdamW)."""
    embedding_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of the embedding tables (AdamW)."""
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Decay a step of the moving average of the weights that is evaluated and kept; 0 keeps the last step's."""
    grade_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the finer outcome (a rating) in the training target, where the data has one."""


@dataclass(frozen=True)
class EpochReport:
    """One pass over the training data."""

    epoch: int
    loss: float
    validation_auc: float
    seconds: float
