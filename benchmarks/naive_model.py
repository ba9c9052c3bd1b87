"""The rival's half without HTTP: scikit-learn's `FeatureHasher` and a DCN-v2 in plain PyTorch.

It is the model of `optimize.models.dcn_v2` as its paper draws it, one row a candidate, with the same tables, the same
number of parameters and the same weights; for the same embedding rows both give the same probabilities, which a test
checks. What it lacks is what a specialist would add: the user's half of the first layers computed once, a fused graph.

Letters: ``N`` candidates, ``K`` numbers, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.feature_extraction import FeatureHasher
from torch import Tensor, nn

from optimize.models.dcn_v2 import DcnV2
from optimize.models.embeddings import SplitLinear
from optimize.models.registry import DcnV2Settings
from serving.contract.errors import PilotageError
from serving.contract.fields import CategoricalField, Cross, FeatureSpec, NumericField, load_spec

Row = Mapping[str, Any]
Ids = Tensor | tuple[Tensor, Tensor]
"""``(N,) int64`` indices of a single-valued field; flat indices and ``(N,)`` offsets of a list, as `nn.EmbeddingBag` takes them."""

SPEC_NAME = "features.json"
SETTINGS_NAME = "model.json"
WEIGHTS_NAME = "weights.pt"

AnyColumn = TypeVar("AnyColumn", CategoricalField | Cross, NumericField)

TRANSFORMS: dict[str, Callable[[Any], Any]] = {"identity": lambda x: x, "log1p": np.log1p, "asinh": np.arcsinh}


class NaiveFeatures:
    """Dictionaries → tensors, with one `FeatureHasher` a field.

    The fields of user and context are hashed once a request, not once a candidate, and then repeated as rows.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.hashers = {
            hashed.name: FeatureHasher(n_features=hashed.rows, input_type="string", alternate_sign=False, dtype=np.float32)
            for hashed in spec.hashed
        }

    def __call__(self, user: Row, context: Row, candidates: Sequence[Row]) -> tuple[dict[str, Ids], Tensor]:
        """Indices by field, and numbers ``(N, K) float32`` in the model's order."""
        request = {**user, **context}
        ids: dict[str, Ids] = {}
        for hashed in self.spec.hashed:
            rows: Sequence[Row] = [request]
            if self.spec.is_per_candidate(hashed):
                needs_request = isinstance(hashed, Cross) and any(self.spec.field(name).part != "candidate" for name in hashed.fields)
                rows = [{**request, **candidate} for candidate in candidates] if needs_request else candidates
            matrix = self.hashers[hashed.name].transform([_tokens(hashed, row) for row in rows])
            indices, offsets = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indices, matrix.indptr[:-1]))
            if len(rows) < len(candidates):  # the same user beside every candidate
                offsets = torch.arange(len(candidates)) * len(indices)
                indices = indices.repeat(len(candidates))
            ids[hashed.name] = (indices, offsets) if self.spec.is_list(hashed) else indices
        columns = []
        for number in _in_order(self.spec, self.spec.numeric):
            values = _numbers(number, candidates if number.part == "candidate" else [request])
            columns.append(np.broadcast_to(values, len(candidates)))
        numbers = torch.from_numpy(np.stack(columns, axis=1)) if columns else torch.empty(len(candidates), 0)
        return ids, numbers


class NaiveDcnV2(nn.Module):
    """DCN-v2, parallel, full rank, one row a candidate.

    References
    ----------
    Wang et al., WWW 2021, equation 1: ``x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l``.
    """

    def __init__(self, spec: FeatureSpec, settings: DcnV2Settings) -> None:
        super().__init__()
        if settings.cross_rank:
            raise PilotageError(f"cross_rank is {settings.cross_rank}; the naive model has full-rank crosses only, set it to 0")
        self.spec = spec
        self.fields = _in_order(spec, spec.hashed)
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(field.rows, field.dim, mode="mean" if field.pooling == "mean" else "sum")
            if spec.is_list(field)
            else nn.Embedding(field.rows, field.dim)
            for field in self.fields
        )
        dim = sum(field.dim for field in self.fields) + len(spec.numeric)
        self.crosses = nn.ModuleList(nn.Linear(dim, dim) for _ in range(settings.cross_layers))
        layers: list[nn.Module] = []
        width = dim
        for hidden in settings.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.deep = nn.Sequential(*layers)
        self.out = nn.Linear(dim + width, 1)

    def forward(self, ids: Mapping[str, Ids], numbers: Tensor) -> Tensor:
        """Click probabilities ``(N,) float32`` from indices by field and numbers ``(N, K) float32``."""
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for field, table in zip(self.fields, self.tables, strict=True):
            sides[self.spec.is_per_candidate(field)].append(_look_up(field, table, ids[field.name]))
        of_request = sum(not self.spec.is_per_candidate(number) for number in self.spec.numeric)
        x0 = torch.cat([*sides[0], numbers[:, :of_request], *sides[1], numbers[:, of_request:]], dim=1)
        x = x0
        for cross in self.crosses:
            x = x0 * cross(x) + x
        logits: Tensor = self.out(torch.cat([x, self.deep(x0)], dim=1)).squeeze(1)
        return torch.sigmoid(logits)


