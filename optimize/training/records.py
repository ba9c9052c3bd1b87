"""The run folder: everything that training hands to the optimize stage, as files.

::

    run.json            what was trained, on what, how well
    model.safetensors   weights, calibration included
    validation.arrow    raw interactions to choose a variant on
    test.arrow          raw interactions to report it on
    requests.jsonl      ranking requests made from the test part
    names.json          candidate id → title, where the data has titles
"""

from __future__ import annotations

from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from optimize.features.collisions import FieldCollisions
from optimize.training.recipe import Recipe
from optimize.training.settings import EpochReport
from serving.contract.errors import PilotageError
from serving.contract.fields import FeatureSpec
from serving.contract.manifest import Calibration

RUN_NAME = "run.json"
WEIGHTS_NAME = "model.safetensors"
VALIDATION_NAME = "validation.arrow"
TEST_NAME = "test.arrow"
REQUESTS_NAME = "requests.jsonl"
NAMES_NAME = "names.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Contender(_Frozen):
    """A model or baseline and its test metrics."""

    name: str
    chosen: str
    metrics: dict[str, float]


class RunRecord(_Frozen):
    """``run.json``."""

    schema_version: int = 1
    created_at: AwareDatetime
    recipe: Recipe
    features: FeatureSpec
    seed: int
    data: str
    rows: dict[str, int]
    fingerprints: dict[str, str]
    calibration: Calibration
    contenders: tuple[Contender, ...]
    best_possible_log_loss: float | None = None
    """Log loss of the true probabilities on the test part, where they are known."""
    collisions: tuple[FieldCollisions, ...]
    epochs: tuple[EpochReport, ...]


def read_run(folder: Path) -> RunRecord:
    """Read ``run.json``.

    Raises
    ------
    PilotageError
        The folder is not a run, or one of another schema version.
    """
    path = folder / RUN_NAME
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PilotageError(f"{folder} is not a run folder: {RUN_NAME} cannot be read; `pilotage train` makes one") from error
    except ValidationError as error:
        raise PilotageError(f"{path} is not a valid run record: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}") from error
    if record.schema_version != 1:
        raise PilotageError(f"{path} has schema version {record.schema_version}, this release reads 1; train again")
    return record
