"""Deep & Cross Network v2, parallel: explicit crosses beside a deep network.

References
----------
Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems", WWW 2021,
equation 1: ``x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l``; low rank: equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from optimize.models.base import RankingModel, Repeat, mlp
from optimize.models.embeddings import FieldEmbeddings, SplitLinear
from serving.contract.fields import FeatureSpec


class DcnV2(RankingModel):
    """Cross layers and a deep network side by side over the same embeddings.

    Parameters
    ----------
    spec
        The fields.
    cross_layers
        Number of cross layers, at least 1.
    hidden
        Widths of the deep network, at least one.
    cross_rank
        Rank of the cross matrices after the first; 0 for full rank.
    dropout, embedding_dropout
        After the crosses and each deep layer; on the concatenated embeddings.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        *,
        cross_layers: int,
        hidden: tuple[int, ...],
        cross_rank: int = 0,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__(spec)
        self.embeddings = FieldEmbeddings(spec)
        request_dim, candidate_dim = self.embeddings.request_dim, self.embeddings.candidate_dim
        dim = request_dim + candidate_dim
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.cross_dropout = nn.Dropout(dropout)
        self.first_cross = SplitLinear(request_dim, candidate_dim, dim)
        self.crosses = nn.ModuleList(_cross(dim, cross_rank) for _ in range(cross_layers - 1))
        self.first_deep = SplitLinear(request_dim, candidate_dim, hidden[0])
        self.deep = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), mlp(hidden[0], hidden[1:], dropout))
        self.out = nn.Linear(dim + hidden[-1], 1)

    def raw_logits(self, rows: Mapping[str, Tensor], numbers: Mapping[str, Tensor], repeat: Repeat) -> Tensor:
        """Log-odds before calibration, ``(N,) float32``."""
        request, candidate = (self.embedding_dropout(side) for side in self.embeddings(rows, numbers))
        x0 = torch.cat([repeat(request), candidate], dim=1) if self.embeddings.request_dim else candidate
        x = x0 * self.first_cross(request, candidate, repeat) + x0
        for cross in self.crosses:
            x = x0 * cross(x) + x
        deep = self.deep(self.first_deep(request, candidate, repeat))
        logits: Tensor = self.out(torch.cat([self.cross_dropout(x), deep], dim=1)).squeeze(1)
        return logits

    def settle_unseen(self, rows: Mapping[str, Tensor]) -> None:
        """Apply the ``unseen`` rules."""
        self.embeddings.settle_unseen(rows)


def _cross(dim: int, rank: int) -> nn.Module:
    if rank == 0:
        return nn.Linear(dim, dim)
    return nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim))
