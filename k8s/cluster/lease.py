"""The lease as a Lease of coordination.k8s.io, by the rules of client-go's leader election."""

from __future__ import annotations

from datetime import UTC, datetime

from k8s.cluster.api import Api, Object
from k8s.cluster.belonging import Belonging
from k8s.cluster.names import Names
from k8s.errors import Conflict, NotHeld, Unavailable
from k8s.rollout.ports import Clock

LEASE_S = 30
"""Silence for so long is death. An engine renews every 5 s, so that five renewals may be lost; more would make a restart wait longer."""

TRIES = 3


class ClusterLease:
    """A lease that runs out. Clocks of two machines are never compared: it has run out when nobody renewed it for `LEASE_S`."""

    def __init__(self, api: Api, names: Names, clock: Clock, name: str) -> None:
        self._api, self._names, self._clock, self._name = api, names, clock, name
        self._path = f"{names.leases}/{names.rollout}"
        self._belonging = Belonging(api, names)
        self._seen: tuple[str, str] | None = None
        self._seen_s = 0.0

    def acquire(self) -> None:
        """Take the lease."""
        found = self._api.get(self._path)
        if found is None:
            self._create()
            return
        spec = found.get("spec") or {}
        holder, renewed = spec.get("holderIdentity") or "", str(spec.get("renewTime"))
        if holder not in ("", self._name):
            now_s = self._clock.now_s()
            if self._seen != (holder, renewed):
                self._seen, self._seen_s = (holder, renewed), now_s
            left_s = self._seen_s + float(spec.get("leaseDurationSeconds") or LEASE_S) - now_s
            if left_s > 0:
                raise NotHeld(f"engine {holder} is at work on {self._names.name}; if it is dead, its lease runs out in {left_s:.0f} s")
        try:
            found["metadata"] |= self._belonging.metadata
            self._write(found, self._name, taken=holder != self._name)
        except Conflict as error:
            raise NotHeld(f"another engine took {self._names.rollout} at the same moment") from error

    def renew(self) -> None:
        """Keep it."""
        for _ in range(TRIES):
            found = self._api.get(self._path)
            if found is None:  # somebody deleted it; whoever takes it first has it
                self._create()
                return
            holder = (found.get("spec") or {}).get("holderIdentity")
            if holder != self._name:
                raise NotHeld(f"engine {holder or 'nobody'} holds {self._names.rollout} now")
            try:
                self._write(found, self._name, taken=False)
                return
            except Conflict:
                continue
        raise Unavailable(f"{self._names.rollout} is written by others all the time")

    def release(self) -> None:
        """Give it back, if it is held."""
        found = self._api.get(self._path)
        if found is not None and (found.get("spec") or {}).get("holderIdentity") == self._name:
            self._write(found, "", taken=False)

    def _create(self) -> None:
        now = self._now()
        spec = {"holderIdentity": self._name, "leaseDurationSeconds": LEASE_S, "acquireTime": now, "renewTime": now, "leaseTransitions": 0}
        metadata = {"name": self._names.rollout, "namespace": self._names.namespace} | self._belonging.metadata
        try:
            self._api.create(
                self._names.leases, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
            )
        except Conflict as error:
            raise NotHeld(f"another engine took {self._names.rollout} at the same moment") from error

    def _write(self, found: Object, holder: str, *, taken: bool) -> None:
        now = self._now()
        spec = dict(found.get("spec") or {}) | {"holderIdentity": holder, "leaseDurationSeconds": LEASE_S, "renewTime": now}
        if taken:
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        self._api.replace(self._path, {**found, "spec": spec})

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock.now_s(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
