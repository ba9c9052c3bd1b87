"""The BentoML service: ``bentoml serve serving.services.ranking:RankingService``.

Thin on purpose: it loads and warms the bundles and ties the rooms together. BentoML's access log, tracing and own metrics are
off, and asking a model goes past what is left of its middleware and of ASGI: together they cost more than ranking one candidate does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from typing import Any, ClassVar

import bentoml
import msgspec
from starlette.exceptions import HTTPException

from serving.contract.errors import PilotageError, SettingsError
from serving.monitoring.accumulator import FLUSH_S
from serving.monitoring.logs import configure_logs
from serving.protocol.answers import Model, encode, rank_answer
from serving.services.application import build_application
from serving.services.catalog import Catalog
from serving.services.front import ServiceFront
from serving.services.hot_lane import HotLaneService
from serving.services.lifecycle import drain_on_sigterm
from serving.services.settings import load_settings

_catalog = Catalog()
_front = ServiceFront(_catalog)


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
@bentoml.asgi_app(build_application(_catalog), path="/")
class RankingService:
    """Load the bundles when the worker starts; stay alive but unready when that fails."""

    front: ClassVar[ServiceFront] = _front

    def __init__(self) -> None:
        configure_logs()
        try:
            settings = load_settings()
            configure_logs(settings.log_level)
            _front.open(settings)
            _catalog.load(settings)
        except PilotageError as error:
            _catalog.fail(str(error))
            return
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the worker; left in, each full collection would walk it again
        self._flushing = asyncio.get_running_loop().create_task(_flush_metrics())
        drain_on_sigterm(_catalog.drain, drain_s=settings.drain_s, grace_s=settings.grace_s)
        if settings.reload_s:
            self._following = asyncio.get_running_loop().create_task(_catalog.follow(settings.reload_s))

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
        model = _catalog.find(None)
        document = {"user": user or {}, "context": context or {}, "candidates": candidates, "top_k": top_k}
        ranking = model.ranker.rank(model.ranker.decoder.decode(encode(document)))
        found = rank_answer(Model(model.manifest.name, model.manifest.version), "", ranking.ids, ranking.probabilities)
        answer: dict[str, Any] = msgspec.json.decode(found)
        return answer

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what answers have left behind."""
        _catalog.flush_metrics()
        _front.close()

    async def __is_ready__(self) -> bool:
        """Answer ``/readyz``; the reason goes into the body."""
        reason = _catalog.not_ready
        if reason is not None:
            raise HTTPException(503, f"not ready: {reason}")
        return True


async def _flush_metrics() -> None:
    while True:
        await asyncio.sleep(FLUSH_S)
        _catalog.flush_metrics()
