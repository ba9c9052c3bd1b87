"""Ranking: decoded requests in, ordered candidates out. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract.bundle import Bundle
from serving.contract.errors import ModelOutputError
from serving.contract.fields import REQUEST_INDEX, CategoricalField, FeatureSpec
from serving.features.columns import ColumnEncoder, Feeds
from serving.features.requests import RankRequest, RequestDecoder
from serving.runtime.session import GraphSession


@dataclass(frozen=True)
class Ranking:
    """Candidates of one request, best first.

    Attributes
    ----------
    ids
        Candidate ids as sent.
    probabilities
        ``(K,) float32``, descending; equal ones keep the order of the request.
    """

    ids: list[str | int]
    probabilities: npt.NDArray[np.float32]


class Ranker:
    """A bundle that answers.

    Parameters
    ----------
    bundle
        A checked bundle of the family ``ranking``.
    threads
        Threads inside one run of the graph.
    max_candidates
        Most candidates in one request.

    Raises
    ------
    BundleError
        The graph cannot be loaded or does not have the manifest's signature.
    """

    def __init__(self, bundle: Bundle, *, threads: int, max_candidates: int) -> None:
        self.manifest = bundle.manifest
        self.decoder = RequestDecoder(bundle.manifest.features, max_candidates)
        self.encoder = ColumnEncoder(bundle.manifest.features)
        self.session = GraphSession(bundle.graph_path, threads=threads)
        self.session.require(bundle.manifest.signature)
        self.max_candidates = max_candidates

    def score(self, feeds: Feeds) -> npt.NDArray[np.float32]:
        """Click probabilities ``(N,) float32`` of the stacked candidates.

        Raises
        ------
        ModelOutputError
            A probability is not finite.
        """
        probabilities: npt.NDArray[np.float32] = self.session.run(feeds)[0]
        if not np.isfinite(probabilities).all():
            raise ModelOutputError(f"model {self.manifest.name} {self.manifest.version} gave a probability that is not finite")
        return probabilities

    def rank(self, request: RankRequest) -> Ranking:
        """Score the candidates of one request and order them."""
        return order(request, self.score(self.encoder.encode([request])))

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run once at each number of candidates that will be seen, so that the first caller does not pay for it."""
        for size in sizes:
            self.score(blank_feeds(self.manifest.features, min(size, self.max_candidates)))


def order(request: RankRequest, probabilities: npt.NDArray[np.float32]) -> Ranking:
    """Order the candidates of one request by falling probability and cut at ``top_k``."""
    best = np.argsort(-probabilities, kind="stable")
    if request.top_k is not None:
        best = best[: request.top_k]
    candidates = request.candidates
    return Ranking([candidates[i].id for i in best.tolist()], probabilities[best])


def blank_feeds(spec: FeatureSpec, candidates: int) -> Feeds:
    """Feeds of one request with distinct ids ``"0"``, ``"1"``, … in every field, for warm-up."""
    feeds: Feeds = {}
    for field in spec.fields:
        rows = candidates if field.part == "candidate" else 1
        values: Any = np.arange(rows)
        if isinstance(field, CategoricalField):
            column = values.astype(str).astype(object) if field.dtype == "string" else values.astype(np.int64)
            feeds[field.name] = np.repeat(column[:, None], field.max_values, axis=1) if field.is_list else column
        else:
            feeds[field.name] = values.astype(np.float32)
    feeds[REQUEST_INDEX] = np.zeros(candidates, np.int64)
    return feeds
