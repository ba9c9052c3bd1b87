"""Which route answers a path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from serving.monitoring.tracing import RequestTracer
from serving.services.catalog import Catalog
from serving.services.classify_route import ClassifyRoute
from serving.services.exchange import BodyBounds
from serving.services.model_route import FIRST, ModelRoute, Target
from serving.services.ranking_routes import InferRoute, RankRoute

_RANK = re.compile(r"/v1/models/([^/]+)/rank")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_CLASSIFY = re.compile(r"/v1/models/([^/]+)/classify")

Found = tuple[ModelRoute[Any], Target]


class Bounds(NamedTuple):
    """Of bodies: of requests to rank, and of those with images."""

    rank: BodyBounds
    upload: BodyBounds


class ModelRoutes:
    """Finds the route of a path."""

    def __init__(self, catalog: Catalog, bounds: Bounds, tracer: RequestTracer | None = None) -> None:
        self._rank = RankRoute(catalog, bounds.rank, tracer)
        self._infer = InferRoute(catalog, bounds.rank, tracer)
        self._classify = ClassifyRoute(catalog, bounds.upload, tracer)
        self._fixed: Mapping[str, Found] = {"/v1/rank": (self._rank, FIRST), "/v1/classify": (self._classify, FIRST)}

    def find(self, path: str) -> Found | None:
        """Return the route for `path` and the model that it names; None when no model is asked there."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed
        if found := _RANK.fullmatch(path):
            return self._rank, Target(found[1], None)
        if found := _INFER.fullmatch(path):
            return self._infer, Target(found[1], found[2])
        if found := _CLASSIFY.fullmatch(path):
            return self._classify, Target(found[1], None)
        return None
