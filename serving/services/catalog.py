"""The models that a worker serves: by name, each with the version that answers now, replaced without dropping a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from serving.contract.bundle import open_bundle
from serving.contract.errors import BundleError, NotReady, PilotageError, ServingError, UnknownModel
from serving.contract.manifest import MANIFEST_NAME
from serving.monitoring.metrics import ServiceMetrics
from serving.services.loading import open_model
from serving.services.served import ServedModel
from serving.services.settings import ServiceSettings
from serving.services.state import State, open_state
from serving.services.store import locate

log = logging.getLogger("pilotage")

Stamp = tuple[str, int, int]
"""Path, inode and modification time of a manifest: what changes when a bundle is replaced."""

M = TypeVar("M", bound=ServedModel)


@dataclass
class Slot:
    """A place for one model: what answers in it now, or why nothing does."""

    reference: str
    sha256: str | None = None
    current: ServedModel | None = None
    reason: str = "the model is still loading"
    stamp: Stamp | None = field(default=None, repr=False)


class Catalog:
    """All slots of a worker. It is empty until `load` and may be handed out before.

    Attributes
    ----------
    max_upload_bytes
        Largest body of a label set.
    """

    def __init__(self) -> None:
        self.draining = False
        self._reason = "the service is still starting"
        self._slots: list[Slot] = []
        self._settings: ServiceSettings | None = None
        self._metrics: ServiceMetrics | None = None
        self._state: State | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.max_upload_bytes = 0

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
        return any(slot.current is not None and slot.current.is_busy for slot in self._slots)

    @property
    def state(self) -> State:
        """What workers share on disk.

        Raises
        ------
        NotReady
            Nothing is loaded.
        """
        if self._state is None:
            raise NotReady(self._reason)
        return self._state

    def of(self, kind: type[M]) -> list[M]:
        """Models of one family that are loaded, in the order of the settings."""
        return [model for model in self if isinstance(model, kind)]

    def find(self, kind: type[M], name: str | None = None, version: str | None = None) -> M:
        """Return the model of a family that is called `name`, or the first one.

        Raises
        ------
        NotReady
            It is not loaded, or nothing is.
        UnknownModel
            There is none of this name, or it has another version or is of another family.
        """
        if not self._slots:
            raise NotReady(self._reason)
        if name is None:
            return self._first(kind)
        for model in self:
            if model.manifest.name == name:
                if not isinstance(model, kind):
                    raise UnknownModel(f"model {name!r} is of the family {model.family}: POST /v1/models/{name}/{model.verb} asks it")
                if version not in (None, model.manifest.version):
                    raise UnknownModel(f"model {name!r} has version {model.manifest.version!r} here, not {_shown(version)}")
                return model
        missing = self.not_ready
        if missing is not None and not self.draining:
            raise NotReady(missing)
        raise UnknownModel(f"no model {_shown(name)} is served here; there are {', '.join(repr(m.manifest.name) for m in self)}")

    def _first(self, kind: type[M]) -> M:
        for slot in self._slots:
            if slot.current is None:
                raise NotReady(slot.reason)  # it may be the first of the family
            if isinstance(slot.current, kind):
                return slot.current
        raise UnknownModel(f"no model of the family {kind.family} is served here; there are {', '.join(m.manifest.name for m in self)}")

    def drain(self) -> None:
        """Say no to ``/readyz`` from now on; requests are answered as before."""
        self.draining = True

    def close(self) -> None:
        """End what models have besides the event loop's thread."""
        for model in self:
            model.close()

    def fail(self, reason: str) -> None:
        """Say why nothing can be loaded at all."""
        self._reason = reason
        log.error("not ready: %s", reason)

    def load(self, settings: ServiceSettings) -> None:
        """Load and warm every bundle; one that fails leaves its slot empty with the reason."""
        self._settings = settings
        self._metrics = ServiceMetrics()
        self._state = open_state(settings.state_dir)
        self.max_upload_bytes = settings.max_upload_bytes
        with suppress(RuntimeError):  # without a loop, as in tests, there are no requests either
            self._loop = asyncio.get_running_loop()
        self._slots = [Slot(*pair) for pair in zip(settings.bundles, settings.bundle_checksums, strict=True)]
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
        assert self._state is not None
        return open_model(open_bundle(locate(slot.reference), slot.sha256), self._settings, self._metrics, self._state, self._post)

    def _post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function on the event loop, from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(function, *arguments)

    def _place(self, slot: Slot, model: ServedModel) -> None:
        assert self._metrics is not None
        name, version = model.manifest.name, model.manifest.version
        if any(other is not slot and other.current is not None and other.current.manifest.name == name for other in self._slots):
            raise BundleError(f"two bundles are called {name!r}; a name can be served once")
        if slot.current is not None:
            slot.current.metrics.flush()
        old, slot.current = slot.current, model  # requests of the old version hold it until they are answered
        if old is not None:
            old.retire()
        self._metrics.loaded(name, "loaded")
        log.info(
            "ready",
            extra={
                "model": name,
                "version": version,
                "replaced": old.manifest.version if old else None,
                "bundle": str(slot.reference),
                **model.speed(),
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
