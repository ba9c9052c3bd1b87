"""Names of the objects that a rollout reads and writes, as in the chart's README."""

from __future__ import annotations

from dataclasses import dataclass

from k8s.rollout.arms import Arm


@dataclass(frozen=True)
class Names:
    """Objects of one installation of the chart.

    Attributes
    ----------
    name
        The chart's full name, such as ``my-ranker-pilotage``.
    """

    namespace: str
    name: str

    def _path(self, group: str, kind: str, name: str = "") -> str:
        root = "/api/v1" if group == "v1" else f"/apis/{group}"
        return f"{root}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def arm(self, arm: Arm) -> str:
        """Name of an arm's Deployment, and of its Service."""
        return f"{self.name}-{arm}"

    @property
    def rollout(self) -> str:
        """Name of the route, the lease, and the ConfigMap of what the rollout makes."""
        return f"{self.name}-rollout"

    @property
    def journal(self) -> str:
        """Name of the ConfigMap of the journal."""
        return f"{self.name}-rollout-journal"

    def deployment(self, arm: Arm) -> str:
        """Path of an arm's Deployment."""
        return self._path("apps/v1", "deployments", self.arm(arm))

    def config_map(self, name: str) -> str:
        """Path of a ConfigMap."""
        return self._path("v1", "configmaps", name)

    @property
    def config_maps(self) -> str:
        """Path of all ConfigMaps."""
        return self._path("v1", "configmaps")

    @property
    def route(self) -> str:
        """Path of the rollout's HTTPRoute."""
        return self._path("gateway.networking.k8s.io/v1", "httproutes", self.rollout)

    @property
    def chart_route(self) -> str:
        """Path of the chart's own HTTPRoute."""
        return self._path("gateway.networking.k8s.io/v1", "httproutes", self.name)

    @property
    def leases(self) -> str:
        """Path of all leases."""
        return self._path("coordination.k8s.io/v1", "leases")

    @property
    def requests(self) -> str:
        """Name of the ConfigMap of recorded requests."""
        return f"{self.name}-rollout-requests"

    @property
    def jobs(self) -> str:
        """Path of all Jobs."""
        return self._path("batch/v1", "jobs")

    @property
    def pods(self) -> str:
        """Path of all pods."""
        return self._path("v1", "pods")

    @property
    def pod_metrics(self) -> str:
        """Path of what the metrics server knows of all pods."""
        return self._path("metrics.k8s.io/v1beta1", "pods")

    @property
    def endpoint_slices(self) -> str:
        """Path of all EndpointSlices."""
        return self._path("discovery.k8s.io/v1", "endpointslices")

    @property
    def events(self) -> str:
        """Path of all Events."""
        return self._path("v1", "events")

    @property
    def scalers(self) -> tuple[tuple[str, str], ...]:
        """Paths of what may scale stable, each with the field that bounds it from below. KEDA writes the HPA, so it goes first."""
        return (
            (self._path("keda.sh/v1alpha1", "scaledobjects", self.name), "minReplicaCount"),
            (self._path("autoscaling/v2", "horizontalpodautoscalers", self.name), "minReplicas"),
        )
