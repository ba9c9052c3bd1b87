"""The BentoML service: ``bentoml serve serving.services.ranking:RankingService``.

Thin on purpose: it finds the bundle, loads and warms it, and mounts the HTTP application. BentoML's access log, tracing and own
metrics are off, and ranking goes past what is left of its middleware: together they cost more than ranking one candidate does.
"""

from __future__ import annotations

import gc
import logging
from typing import ClassVar

import bentoml
from starlette.exceptions import HTTPException

from serving.contract.bundle import open_bundle
from serving.contract.errors import PilotageError, ServingError
from serving.monitoring.metrics import RankingMetrics
from serving.ranking.ranker import Ranker
from serving.runtime.cpus import usable_cores
from serving.services.application import build_application
from serving.services.hot_lane import AsgiApp, HotLaneService
from serving.services.rank_route import Loaded, RankRoute
from serving.services.settings import load_settings
from serving.services.store import locate

log = logging.getLogger("bentoml.pilotage")

WARM_UP_SIZES = (1, 10, 100, 500, 1000)
_loaded = Loaded()


@bentoml.service(
    name="pilotage-ranking",
    service_class=HotLaneService,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*", "sample_rate": 0.0},
    traffic={"timeout": 30},
    endpoints={"livez": "/livez", "readyz": "/readyz"},
)
@bentoml.asgi_app(build_application(_loaded), path="/")
class RankingService:
    """Load the bundle when the worker starts; stay alive but unready when that fails."""

    hot_routes: ClassVar[dict[str, AsgiApp]] = {"/v1/rank": RankRoute(_loaded)}

    def __init__(self) -> None:
        try:
            settings = load_settings()
            bundle = open_bundle(locate(settings.bundle))
            ranker = Ranker(bundle, threads=settings.threads or usable_cores(), max_candidates=settings.max_candidates)
            ranker.warm_up(WARM_UP_SIZES)
        except (PilotageError, ServingError) as error:
            _loaded.reason = str(error)
            log.error("not ready: %s", error)
            return
        _loaded.max_body_bytes = settings.max_body_bytes
        _loaded.metrics = RankingMetrics().bind(bundle.manifest.name, bundle.manifest.version)
        _loaded.ranker = ranker
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the worker; left in, each full collection would walk it again
        log.info("ready: %s %s from %s, %d threads", bundle.manifest.name, bundle.manifest.version, bundle.path, ranker.session.threads)

    async def __is_ready__(self) -> bool:
        """Answer ``/readyz``; the reason goes into the body."""
        if _loaded.ranker is None:
            raise HTTPException(503, f"not ready: {_loaded.reason}")
        return True