def naive_weights(model: DcnV2) -> dict[str, Tensor]:
    """Weights of `model` under the names of `NaiveDcnV2`; calibration must be the identity."""
    tables = dict(zip((field.name for field in model.spec.hashed), model.embeddings.tables, strict=True))
    weights: dict[str, Tensor] = {
        f"tables.{i}.weight": tables[field.name].get_parameter("weight") for i, field in enumerate(_in_order(model.spec, model.spec.hashed))
    }
    crosses = [_whole(model.first_cross), *(_plain(cross) for cross in model.crosses)]
    deep = [_whole(model.first_deep), *(_plain(layer) for layer in model.deep.modules() if isinstance(layer, nn.Linear))]
    for i, (weight, bias) in enumerate(crosses):
        weights |= {f"crosses.{i}.weight": weight, f"crosses.{i}.bias": bias}
    for i, (weight, bias) in enumerate(deep):
        weights |= {f"deep.{2 * i}.weight": weight, f"deep.{2 * i}.bias": bias}
    weights |= {"out.weight": model.out.weight, "out.bias": model.out.bias}
    return {name: weight.detach().clone() for name, weight in weights.items()}


def save_naive(model: DcnV2, settings: DcnV2Settings, folder: Path) -> None:
    """Write what `load_naive` reads, with the weights of `model`."""
    (folder / SPEC_NAME).write_text(model.spec.model_dump_json(), encoding="utf-8")
    (folder / SETTINGS_NAME).write_text(settings.model_dump_json(), encoding="utf-8")
    torch.save(naive_weights(model), folder / WEIGHTS_NAME)


def load_naive(folder: Path) -> tuple[NaiveFeatures, NaiveDcnV2]:
    """Features and model, ready to answer."""
    spec = load_spec(folder / SPEC_NAME)
    model = NaiveDcnV2(spec, DcnV2Settings.model_validate_json((folder / SETTINGS_NAME).read_text(encoding="utf-8")))
    model.load_state_dict(torch.load(folder / WEIGHTS_NAME, weights_only=True))
    return NaiveFeatures(spec), model.eval()


def _in_order(spec: FeatureSpec, fields: Sequence[AnyColumn]) -> list[AnyColumn]:
    """Fields of the request before those of the candidate: the order of the model's columns."""
    return sorted(fields, key=spec.is_per_candidate)


def _tokens(hashed: CategoricalField | Cross, row: Row) -> list[str]:
    """What `FeatureHasher` hashes for one row; a missing value is the empty string, a missing list has no tokens."""
    if isinstance(hashed, CategoricalField):
        value = row.get(hashed.name)
        if hashed.is_list:
            return [str(item) for item in value or ()]
        return ["" if value is None else str(value)]
    combined = [""]
    for name in hashed.fields:
        value = row.get(name)
        values = value if isinstance(value, list) else [value]
        combined = [f"{left}_{right}" for left in combined for right in values]
    return combined


def _numbers(number: NumericField, rows: Sequence[Row]) -> Any:
    values = np.array([row.get(number.name) for row in rows], np.float32)  # None becomes NaN
    values = np.where(np.isnan(values), np.float32(number.missing_value), values)
    if number.min is not None or number.max is not None:
        values = np.clip(values, number.min, number.max)
    return ((TRANSFORMS[number.transform](values) - number.center) / number.scale).astype(np.float32)


def _look_up(field: CategoricalField | Cross, table: nn.Module, ids: Ids) -> Tensor:
    if not isinstance(ids, tuple):
        embedded: Tensor = table(ids)
        return embedded
    indices, offsets = ids
    pooled: Tensor = table(indices, offsets)
    if field.pooling == "sqrtn":
        counts = torch.diff(offsets, append=torch.tensor([len(indices)]))
        pooled = pooled / counts.clamp(min=1).sqrt().unsqueeze(1)
    return pooled


def _whole(layer: SplitLinear) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one layer that `layer` is the two halves of."""
    if layer.request is None:
        return layer.candidate.weight, layer.candidate.bias
    return torch.cat([layer.request.weight, layer.candidate.weight], dim=1), layer.request.bias


def _plain(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.get_parameter("weight"), layer.get_parameter("bias")
