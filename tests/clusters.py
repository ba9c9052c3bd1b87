"""An installation of the chart in a stand-in for the API server, with controllers that do at once what real ones do in time."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from kubernetes import client

from k8s.cluster.api import Api
from k8s.cluster.fleet import DeploymentFleet
from k8s.cluster.journal import ConfigMapJournal
from k8s.cluster.lease import ClusterLease
from k8s.cluster.load_job import JOB_LABEL
from k8s.cluster.names import Names
from k8s.cluster.notices import EventNotice
from k8s.rollout.arms import Arm
from k8s.rollout.patience import Patience
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Step
from k8s.rollout.ports import Look
from k8s.rollout.start import begin, held
from k8s.rollout.world import World
from k8s.routing.gateway import GatewayRouter
from loadtests.judge import Arm as Requests
from loadtests.judge import Batch
from tests.api_server import ApiServer, api_server
from tests.charts.rendering import CHART, NAMESPACE, render
from tests.rollouts import START_S, plan

NAMES = Names(NAMESPACE, "ranker-pilotage")
WRITES = ("POST", "PUT", "PATCH", "DELETE")
PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments/{}",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps/{}",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers/{}",
}


class Cluster:
    """An installation.

    Attributes
    ----------
    broken
        Names of Deployments whose pods never get ready.
    """

    paths = PATHS

    def __init__(self, server: ApiServer, values: Mapping[str, Any] | None = None) -> None:
        self.server, self.broken = server, set[str]()
        for each in render(dict(values or rollout_values())).objects:
            if each["kind"] in self.paths and "hook" not in json.dumps(each["metadata"].get("annotations") or {}):
                body = copy.deepcopy(each)
                body["metadata"]["owners"] = {}
                server.put(self.paths[each["kind"]].format(NAMESPACE, each["metadata"]["name"]), body)
        self.stable["spec"]["replicas"] = 3  # as the autoscaler has left it
        server.changed = self.control
        self.control()

    @property
    def stable(self) -> dict[str, Any]:
        return self.server.objects[NAMES.deployment("stable")]

    def image(self, arm: Arm) -> str:
        return str(self.server.objects[NAMES.deployment(arm)]["spec"]["template"]["spec"]["containers"][0]["image"])

    def own(self, manager: str) -> None:
        """Let a manager own stable's image, as if it had applied it."""
        self.stable["metadata"]["owners"] = {"spec.template.spec.containers[service].image": manager}

    def control(self) -> None:
        """Do what the controllers of Deployments, EndpointSlices and gateways do."""
        with self.server.memory.lock:  # nobody sees a slice that is being made
            self._control()

    def _control(self) -> None:
        objects = self.server.objects
        for path in [path for path in objects if ("/pods/" in path and not _is_of_job(objects[path])) or "/endpointslices/" in path]:
            del objects[path]
        for path in [path for path in objects if "/deployments/" in path]:
            found = objects[path]
            name, count = found["metadata"]["name"], found["spec"].get("replicas", 1)
            ready = 0 if name in self.broken else count
            counts = {"replicas": count, "updatedReplicas": count, "availableReplicas": ready}
            found["status"] = {"observedGeneration": found["metadata"].get("generation", 1), **counts}
            labels = found["spec"]["selector"]["matchLabels"]
            for number in range(count):
                pod = f"{name}-{number}"
                status: dict[str, Any] = {"restartCount": 0, "ready": number < ready}
                if number >= ready:
                    status |= {"state": {"waiting": {"reason": "ImagePullBackOff"}}}
                objects[f"{NAMES.pods}/{pod}"] = {"metadata": {"name": pod, "labels": labels}, "status": {"containerStatuses": [status]}}
            objects[f"{NAMES.endpoint_slices}/{name}-x"] = {
                "metadata": {"name": f"{name}-x", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": name}},
                **self.endpoints(name, count, ready),
            }
        self.answer_routes()

    def endpoints(self, name: str, count: int, ready: int) -> dict[str, Any]:
        """Where the pods of a Deployment are."""
        return {"endpoints": [{"addresses": [f"10.0.0.{number}"], "conditions": {"ready": number < ready}} for number in range(count)]}

    def answer_routes(self) -> None:
        """Accept every route at once."""
        objects = self.server.objects
        for path in [path for path in objects if "/httproutes/" in path]:
            seen = {"observedGeneration": objects[path]["metadata"].get("generation", 1), "status": "True"}
            conditions = [{"type": kind, **seen} for kind in ("Accepted", "ResolvedRefs")]
            objects[path]["status"] = {"parents": [{"controllerName": "example.com/gateway", "conditions": conditions}]}


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self._now_s = START_S

    def now_s(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds


class Load:
    """Requests that a load test would have sent."""

    def __init__(self, clock: Clock, slow: float) -> None:
        self._clock, self._slow, self._arms = clock, slow, tuple[Arm, ...]()

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        self._arms = tuple(arms)

    def look(self) -> dict[Arm, Look]:
        *canaries, beside = (self._requests(arm) for arm in self._arms)
        return {arm: Look(Batch(canary=canary, baseline=beside)) for arm, canary in zip(self._arms, canaries, strict=False)}

    def end(self) -> None:
        return None

    def _requests(self, arm: Arm) -> Requests:
        rng = np.random.default_rng([int(self._clock.now_s()), len(arm)])
        latency_ms = rng.lognormal(1.0, 0.4, 400) * (self._slow if arm == "canary" else 1.0)
        return Requests(self._clock.now_s() + np.sort(rng.random(400)), latency_ms, np.ones(400, dtype=bool))


def _is_of_job(pod: dict[str, Any]) -> bool:
    return JOB_LABEL in (pod["metadata"].get("labels") or {})


def api_of(server: ApiServer) -> Api:
    configuration = client.Configuration()
    configuration.host = server.url
    return Api(client.ApiClient(configuration))


def roll_out_in(server: ApiServer, asked: Plan | None = None, *, slow: float = 1.0, name: str = "engine", clock: Any = None) -> Any:
    """Roll the canaries of the chart's values out, through HTTP; the record."""
    api, clock = api_of(server), clock or Clock()
    fleet = DeploymentFleet(api, NAMES)
    journal, lease, load = ConfigMapJournal(api, NAMES), ClusterLease(api, NAMES, clock, name), Load(clock, slow)
    world = World(GatewayRouter(api, NAMES), fleet, {"synthetic": load}, journal, lease, clock, notices=[EventNotice(api, NAMES)])
    with held(lease, clock):
        releases = Patience(clock, 30).call(fleet.releases)
        return begin(world, NAMES.name, asked or plan(), releases, name).run()


@contextmanager
def cluster(values: Mapping[str, Any] | None = None) -> Iterator[Cluster]:
    with api_server() as server:
        yield Cluster(server, values)


def rollout_values() -> dict[str, Any]:
    """The chart's example for rollouts, with a scaler."""
    import yaml

    example = dict(yaml.safe_load((CHART / "ci" / "rollout-values.yaml").read_text()))
    return example | {"autoscaling": {"hpa": {"enabled": True}, "minReplicas": 2}}


def is_action(method: str, path: str) -> bool:
    """Whether a request changes an arm, the route or a scaler."""
    return method in WRITES and any(kind in path for kind in ("/deployments/", "/httproutes/", "/horizontalpodautoscalers/"))


def kill_at(here: Cluster, point: int, asked: Plan, *, slow: float) -> None:
    """Roll out in a process of its own, kill it after its action of this number, and let its lease run out."""
    count = 0
    begin_read, begin_write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.read(begin_read, 1)  # until the parent knows whom to kill
            roll_out_in(here.server, asked, slow=slow)
        finally:
            os._exit(1)

    def kill(method: str, path: str) -> None:
        nonlocal count
        count += is_action(method, path)
        if count == point and is_action(method, path):
            os.kill(child, signal.SIGKILL)

    here.server.after = kill
    os.write(begin_write, b"x")
    os.close(begin_read)
    os.close(begin_write)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    here.server.after = lambda method, path: None
    here.server.objects[f"{NAMES.leases}/{NAMES.rollout}"]["spec"]["holderIdentity"] = ""
