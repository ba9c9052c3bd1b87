"""A rival: the plain ``@bentoml.api``, every setting of BentoML at its default, around `benchmarks.plain_ranker`."""

from __future__ import annotations

from typing import Any

import bentoml

from benchmarks.plain_ranker import PlainRanker


@bentoml.service(name="plain-ranking")
class PlainService:
    """Rank candidates."""

    def __init__(self) -> None:
        self.ranker = PlainRanker()

    @bentoml.api  # type: ignore[untyped-decorator]
    def rank(self, user: dict[str, Any], context: dict[str, Any], candidates: list[dict[str, Any]]) -> dict[str, Any]:
        """Return all candidates, best first."""
        return {"ranking": self.ranker.rank(user, context, candidates)}
