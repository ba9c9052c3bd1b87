"""Recipes: which data, which model, how to train, as one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimize.models.registry import ModelSettings
from optimize.training.settings import TrainingSettings
from serving.contract.errors import PilotageError

RECIPES = Path(__file__).parents[1] / "recipes"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Frozen):
    """Which data, and how it is cut."""

    source: Literal["movielens", "clicks"]
    split: Literal["random", "chronological"] = "random"
    impressions: Annotated[int, Field(ge=100, le=100_000_000)] = 400_000
    """Synthetic clicks only: rows to draw."""
    negative_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Synthetic clicks only: share of training non-clicks kept."""
    drift: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Synthetic clicks only: how far tastes turn over the two weeks."""


class Recipe(_Frozen):
    """Everything that decides a training run, apart from the data files and the seed."""

    data: DataSettings
    model: ModelSettings
    training: TrainingSettings = TrainingSettings()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    PilotageError
        The file cannot be read or has a wrong setting; the message names it.
    """
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        lines = "\n".join(f"  {'.'.join(str(step) for step in e['loc'])}: {e['msg']}" for e in error.errors())
        raise PilotageError(f"{path} is not a valid recipe:\n{lines}") from error
    except (OSError, ValueError) as error:
        raise PilotageError(f"{path} cannot be read as a recipe: {error}") from error


def shipped(source: str, architecture: str) -> Path:
    """Path of a recipe that comes with Pilotage.

    Raises
    ------
    PilotageError
        There is none of that name; the message lists those that exist.
    """
    path = RECIPES / source / f"{architecture}.toml"
    if not path.is_file():
        have = ", ".join(sorted(f"{p.parent.name}/{p.stem}" for p in RECIPES.glob("*/*.toml") if p.stem != "features"))
        raise PilotageError(f"there is no recipe {source}/{architecture}; there are {have}")
    return path
