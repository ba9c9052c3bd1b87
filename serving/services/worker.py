"""What a worker has: the models, the front before them, and the application that tells about them."""

from __future__ import annotations

import asyncio
import gc

from serving.contract.errors import PilotageError
from serving.monitoring.accumulator import FLUSH_S
from serving.monitoring.logs import configure_logs
from serving.services.application import build_application
from serving.services.catalog import Catalog
from serving.services.front import ServiceFront
from serving.services.lifecycle import drain_on_sigterm
from serving.services.settings import load_settings


class Worker:
    """One process of the service.

    Attributes
    ----------
    catalog
        The models.
    front
        What stands before all routes.
    application
        ASGI: the routes beside asking a model.
    """

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.front = ServiceFront(self.catalog)
        self.application = build_application(self.catalog)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Load and warm the bundles; stay alive but unready when that fails. Called on the event loop."""
        configure_logs()
        try:
            settings = load_settings()
            configure_logs(settings.log_level)
            self.front.open(settings)
            self.catalog.load(settings)
        except PilotageError as error:
            self.catalog.fail(str(error))
            return
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the worker; left in, each full collection would walk it again
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._flush_metrics()))
        drain_on_sigterm(self.catalog.drain, drain_s=settings.drain_s, grace_s=settings.grace_s)
        if settings.reload_s:
            self._tasks.append(loop.create_task(self.catalog.follow(settings.reload_s)))

    def close(self) -> None:
        """Finish what answers have left behind."""
        self.catalog.flush_metrics()
        self.catalog.close()
        self.front.close()

    async def _flush_metrics(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.catalog.flush_metrics()
