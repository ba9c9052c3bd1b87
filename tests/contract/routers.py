"""Routers that the conformance suite is run on: each is made ready by a context that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from k8s.rollout.ports import Router

Remake = Callable[[], Router]
"""Makes a new object for the same router, as an engine does that was killed and started again."""


@contextmanager
def local_envoy(folder: Path) -> Iterator[Remake]:
    pytest.importorskip("envoy", reason="Envoy comes with pilotage[local]")
    from k8s.local.processes import Processes, free_port
    from k8s.local.proxy import ensure_envoy
    from k8s.routing.envoy import EnvoyRouter

    processes = Processes(folder / "processes")
    try:
        ensure_envoy(folder / "envoy", processes, free_port())
        yield lambda: EnvoyRouter(folder / "envoy")
    finally:
        processes.end_all()


@contextmanager
def gateway(folder: Path) -> Iterator[Remake]:
    pytest.importorskip("kmock", reason="the stand-in for an API server is for development alone")
    from k8s.routing.gateway import GatewayRouter
    from tests.clusters import NAMES, api_of, cluster

    with cluster() as here:
        yield lambda: GatewayRouter(api_of(here.server), NAMES)


@contextmanager
def values(folder: Path) -> Iterator[Remake]:
    pytest.importorskip("kmock", reason="the stand-in for an API server is for development alone")
    from k8s.cluster.values import ValuesFile
    from k8s.cluster.values_fleet import ValuesFleet
    from k8s.routing.by_values import ValuesRouter
    from tests.api_server import ApiServer
    from tests.clusters import NAMES
    from tests.gitops import Direct, Synced

    here = Synced(ApiServer(), folder)

    class Applied(ValuesFile):
        """Whose command makes the GitOps controller take the change at once."""

        def _run(self) -> None:
            here.committed.write_bytes(here.file.read_bytes())
            here.sync()

    def remake() -> Router:
        return ValuesRouter(Direct(here.server), NAMES, Applied(here.file, marked=True))

    fleet = ValuesFleet(Direct(here.server), NAMES, Applied(here.file, marked=True))
    (release,) = fleet.releases()
    fleet.ensure("baseline", release, 1)
    fleet.ensure("canary", release, 1)
    yield remake


class _Patient:
    """A router that is asked again while it is not available, as the engine does."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def __getattr__(self, name: str) -> Any:
        from tests.gateways import until

        return lambda *arguments: until(lambda: getattr(self._router, name)(*arguments))


@contextmanager
def real(folder: Path) -> Iterator[Remake]:
    pytest.importorskip("kmock", reason="the stand-in for an API server is for development alone")
    from tests.gateways import real_gateway

    with real_gateway(folder) as ground:
        yield lambda: _Patient(ground.router)


ROUTERS: dict[str, Callable[[Path], AbstractContextManager[Remake]]] = {
    "envoy": local_envoy,
    "gateway": gateway,
    "values": values,
    "traefik": real,
}
