"""The BentoML service: ``bentoml serve serving.services.ranking:RankingService``.

Thin on purpose: `worker` ties the rooms together, and is imported in workers alone (see `hot_lane_service`). BentoML's access log,
tracing and own metrics are off, and asking a model goes past what is left of its middleware and of ASGI: together they cost more than
ranking one candidate does.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import bentoml

from serving.contract.errors import SettingsError
from serving.services.hot_lane_service import HotLaneService
from serving.services.settings import load_settings

if TYPE_CHECKING:
    from serving.services.worker import Worker


@cache
def _worker() -> Worker:
    from serving.services.worker import Worker

    return Worker()


def _workers() -> int:
    """Worker processes, asked by BentoML's supervisor; a mistake in the settings is told by the workers, through ``/readyz``."""
    with contextlib.suppress(SettingsError):
        return load_settings().workers
    return 1


os.environ.pop("BENTOML_CONTAINERIZED", None)  # with it, the supervisor does not replace a worker that died


@bentoml.service(
    name="pilotage-ranking",
    service_class=HotLaneService,
    workers=_workers(),
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*", "sample_rate": 0.0},
    traffic={"timeout": 30},
    endpoints={"livez": "/livez", "readyz": "/readyz"},
)
class RankingService:
    """The worker, as BentoML sees it."""

    def __init__(self) -> None:
        _worker().start()

    @staticmethod
    def worker() -> Worker:
        """For `HotLaneService`."""
        return _worker()

    @bentoml.api(route="/v1/rank")  # type: ignore[untyped-decorator]
    async def rank(
        self,
        candidates: list[dict[str, Any]],
        user: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, Any]:
        """Rank candidates with the first model.

        For BentoML's client, which reads this signature from ``/schema.json`` and then posts to the route; the hot lane answers it. What is
        below serves a caller inside the process.
        """
        import msgspec

        from serving.protocol.answers import Model, encode, rank_answer
        from serving.services.served import RankingModel

        model = _worker().catalog.find(RankingModel)
        document = {"user": user or {}, "context": context or {}, "candidates": candidates, "top_k": top_k}
        ranking = model.ranker.rank(model.ranker.decoder.decode(encode(document)))
        found = rank_answer(Model(model.manifest.name, model.manifest.version), "", ranking.ids, ranking.probabilities)
        answer: dict[str, Any] = msgspec.json.decode(found)
        return answer

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what answers have left behind."""
        _worker().close()

    async def __is_ready__(self) -> bool:
        """Answer ``/readyz``; the reason goes into the body."""
        from starlette.exceptions import HTTPException

        reason = _worker().catalog.not_ready
        if reason is not None:
            raise HTTPException(503, f"not ready: {reason}")
        return True
