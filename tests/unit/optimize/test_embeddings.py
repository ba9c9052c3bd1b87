"""Pooling by hand, and what rows that training never touched answer."""

from __future__ import annotations

import pytest
import torch

from optimize.models.embeddings import FieldEmbeddings
from serving.contract.fields import FeatureSpec, parse_spec


def _spec(**settings: object) -> FeatureSpec:
    field = {"name": "tags", "kind": "categorical", "part": "candidate", "buckets": 6, "dim": 2, **settings}
    return parse_spec({"schema_version": 1, "name": "one", "fields": [field]}, "test")


def _embeddings(**settings: object) -> FieldEmbeddings:
    torch.manual_seed(0)
    return FieldEmbeddings(_spec(**settings)).eval()


def _weight(embeddings: FieldEmbeddings) -> torch.Tensor:
    table = embeddings.tables[0]
    assert isinstance(table, torch.nn.Embedding)
    return table.weight.detach()


@pytest.mark.parametrize(("pooling", "divisor"), [("sum", 1.0), ("mean", 2.0), ("sqrtn", 2.0**0.5)])
@pytest.mark.parametrize("missing", ["own", "zero"])
@pytest.mark.parametrize("training", [False, True])
def test_padding_adds_nothing_to_a_list(pooling: str, divisor: float, missing: str, training: bool) -> None:
    embeddings = _embeddings(max_values=4, pooling=pooling, missing=missing).train(training)
    weight = _weight(embeddings)
    _, pooled = embeddings({"tags": torch.tensor([[2, 5, 0, 0], [0, 0, 0, 0]])}, {})
    torch.testing.assert_close(pooled[0], (weight[2] + weight[5]) / divisor)
    torch.testing.assert_close(pooled[1], weight[0] if missing == "own" else torch.zeros(2))


@pytest.mark.parametrize("missing", ["own", "zero", "reject"])
def test_row_zero_starts_at_zero_only_where_missing_means_zero(missing: str) -> None:
    assert bool((_weight(_embeddings(missing=missing))[0] == 0).all()) == (missing == "zero")


@pytest.mark.parametrize(("unseen", "expected"), [("mean", "mean"), ("zero", "zero"), ("shared", "kept")])
def test_rows_never_hit_follow_the_rule(unseen: str, expected: str) -> None:
    embeddings = _embeddings(unseen=unseen, missing="own")
    before = _weight(embeddings).clone()
    embeddings.settle_unseen({"tags": torch.tensor([1, 3, 3, 1], dtype=torch.int32)})
    after = _weight(embeddings)
    torch.testing.assert_close(after[[1, 3]], before[[1, 3]])
    answer = {"mean": (before[1] + before[3]) / 2, "zero": torch.zeros(2), "kept": None}[expected]
    for row in (0, 2, 4, 5, 6):  # row 0: no training row was missing
        torch.testing.assert_close(after[row], before[row] if answer is None else answer)


def test_a_trained_row_for_missing_is_kept_and_is_no_part_of_the_mean() -> None:
    embeddings = _embeddings(unseen="mean", missing="own")
    before = _weight(embeddings).clone()
    embeddings.settle_unseen({"tags": torch.tensor([0, 1, 2])})
    torch.testing.assert_close(_weight(embeddings)[0], before[0])
    torch.testing.assert_close(_weight(embeddings)[4], (before[1] + before[2]) / 2)


def test_zero_for_missing_stays_zero() -> None:
    embeddings = _embeddings(unseen="mean", missing="zero")
    embeddings.settle_unseen({"tags": torch.tensor([1, 2])})
    assert not _weight(embeddings)[0].any()


@pytest.mark.parametrize(("rows", "was_trained"), [([[1, 0], [2, 3]], False), ([[1, 0], [0, 0]], True)])
def test_padding_of_a_list_is_no_missing_value(rows: list[list[int]], was_trained: bool) -> None:
    embeddings = _embeddings(unseen="zero", missing="own", max_values=2)
    before = _weight(embeddings).clone()
    embeddings.settle_unseen({"tags": torch.tensor(rows)})
    torch.testing.assert_close(_weight(embeddings)[0], before[0] if was_trained else torch.zeros(2))


def test_a_field_that_was_never_given_is_left_as_it_is() -> None:
    embeddings = _embeddings(unseen="mean", missing="own")
    before = _weight(embeddings).clone()
    embeddings.settle_unseen({"tags": torch.tensor([0, 0])})
    torch.testing.assert_close(_weight(embeddings), before)
