"""Wide & Deep: a linear model over ids and crosses beside a deep network over embeddings.

References
----------
Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from optimize.models.base import RankingModel, Repeat, mlp
from optimize.models.embeddings import FieldEmbeddings, SplitLinear
from serving.contract.fields import FeatureSpec


class WideDeep(RankingModel):
    """The sum of a wide and a deep part's log-odds.

    Parameters
    ----------
    spec
        The fields; the wide part gives each field and cross a table of width 1.
    hidden
        Widths of the deep network, at least one.
    dropout, embedding_dropout
        After each deep layer; on the concatenated embeddings.
    """

    def __init__(self, spec: FeatureSpec, *, hidden: tuple[int, ...], dropout: float = 0.0, embedding_dropout: float = 0.0) -> None:
        super().__init__(spec)
        self.wide = FieldEmbeddings(spec, dim=1)
        self.wide_out = SplitLinear(self.wide.request_dim, self.wide.candidate_dim, 1)
        self.embeddings = FieldEmbeddings(spec)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.first_deep = SplitLinear(self.embeddings.request_dim, self.embeddings.candidate_dim, hidden[0])
        self.deep = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), mlp(hidden[0], hidden[1:], dropout), nn.Linear(hidden[-1], 1))

    def raw_logits(self, rows: Mapping[str, Tensor], numbers: Mapping[str, Tensor], repeat: Repeat) -> Tensor:
        """Log-odds before calibration, ``(N,) float32``."""
        wide = self.wide_out(*self.wide(rows, numbers), repeat)
        request, candidate = (self.embedding_dropout(side) for side in self.embeddings(rows, numbers))
        deep = self.deep(self.first_deep(request, candidate, repeat))
        logits: Tensor = (wide + deep).squeeze(1)
        return logits

    def settle_unseen(self, rows: Mapping[str, Tensor]) -> None:
        """Apply the ``unseen`` rules."""
        self.wide.settle_unseen(rows)
        self.embeddings.settle_unseen(rows)
