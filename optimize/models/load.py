"""Trained weights → model."""

from __future__ import annotations

from pathlib import Path

from optimize.models.base import RankingModel
from optimize.models.registry import DcnV2Settings, WideDeepSettings, build
from serving.contract.errors import PilotageError
from serving.contract.fields import FeatureSpec


def load_model(settings: DcnV2Settings | WideDeepSettings, spec: FeatureSpec, weights: Path) -> RankingModel:
    """Build the architecture and fill it from a safetensors file; the model is in evaluation mode.

    Raises
    ------
    PilotageError
        The file is missing, damaged, or of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = build(settings, spec)
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise PilotageError(f"{weights} does not hold the weights of this {settings.architecture}: {error}") from error
    return model.eval()
