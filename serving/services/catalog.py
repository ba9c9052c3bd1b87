"""The models that a worker serves: by name, each with the version that answers now, replaced without dropping a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from serving.contract.bundle import open_ranking_bundle
from serving.contract.errors import BundleError, NotReady, PilotageError, ServingError, UnknownModel
from serving.contract.manifest import MANIFEST_NAME, RankingManifest
from serving.features.columns import Encoded
from serving.monitoring.metrics import BoundMetrics, RankingMetrics
from serving.ranking.ranker import Ranker
from serving.runtime.run_queue import RunQueue
from serving.services.forms import ArrowForm, InferForm, JsonForm, Probabilities
from serving.services.settings import ServiceSettings
from serving.services.store import locate

log = logging.getLogger("pilotage")

WARM_UP_SIZES = (1, 10, 100, 200, 500, 1000)

Stamp = tuple[str, int, int]
"""Path, inode and modification time of a manifest: what changes when a bundle is replaced."""


class ServedModel:
    """One version of one model, warm, with its queue."""

    def __init__(self, ranker: Ranker, queue: RunQueue[Encoded, Probabilities], metrics: BoundMetrics) -> None:
        self.ranker = ranker
        self.queue = queue
        self.metrics = metrics
        self.loaded_at = datetime.now(UTC)
        self.json = JsonForm(ranker)
        self.arrow = ArrowForm(ranker)
        self.infer = InferForm(ranker)

    @property
    def manifest(self) -> RankingManifest:
        """What the bundle says of itself."""
        return self.ranker.manifest


@dataclass
class Slot:
    """A place for one model: what answers in it now, or why nothing does."""

    reference: str
    current: ServedModel | None = None
    reason: str = "the model is still loading"
    stamp: Stamp | None = field(default=None, repr=False)

    def require(self) -> ServedModel:
        """Return the model.

        Raises
        ------
        NotReady
            None is loaded.
        """
        if self.current is None:
            raise NotReady(self.reason)
        return self.current


class Catalog:
    """All slots of a worker. It is empty until `load` and may be handed out before."""

    def __init__(self) -> None:
        self.draining = False
        self._reason = "the service is still starting"
        self._slots: list[Slot] = []
        self._settings: ServiceSettings | None = None
        self._metrics: RankingMetrics | None = None

    def __iter__(self) -> Iterator[ServedModel]:
        """Models that are loaded, in the order of the settings."""
        return (slot.current for slot in self._slots if slot.current is not None)

    @property
    def not_ready(self) -> str | None:
        """Why requests should go elsewhere; None when all models are warm."""
        if self.draining:
            return "shutting down"
        reasons = [slot.reason for slot in self._slots if slot.current is None]
        return "; ".join(reasons) if reasons else (None if self._slots else self._reason)

    @property
    def is_busy(self) -> bool:
        """Whether requests wait for their run."""
        return any(slot.current is not None and slot.current.queue.waiting for slot in self._slots)

    def find(self, name: str | None, version: str | None = None) -> ServedModel:
        """Return the model called `name`, or the first one.

        Raises
        ------
        NotReady
            It is not loaded, or nothing is.
        UnknownModel
            There is none of this name, or it has another version.
        """
        if not self._slots:
            raise NotReady(self._reason)
        if name is None:
            return self._slots[0].require()
        for model in self:
            if model.manifest.name == name:
                if version not in (None, model.manifest.version):
                    raise UnknownModel(f"model {name!r} has version {model.manifest.version!r} here, not {_shown(version)}")
                return model
        missing = self.not_ready
        if missing is not None and not self.draining:
            raise NotReady(missing)
        raise UnknownModel(f"no model {_shown(name)} is served here; there are {', '.join(repr(m.manifest.name) for m in self)}")

    def drain(self) -> None:
        """Say no to ``/readyz`` from now on; requests are answered as before."""
        self.draining = True

    def fail(self, reason: str) -> None:
        """Say why nothing can be loaded at all."""
        self._reason = reason
        log.error("not ready: %s", reason)

    def load(self, settings: ServiceSettings) -> None:
        """Load and warm every bundle; one that fails leaves its slot empty with the reason."""
        self._settings = settings
        self._metrics = RankingMetrics()
        self._slots = [Slot(reference) for reference in settings.bundles]
        for slot in self._slots:
            try:
                slot.stamp = stamp_of(locate(slot.reference))
                self._place(slot, self._open(slot))
            except (PilotageError, ServingError) as error:
                self._refuse(slot, error)

    def flush_metrics(self) -> None:
        """Hand on what the models' metrics have counted."""
        for model in self:
            model.metrics.flush()

    async def follow(self, every_s: float) -> None:
        """Look at the bundles again and again, and bring in those that were replaced. Never returns."""
        while True:
            await asyncio.sleep(every_s)
            for slot in self._slots:
                await self.refresh(slot)

    async def refresh(self, slot: Slot) -> None:
        """Load the slot's bundle if it was replaced since, beside the old one, and switch when it is warm.

        A bundle that cannot be loaded leaves the old version serving.
        """
        try:
            stamp = await asyncio.to_thread(lambda: stamp_of(locate(slot.reference)))
            if stamp == slot.stamp:
                return
            slot.stamp = stamp
            model = await asyncio.to_thread(self._open, slot)
            self._place(slot, model)
        except (PilotageError, ServingError) as error:
            self._refuse(slot, error)

    def _open(self, slot: Slot) -> ServedModel:
        assert self._settings is not None
        assert self._metrics is not None
        settings = self._settings
        bundle = open_ranking_bundle(locate(slot.reference))
        ranker = Ranker(
            bundle,
            threads=settings.threads_a_worker,
            max_candidates=settings.max_candidates,
            provider=settings.provider,
            arena_mib=settings.arena_mib,
        )
        largest = settings.max_candidates
        cost = ranker.warm_up([*(size for size in WARM_UP_SIZES if size < largest), largest])
        metrics = self._metrics.bind(bundle.manifest.name, bundle.manifest.version)
        queue = RunQueue(ranker.score, cost, objective_s=settings.objective_ms / 1e3, max_units=settings.max_candidates, on_run=metrics.ran)
        return ServedModel(ranker, queue, metrics)

    def _place(self, slot: Slot, model: ServedModel) -> None:
        assert self._metrics is not None
        name, version = model.manifest.name, model.manifest.version
        if any(other is not slot and other.current is not None and other.current.manifest.name == name for other in self._slots):
            raise BundleError(f"two bundles are called {name!r}; a name can be served once")
        if slot.current is not None:
            slot.current.metrics.flush()
        old, slot.current = slot.current, model  # requests of the old version hold it until they are answered
        self._metrics.loaded(name, "loaded")
        log.info(
            "ready",
            extra={
                "model": name,
                "version": version,
                "replaced": old.manifest.version if old else None,
                "bundle": str(slot.reference),
                "threads": model.ranker.session.threads,
                "run_us_by_candidates": {size: round(model.queue.cost.predict(size) * 1e6) for size in WARM_UP_SIZES},
            },
        )

    def _refuse(self, slot: Slot, error: Exception) -> None:
        slot.reason = str(error)
        if slot.current is None:
            log.error("not ready: %s", error, extra={"bundle": slot.reference})
            return
        assert self._metrics is not None
        self._metrics.loaded(slot.current.manifest.name, "refused")
        log.error(
            "the new bundle cannot be loaded, the old version goes on: %s",
            error,
            extra={"bundle": slot.reference, "version": slot.current.manifest.version},
        )


def stamp_of(bundle: Path) -> Stamp:
    """Tell whether a bundle is still the one that it was, without reading it.

    Raises
    ------
    BundleError
        There is no manifest.
    """
    file = bundle / MANIFEST_NAME
    try:
        status = file.stat()
    except OSError as error:
        raise BundleError(f"bundle {bundle}: {MANIFEST_NAME} cannot be read: {error.strerror}; is this a bundle?") from error
    return str(file.resolve()), status.st_ino, status.st_mtime_ns


def _shown(text: str | None) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:79] + "…"
