"""Weights and endpoints of a local Envoy, by files that it watches.

The files are what is wanted and survive Envoy and us; Envoy's admin interface says what is in force. A change is done when both agree,
which took 3 to 10 ms. Its worker threads follow within their next turn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from k8s.errors import Refused, Unavailable
from k8s.rollout.arms import ARMS, Arm, Weights
from k8s.rollout.plan_tables import Copied
from k8s.routing.envoy_admin import Admin
from k8s.routing.envoy_tables import ENGINE, ROUTES_FILE, Cluster, Split, endpoints, endpoints_file, routes, split_of
from serving.contract.files import write_bytes

IN_FORCE_LIMIT_S = 5.0
"""Files were in force within 10 ms; a machine that has other work gets five hundred times that."""

POLL_S = 0.005


class EnvoyRouter:
    """Sets weights of a local Envoy; a `Router`.

    Parameters
    ----------
    folder
        Where its files are; `prepare` makes those that are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin = Admin(folder)

    def prepare(self) -> None:
        """Write the files that Envoy must find when it starts and that are not there yet: all traffic to stable, which is nowhere."""
        if not (self.folder / ROUTES_FILE).exists():
            self._put(ROUTES_FILE, routes(Split()))
        for name in (*ARMS, ENGINE):
            if not (self.folder / endpoints_file(name)).exists():
                self._put(endpoints_file(name), endpoints(name, ()))

    def read(self) -> Weights:
        """Weights in force, as Envoy says.

        Raises
        ------
        Unavailable
            Envoy does not answer.
        """
        return self.split().weights

    def split(self) -> Split:
        """Weights, mirroring and stickiness in force."""
        return split_of(self.admin.table().content)

    def write(self, weights: Weights) -> None:
        """Set all weights in one step; return when they are in force.

        Raises
        ------
        Unavailable
            Envoy does not answer, or took the file not in time.
        Refused
            Envoy rejects it.
        """
        self._change(replace(self._wanted(), weights=weights))

    def mirror(self, pct: int, to: Copied = "canary") -> None:
        """Copy this share of live requests and drop the answers; raises as `write` does."""
        self._change(replace(self._wanted(), mirror_pct=pct, mirror_to=to))

    def check_mirror(self, pct: int) -> None:
        """Envoy copies any share."""

    def keeps_users(self) -> bool:
        """Whether users are told a cookie."""
        return self._wanted().sticky

    def withdraw(self) -> None:
        """Raise `Refused`: there is no other table below this one."""
        raise Refused(f"Envoy takes no weights, and there is no other way to stable; its log in {self.folder} says why")

    def rest(self) -> None:
        """Nothing: a route table without a rollout looks as one with all traffic on stable."""

    def stick(self, sticky: bool) -> None:
        """Keep users with their arm, by a cookie, or do not; raises as `write` does."""
        self._change(replace(self._wanted(), sticky=sticky))

    def ports(self, cluster: Cluster) -> list[int]:
        """Ports that an arm is wanted to have, or where copies go."""
        file = self._read(endpoints_file(cluster))
        try:
            hosts = file["resources"][0]["endpoints"][0]["lb_endpoints"]
            return [int(host["endpoint"]["address"]["socket_address"]["port_value"]) for host in hosts]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Refused(f"{self.folder / endpoints_file(cluster)} is not a file of ours ({error!r}): let nobody else write it") from error

    def point(self, cluster: Cluster, ports: Sequence[int]) -> None:
        """Send an arm's requests, or copies, to these ports of loopback; return when no other gets new ones. Raises as `write` does."""
        document = endpoints(cluster, ports)
        self._put(endpoints_file(cluster), document)
        _until(
            lambda: self.admin.endpoints_version(cluster) == document["version_info"],
            f"Envoy did not take {self.folder / endpoints_file(cluster)} within {IN_FORCE_LIMIT_S:.0f} s; see its log beside it",
        )

    def healthy(self, arm: Arm) -> set[int]:
        """Ports of an arm that have passed their checks and get requests."""
        return {port for port, healthy in self.admin.hosts(arm).items() if healthy}

    def _change(self, split: Split) -> None:
        document, before = routes(split), self._read(ROUTES_FILE)
        version = document["version_info"]
        if self.admin.table().version == version == before.get("version_info"):
            return
        rejected = self.admin.rejected_tables()
        self._put(ROUTES_FILE, document)

        def taken() -> bool:
            if self.admin.rejected_tables() > rejected:
                self._put(ROUTES_FILE, before)  # an Envoy that starts anew must find what it takes
                raise Refused(f"Envoy rejects the route table for {split.weights}; its log in {self.folder} says why")
            return bool(self.admin.table().version == version)

        _until(taken, f"Envoy did not take {self.folder / ROUTES_FILE} within {IN_FORCE_LIMIT_S:.0f} s; see its log beside it")

    def _wanted(self) -> Split:
        """What the file says, which is also what an Envoy that starts now would do."""
        try:
            return split_of(self._read(ROUTES_FILE)["resources"][0])
        except (KeyError, IndexError) as error:
            raise Refused(f"{self.folder / ROUTES_FILE} is not a file of ours ({error!r}): let nobody else write it") from error

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError) as error:
            raise Refused(f"{self.folder / name} cannot be read: {error}") from error

    def _put(self, name: str, document: dict[str, Any]) -> None:
        write_bytes(self.folder / name, json.dumps(document, indent=1).encode())


def _until(done: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + IN_FORCE_LIMIT_S
    while not done():
        if time.monotonic() > deadline:
            raise Unavailable(message)
        time.sleep(POLL_S)
