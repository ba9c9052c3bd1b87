"""What a running Envoy says of itself, by its admin interface on loopback."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k8s.errors import Unavailable
from k8s.rollout.arms import Arm
from k8s.routing.envoy_tables import LISTENER, TABLE, Cluster

TIMEOUT_S = 2.0
"""The admin interface answers from Envoy's main thread, which carries no requests: milliseconds."""

ADMIN_FILE = "admin.address"
"""Envoy writes there where its admin interface listens."""


@dataclass(frozen=True)
class Table:
    """The route table in force.

    Attributes
    ----------
    version
        Version of the file that it came from; None: none was taken yet.
    """

    version: str | None
    content: Mapping[str, Any]


class Admin:
    """The admin interface of the Envoy whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def table(self) -> Table:
        """Return the route table that requests meet."""
        dump = self._json("/config_dump?resource=dynamic_route_configs")
        for entry in dump.get("configs", []):
            content = entry.get("route_config", {})
            if content.get("name", TABLE) == TABLE:
                return Table(entry.get("version_info"), content)
        return Table(None, {})

    def hosts(self, arm: Arm) -> dict[int, bool]:
        """Return the ports of an arm, and whether each is healthy: it has passed its last checks and gets requests."""
        for cluster in self._json("/clusters?format=json")["cluster_statuses"]:
            if cluster["name"] == arm:
                return {_port(host): _healthy(host["health_status"]) for host in cluster.get("host_statuses", [])}
        return {}

    def endpoints_version(self, cluster: Cluster) -> str | None:
        """Version of the endpoints file in force."""
        return self._stat(f"cluster.{cluster}.version_text").strip('"') or None

    def rejected_tables(self) -> int:
        """How many route tables Envoy has refused since it started."""
        return int(self._stat(f"http.{LISTENER}.rds.{TABLE}.update_rejected") or 0)

    def is_ready(self) -> bool:
        """Whether Envoy has its configuration and takes requests."""
        try:
            return self._get("/ready").strip() == b"LIVE"
        except Unavailable:
            return False

    def _stat(self, name: str) -> str:
        for line in self._get(f"/stats?filter=^{name}$").decode().splitlines():
            if line.startswith(f"{name}: "):
                return line.removeprefix(f"{name}: ")
        return ""

    def _json(self, path: str) -> Any:
        return json.loads(self._get(path))

    def _get(self, path: str) -> bytes:
        """Ask.

        Raises
        ------
        Unavailable
            Envoy does not run, or does not answer in time.
        """
        try:
            host, _, port = (self._folder / ADMIN_FILE).read_text(encoding="ascii").strip().rpartition(":")
            connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(
                f"Envoy's admin interface ({self._folder / ADMIN_FILE}) does not answer: {error!r}; is Envoy running?"
            ) from error
        if answer.status != 200:
            raise Unavailable(f"Envoy's admin interface answered {path} with {answer.status}: {content[:200].decode(errors='replace')}")
        return content


def _port(host: Mapping[str, Any]) -> int:
    return int(host["address"]["socket_address"]["port_value"])


def _healthy(status: Mapping[str, Any]) -> bool:
    """Envoy names what is wrong with a host; ``eds_health_status`` is what we said, not what it found."""
    return not any(found for name, found in status.items() if name.startswith(("failed_", "pending_")))
