"""What every ranking model has: named inputs, a calibrated output, and the order of the graph's inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from optimize.features.graph import number_output, row_output
from serving.contract.fields import REQUEST_INDEX, FeatureSpec

Repeat = Callable[[Tensor], Tensor]
"""Repeats rows of requests so that there is one a candidate: ``(R, D)`` → ``(N, D)``."""


class RankingModel(nn.Module, ABC):
    """Base of the architectures.

    Subclasses implement `raw_logits`; the calibration ``sigmoid(scale * z + offset)`` is part of every model, and
    is the identity until `optimize.training.calibration` sets it.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    @abstractmethod
    def raw_logits(self, rows: Mapping[str, Tensor], numbers: Mapping[str, Tensor], repeat: Repeat) -> Tensor:
        """Log-odds before calibration, ``(N,) float32``."""

    @abstractmethod
    def settle_unseen(self, rows: Mapping[str, Tensor]) -> None:
        """Apply the ``unseen`` rules to every table, see `FieldEmbeddings.settle_unseen`."""

    def interaction_logits(self, rows: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> Tensor:
        """Raw log-odds of interactions, one candidate a request: no repetition."""
        return self.raw_logits(rows, numbers, lambda tensor: tensor)

    @property
    def input_names(self) -> list[str]:
        """Names of the positional arguments of `forward`: outputs of the feature graph, then the request index."""
        rows = [row_output(hashed.name) for hashed in self.spec.hashed]
        return [*rows, *(number_output(number.name) for number in self.spec.numeric), REQUEST_INDEX]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Calibrated click probability, ``(N,) float32``, from arguments in the order of `input_names`."""
        *values, request_index = inputs
        hashed = [item.name for item in self.spec.hashed]
        numeric = [item.name for item in self.spec.numeric]
        rows = dict(zip(hashed, values[: len(hashed)], strict=True))
        numbers = dict(zip(numeric, values[len(hashed) :], strict=True))
        logits = self.raw_logits(rows, numbers, lambda tensor: tensor.index_select(0, request_index))
        return torch.sigmoid(self.scale * logits + self.offset)


def mlp(in_dim: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Linear, ReLU and dropout for each width."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_dim, width), nn.ReLU(), nn.Dropout(dropout)]
        in_dim = width
    return nn.Sequential(*layers)
