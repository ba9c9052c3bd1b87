"""Embedding rows and scaled numbers → the dense vectors that every ranking model starts from.

Letters: ``B`` rows, ``R`` requests, ``N`` candidates, ``V`` values of a list, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from serving.contract.fields import CategoricalField, Cross, FeatureSpec

INITIAL_STD = 0.05
"""Small enough that first predictions are near the base rate, large enough that crosses get a gradient."""


class FieldEmbeddings(nn.Module):
    """One table a field or cross, pooled over lists.

    Parameters
    ----------
    spec
        The fields.
    dim
        Width of every table; None takes each field's own ``dim``. Wide parts use 1.
    """

    def __init__(self, spec: FeatureSpec, dim: int | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.tables = nn.ModuleList(
            nn.Embedding(hashed.rows, dim or hashed.dim, padding_idx=0 if hashed.missing == "zero" else None) for hashed in spec.hashed
        )
        for table in self.tables:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=INITIAL_STD)
            if table.padding_idx is not None:
                nn.init.zeros_(table.weight[table.padding_idx])
        sides = [spec.is_per_candidate(hashed) for hashed in spec.hashed]
        widths = [dim or hashed.dim for hashed in spec.hashed]
        numbers = [spec.is_per_candidate(number) for number in spec.numeric]
        self.candidate_dim = sum(w for w, side in zip(widths, sides, strict=True) if side) + sum(numbers)
        self.request_dim = sum(widths) + len(numbers) - self.candidate_dim

    def forward(self, rows: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Concatenate the fields of each side.

        Returns
        -------
        tuple
            ``(R, request_dim)`` and ``(N, candidate_dim)`` float32.
        """
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for hashed, table in zip(self.spec.hashed, self.tables, strict=True):
            sides[self.spec.is_per_candidate(hashed)].append(self._look_up(hashed, table, rows[hashed.name]))
        for number in self.spec.numeric:
            sides[self.spec.is_per_candidate(number)].append(numbers[number.name].unsqueeze(1))
        reference = next(iter((*sides[0], *sides[1])))
        request, candidate = (torch.cat(side, dim=1) if side else reference.new_zeros((1, 0)) for side in sides)
        return request, candidate

    def _look_up(self, hashed: CategoricalField | Cross, table: nn.Module, rows: Tensor) -> Tensor:
        """Embed ``(B,)`` or pool ``(B, V)``; only an all-missing list gets row 0 when missing has a row of its own."""
        if not self.spec.is_list(hashed):
            embedded: Tensor = table(rows)
            return embedded
        assert isinstance(table, nn.Embedding)
        count = (rows > 0).to(torch.float32).sum(dim=1, keepdim=True)
        padding = table.weight[0]
        if self.training:  # the same sum without the (B, V, D) product in memory; exported, it would become a Loop
            total = nn.functional.embedding_bag(rows, table.weight, mode="sum", padding_idx=0)
        else:
            total = table(rows).sum(dim=1)
            if hashed.missing == "own":  # else row 0 is zeros and adds nothing
                total = total - (rows.shape[1] - count) * padding
        if hashed.pooling == "mean":
            total = total / count.clamp(min=1.0)
        elif hashed.pooling == "sqrtn":
            total = total / count.clamp(min=1.0).sqrt()
        if hashed.missing == "own":
            total = total + (count == 0).to(torch.float32) * padding
        return total

    @torch.no_grad()
    def settle_unseen(self, rows: Mapping[str, Tensor]) -> None:
        """Give rows that training never touched what the specification's ``unseen`` rule says.

        Parameters
        ----------
        rows
            Rows of the training data, ``(B,)`` or ``(B, V)``.
        """
        for hashed, table in zip(self.spec.hashed, self.tables, strict=True):
            assert isinstance(table, nn.Embedding)
            hit = torch.zeros(hashed.rows, dtype=torch.bool)
            seen = rows[hashed.name]
            hit[seen.reshape(-1).long()] = True
            if hashed.missing == "zero" or self.spec.is_list(hashed):
                hit[0] = hashed.missing == "zero" or bool((seen == 0).all(dim=-1).any())
            if hashed.unseen == "shared" or not bool(hit[1:].any()):
                continue
            trained = table.weight[1:][hit[1:]]
            table.weight[~hit] = trained.mean(dim=0) if hashed.unseen == "mean" else 0.0


class SplitLinear(nn.Module):
    """A linear layer over ``[request ; candidate]`` that computes the request's half once a request.

    ``W [r ; c] + b = (W_r r + b) + W_c c``: the first product has R rows instead of N, its result is broadcast.
    """

    def __init__(self, request_dim: int, candidate_dim: int, out_dim: int) -> None:
        super().__init__()
        whole = nn.Linear(request_dim + candidate_dim, out_dim)  # so that both halves start as one layer would
        self.request = nn.Linear(request_dim, out_dim) if request_dim else None
        self.candidate = nn.Linear(candidate_dim, out_dim, bias=self.request is None)
        with torch.no_grad():
            self.candidate.weight.copy_(whole.weight[:, request_dim:])
            if self.request is not None:
                self.request.weight.copy_(whole.weight[:, :request_dim])
                self.request.bias.copy_(whole.bias)

    def forward(self, request: Tensor, candidate: Tensor, to_candidates: Callable[[Tensor], Tensor]) -> Tensor:
        """``(R, request_dim)`` and ``(N, candidate_dim)`` → ``(N, out_dim)``; `to_candidates` repeats rows by request."""
        out: Tensor = self.candidate(candidate)
        return out if self.request is None else out + to_candidates(self.request(request))
