"""A trained ranking model with fewer weights: zeros, fewer hidden units, or matrices of low rank. In place, before fine-tuning.

Letters: ``B`` rows, ``K`` and ``M`` inputs and outputs of a layer, ``r`` rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimize.features.encode import Encoded
from optimize.models.base import RankingModel
from optimize.models.dcn_v2 import DcnV2
from optimize.models.wide_deep import WideDeep
from optimize.training.loop import logits
from serving.contract.errors import PilotageError

GROUP, KEPT = 4, 2


@dataclass(frozen=True)
class Masks:
    """Which weights stay: pairs of a parameter and a tensor of its shape, 1 where it stays and 0 where it is zero."""

    pairs: Sequence[tuple[Tensor, Tensor]]

    @torch.no_grad()
    def apply(self) -> None:
        """Set to zero what does not stay."""
        for parameter, mask in self.pairs:
            parameter.mul_(mask)


def keep_largest(model: RankingModel, sparsity: float) -> Masks:
    """Zero the smallest share of every linear layer's weights, as `optimize.passes.prune_magnitude` does."""
    pairs = []
    for layer in linear_layers(model):
        mask = torch.ones_like(layer.weight)
        count = int(sparsity * mask.numel())
        mask.view(-1)[layer.weight.detach().abs().flatten().argsort(stable=True)[:count]] = 0
        pairs.append((layer.weight, mask))
    masks = Masks(pairs)
    masks.apply()
    return masks


def keep_two_of_four(model: RankingModel) -> Masks:
    """Zero two of each four neighbouring inputs of an output, as `optimize.passes.prune_2_4` does."""
    pairs = []
    for layer in linear_layers(model):
        sizes = nn.functional.pad(layer.weight.detach().abs(), (0, -layer.in_features % GROUP))
        groups = sizes.view(layer.out_features, -1, GROUP)
        ranks = groups.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        pairs.append(
            (layer.weight, (ranks < KEPT).to(layer.weight.dtype).view(layer.out_features, -1)[:, : layer.in_features].contiguous())
        )
    masks = Masks(pairs)
    masks.apply()
    return masks


@torch.no_grad()
def remove_units(model: RankingModel, share: float, sample: Encoded) -> None:
    """Remove the least important hidden units of the deep network, as `optimize.passes.prune_neurons` does with calibration data.

    Parameters
    ----------
    share
        Of each layer's units, rounded down; one unit at least stays.
    sample
        Rows on which activations are observed.

    Raises
    ------
    PilotageError
        The architecture is none whose hidden units are known.
    """
    layers = _deep_layers(model)
    readers = [group[0] for group in layers[1:]]
    inputs = _inputs(model, readers, sample)
    cuts = []
    for reader, writers in zip(readers, layers, strict=False):
        units = writers[-1].out_features
        start = reader.in_features - units  # the crosses come first where a layer reads both
        activation = inputs[reader][:, start:]
        importance = activation.std(dim=0, correction=0) * reader.weight[:, start:].norm(dim=0)
        kept = torch.zeros(units, dtype=torch.bool)
        kept[importance.argsort(descending=True, stable=True)[: max(1, units - int(share * units))]] = True
        cuts.append((reader, start, writers, kept, activation.mean(dim=0)))
    for reader, start, writers, kept, mean in cuts:
        reader.bias.add_(reader.weight[:, start:][:, ~kept] @ mean[~kept])
        _keep_inputs(reader, torch.cat([torch.ones(start, dtype=torch.bool), kept]))
        for writer in writers:
            _keep_outputs(writer, kept)


@torch.no_grad()
def factor(model: RankingModel, rank: int, sample: Encoded) -> None:
    """Make two thin layers of each linear layer where that saves multiplications, as `optimize.passes.low_rank` does with calibration data.

    Parameters
    ----------
    sample
        Rows on which the layers' inputs are observed.
    """
    wide = [layer for layer in linear_layers(model) if rank * (layer.in_features + layer.out_features) < layer.weight.numel()]
    inputs = _inputs(model, wide, sample)
    thin = {layer: _factored(layer, rank, inputs[layer]) for layer in wide}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child in thin:
                setattr(module, name, thin[child])


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """All linear layers, in order."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def _factored(layer: nn.Linear, rank: int, source: Tensor) -> nn.Sequential:
    """Keep the outputs' principal components, and their means."""
    centred = (source - source.mean(dim=0)) @ layer.weight.T
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -rank:]
    first, second = nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features)
    first.weight.copy_(components.T @ layer.weight)
    second.weight.copy_(components)
    lost = (layer.weight - components @ first.weight) @ source.mean(dim=0)
    second.bias.copy_(lost if layer.bias is None else lost + layer.bias)
    return nn.Sequential(first, second)


def _deep_layers(model: RankingModel) -> list[list[nn.Linear]]:
    """Layers of the deep network, each as the layers whose outputs are added; the last reads the last units."""
    if not isinstance(model, DcnV2 | WideDeep):
        raise PilotageError(f"the hidden units of {type(model).__name__} are not known; there are rules for DcnV2 and WideDeep")
    first = [layer for layer in (model.first_deep.request, model.first_deep.candidate) if layer is not None]
    rest = [[layer] for layer in linear_layers(model.deep)]
    return [first, *rest, *([[model.out]] if isinstance(model, DcnV2) else [])]


def _inputs(model: RankingModel, layers: Sequence[nn.Linear], sample: Encoded) -> Mapping[nn.Module, Tensor]:
    """What layers read on a sample, ``(B, K)`` each."""
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen[module].append(arguments[0])

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        logits(model, sample)
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: torch.cat(parts).clone() for layer, parts in seen.items()}


def _keep_inputs(layer: nn.Linear, kept: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight[:, kept].contiguous())
    layer.in_features = layer.weight.shape[1]


def _keep_outputs(layer: nn.Linear, kept: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight[kept].contiguous())
    layer.out_features = layer.weight.shape[0]
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[kept].contiguous())
