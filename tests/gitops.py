"""A GitOps controller: renders the chart with a rollout's committed values file after its own, and applies that to a stand-in for the API server."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from k8s.cluster.api import Api, _error_of
from k8s.cluster.journal import ConfigMapJournal
from k8s.cluster.lease import ClusterLease
from k8s.cluster.values import ValuesFile
from k8s.cluster.values_fleet import ValuesFleet
from k8s.rollout.patience import Patience
from k8s.rollout.plan import Plan
from k8s.rollout.start import begin, held
from k8s.rollout.world import World
from k8s.routing.by_values import ValuesRouter
from tests.api_server import ApiServer, Refuse
from tests.charts.rendering import CHART, NAMESPACE, Object, Values, render
from tests.clusters import NAMES, PATHS, Clock, Cluster, Load, api_of
from tests.rollouts import plan

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes/{}"

RENDERED: dict[str, tuple[Object, ...]] = {}
"""By values: rendering takes some tenths of a second, and rollouts that are killed have the same values over and over."""


class Synced(Cluster):
    """An installation whose only writer is the controller.

    Attributes
    ----------
    committed
        What the controller reads; the rollout's command copies its file there.
    every_s
        Seconds between two looks of the controller.
    """

    paths = PATHS | {"HTTPRoute": ROUTES}

    def __init__(self, server: ApiServer, folder: Path, own: Values | None = None, every_s: float = 0.0) -> None:
        self.file, self.committed, self.every_s, self._looked_s = folder / "rollout.yaml", folder / "committed.yaml", every_s, 0.0
        self.own_values = own or gitops_values()
        self._made: set[str] = set()
        self.syncs = 0
        super().__init__(server, self.own_values)
        self.sync()

    @property
    def values(self) -> Values:
        """What the rollout has committed."""
        return dict(yaml.safe_load(self.committed.read_text())) if self.committed.exists() else {}

    @property
    def route(self) -> Object:
        return self.server.objects[NAMES.chart_route]

    def look(self, now_s: float) -> None:
        """Synchronize, when it is time."""
        if now_s - self._looked_s >= self.every_s:
            self._looked_s = now_s
            self.sync()

    def sync(self) -> None:
        """Apply what the values say, delete what they say no longer."""
        self.syncs += 1
        made: set[str] = set()
        for each in rendered(merged(self.own_values, self.values)):
            if each["kind"] in self.paths and "hook" not in json.dumps(each["metadata"].get("annotations") or {}):
                path = self.paths[each["kind"]].format(NAMESPACE, each["metadata"]["name"])
                made.add(path)
                self._apply(path, each)
        for path in self._made - made:
            del self.server.objects[path]
        self._made = made
        self.control()

    def _apply(self, path: str, body: Object) -> None:
        old = self.server.objects.get(path)
        new = copy.deepcopy(body)
        if old is not None:
            new |= {key: old[key] for key in ("status",) if key in old}
            if "replicas" in old.get("spec", {}):
                new["spec"].setdefault("replicas", old["spec"]["replicas"])  # the scaler's
            if all(old.get(key) == new.get(key) for key in ("spec", "data")):
                return
            new["metadata"]["uid"] = old["metadata"]["uid"]
        new["metadata"].setdefault("owners", {})
        self.server.put(path, new)


class Direct(Api):
    """The API without HTTP, for tests that roll out a hundred times."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        accept: str = "application/json",
        content: str = "application/json",
    ) -> Object:
        try:
            return self._server.answer(
                method, path, dict(query or {}), json.dumps(body).encode() if body else b"", {"Content-Type": content}
            )
        except Refuse as error:
            raise _error_of(method, path, error.status, None, json.dumps({"message": error.message}).encode()) from error


class Time(Clock):
    """A clock by which the controller looks."""

    def __init__(self, here: Synced, begin_s: float = 0.0) -> None:
        super().__init__()
        self._here = here
        self.sleep(begin_s)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._here.look(self.now_s())


def roll_out_by_values(here: Synced, asked: Plan | None = None, *, slow: float = 1.0, **changes: Any) -> Any:
    """Roll the canary of the values out, by values; the record.

    Parameters
    ----------
    changes
        ``api``, ``clock``, ``command``, ``name`` and ``journal`` in place of what they are by default.
    """
    api, clock = changes.get("api") or api_of(here.server), changes.get("clock") or Time(here)
    name = changes.get("name", "engine")
    file = changes.get("file") or ValuesFile(here.file, f"cp {here.file} {here.committed}", marked=True)
    fleet, router = ValuesFleet(api, NAMES, file), ValuesRouter(api, NAMES, file)
    lease = ClusterLease(api, NAMES, clock, name)
    world = World(router, fleet, {"synthetic": Load(clock, slow)}, changes.get("journal") or ConfigMapJournal(api, NAMES), lease, clock)
    with held(lease, clock):
        (release,) = Patience(clock, 30).call(fleet.releases)
        fleet.recognise(release)
        return begin(world, NAMES.name, asked or plan(), [release], name).run()


def rendered(values: Values) -> tuple[Object, ...]:
    key = json.dumps(values, sort_keys=True)
    if key not in RENDERED:
        RENDERED[key] = render(values).objects
    return RENDERED[key]


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """Values with others laid over them, as Helm does with each further `-f`."""
    whole = dict(values)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(whole.get(key), dict)
        whole[key] = merged(whole[key], value) if both else value
    return whole


def gitops_values() -> Values:
    """The chart's example."""
    return dict(yaml.safe_load((CHART / "ci" / "gitops-values.yaml").read_text()))
