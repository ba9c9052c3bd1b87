"""Ranking: decoded requests in, ordered candidates out. Knows no HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract.bundle import RankingBundle
from serving.contract.errors import ModelOutputError
from serving.contract.fields import REQUEST_INDEX, CategoricalField, FeatureSpec
from serving.features.columns import ColumnEncoder, Encoded, Feeds, stack
from serving.features.requests import RankRequest, RequestDecoder
from serving.runtime.cost import CostModel
from serving.runtime.provider_names import Provider
from serving.runtime.session import GraphSession

WARM_RUNS = 6
"""The first run allocates; of the others the median is not moved by two interruptions."""

STACKED = 4
"""Requests in the stacked runs of warm-up."""


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
        A checked bundle.
    threads
        Threads inside one run of the graph.
    max_candidates
        Most candidates in one request.
    provider, arena_mib
        As for `GraphSession`.

    Raises
    ------
    BundleError
        The graph cannot be loaded or does not have the manifest's signature.
    SettingsError
        The provider is not available.
    """

    def __init__(
        self, bundle: RankingBundle, *, threads: int, max_candidates: int, provider: Provider = "cpu", arena_mib: int | None = None
    ) -> None:
        self.manifest = bundle.manifest
        self.decoder = RequestDecoder(bundle.manifest.features, max_candidates)
        self.encoder = ColumnEncoder(bundle.manifest.features)
        self.session = GraphSession(bundle.graph_path, threads=threads, provider=provider, arena_mib=arena_mib)
        self.session.require(bundle.manifest.signature)
        self.max_candidates = max_candidates

    def encode(self, request: RankRequest) -> Encoded:
        """Turn one decoded request into arrays."""
        return Encoded(self.encoder.encode([request]), 1, len(request.candidates))

    def score(self, parts: Sequence[Encoded]) -> list[npt.NDArray[np.float32] | Exception]:
        """Stack the parts into one run.

        Returns
        -------
        list
            For each part its click probabilities ``(N,) float32``, or a `ModelOutputError` where one of them is not finite:
            a part must not fail for its neighbours' sake.

        Raises
        ------
        ServingError
            The run itself failed.
        """
        probabilities: npt.NDArray[np.float32] = self.session.run(stack(parts, self.encoder.sentinels))[0]
        if len(parts) == 1:
            return [self._finite(probabilities)]
        ends = np.cumsum([part.candidates for part in parts])
        return [self._finite(mine) for mine in np.split(probabilities, ends[:-1])]

    def rank(self, request: RankRequest) -> Ranking:
        """Score the candidates of one request and order them.

        Raises
        ------
        ModelOutputError
            A probability is not finite.
        """
        (probabilities,) = self.score([self.encode(request)])
        if isinstance(probabilities, Exception):
            raise probabilities
        return order(request, probabilities)

    def warm_up(self, sizes: Sequence[int]) -> CostModel:
        """Run at each number of candidates that will be seen, and stacked, so that the first caller does not pay for it.

        Returns
        -------
        CostModel
            From the medians of `WARM_RUNS`, the first of them not counted.
        """
        measured = [(size, self._timed([self._blank(size)])) for size in sorted({min(size, self.max_candidates) for size in sizes})]
        size = max(1, self.max_candidates // STACKED)
        together = self._timed([self._blank(size)] * STACKED)
        alone = self._timed([self._blank(size * STACKED)])
        return CostModel(measured, (together - alone) / (STACKED - 1))

    def _timed(self, parts: Sequence[Encoded]) -> float:
        taken = []
        for _ in range(WARM_RUNS):
            started = time.perf_counter()
            self.score(parts)
            taken.append(time.perf_counter() - started)
        return median(taken[1:])

    def _blank(self, candidates: int) -> Encoded:
        return Encoded(blank_feeds(self.manifest.features, candidates), 1, candidates)

    def _finite(self, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | Exception:
        if math.isfinite(probabilities.sum()):  # NaN and infinity stay what they are in a sum, and probabilities do not overflow it
            return probabilities
        return ModelOutputError(f"model {self.manifest.name} {self.manifest.version} gave a probability that is not finite")


def best_first(probabilities: npt.NDArray[np.float32], top_k: int | None) -> npt.NDArray[np.int64]:
    """Positions ``(K,) int64`` of the candidates by falling probability, cut at `top_k`; equal ones keep their order."""
    best: npt.NDArray[np.int64] = np.argsort(-probabilities, kind="stable")
    return best if top_k is None else best[:top_k]


def order(request: RankRequest, probabilities: npt.NDArray[np.float32]) -> Ranking:
    """Order the candidates of one request by falling probability and cut at ``top_k``."""
    best = best_first(probabilities, request.top_k)
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
