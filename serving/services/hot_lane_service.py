"""The class of BentoML service whose models are asked on the short way of `hot_lane`.

Light on purpose: BentoML's supervisor reads the service too, and waits with starting workers until it has. What only they need is imported
when they need it; with the whole of it here, every cold start took a third of a second longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bentoml

if TYPE_CHECKING:
    from serving.services.worker import Worker


class HotLaneService(bentoml.Service[Any]):  # type: ignore[misc]  # bentoml loads its names lazily, mypy sees Any
    """For ``@bentoml.service(service_class=…)``: what the front of the decorated class's ``worker()`` finds goes the short way."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """Wrap BentoML's application, and have the server that is about to be configured speak `LaneProtocol`.

        BentoML leaves uvicorn's choice of a protocol at ``auto`` and offers no setting for it.
        """
        from uvicorn.config import HTTP_PROTOCOLS

        from serving.services.hot_lane import HotLane
        from serving.services.lane_protocol import lane_to

        worker: Worker = self.inner.worker()
        mounted = (worker.application, "/", "pilotage")
        if mounted not in self.mount_apps:
            self.mount_apps.append(mounted)
        HTTP_PROTOCOLS["auto"] = lane_to(worker.front)  # type: ignore[assignment]  # a class is taken as well as its name
        return HotLane(super().to_asgi(is_main=is_main), worker.application, worker.front)
