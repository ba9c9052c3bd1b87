"""How the pods of an arm are: restarts, memory, and why they are not ready."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from k8s.cluster.api import Object
from k8s.cluster.releases import CONTAINER

UNITS: Mapping[str, float] = {
    "": 1, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
"""Suffixes of Kubernetes quantities."""


def restarts(pods: Iterable[Object]) -> int:
    """Count restarts of all containers."""
    return sum(int(status.get("restartCount") or 0) for pod in pods for status in _statuses(pod))


def trouble(pods: Sequence[Object]) -> str | None:
    """Say why pods are not ready: the first thing that a container, or the scheduler, complains about."""
    for pod in pods:
        name = pod["metadata"]["name"]
        for status in _statuses(pod):
            state, last = status.get("state") or {}, status.get("lastState") or {}
            waiting, ended = state.get("waiting") or {}, last.get("terminated") or state.get("terminated") or {}
            said = [each for each in (waiting.get("reason"), ended.get("reason"), waiting.get("message")) if each]
            if said and not status.get("ready"):
                return f"{name}: " + ", ".join(said)
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition.get("type") in ("PodScheduled", "Ready") and condition.get("status") == "False" and condition.get("message"):
                return f"{name}: {condition['message']}"
    return None


def failure(pod: Object) -> str | None:
    """Say how a pod that is not restarted failed; None where it did not."""
    name = pod["metadata"]["name"]
    for status in _statuses(pod):
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return f"{name} ended with exit code {ended['exitCode']} ({ended.get('reason') or 'not told why'})"
    if (pod.get("status") or {}).get("phase") == "Failed":
        said = (pod["status"].get(key) for key in ("reason", "message"))
        return f"{name} failed: {', '.join(each for each in said if each) or 'not told why'}"
    return None


def largest_bytes(metrics: Iterable[Object]) -> int | None:
    """Memory of the largest service container, as the metrics server measured it."""
    found = [
        quantity(container["usage"]["memory"])
        for pod in metrics
        for container in pod.get("containers") or []
        if container.get("name") == CONTAINER and "memory" in (container.get("usage") or {})
    ]
    return int(max(found)) if found else None


def quantity(text: str) -> float:
    """Read a Kubernetes quantity, such as ``128Mi``."""
    parts = re.fullmatch(r"([0-9.]+(?:[eE][0-9]+)?)([A-Za-z]*)", text)
    return float(parts[1]) * UNITS.get(parts[2], 1.0) if parts else 0.0


def ready_endpoints(slices: Iterable[Object]) -> int:
    """Count pods that get requests, once each in a dual-stack Service too. A condition that is missing counts as ready, as the API says."""
    pods = {
        (endpoint.get("targetRef") or {}).get("name") or endpoint["addresses"][0]
        for each in slices
        for endpoint in each.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready") is not False and endpoint.get("addresses")
    }
    return len(pods)


def _statuses(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
