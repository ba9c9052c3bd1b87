"""To which installation of the chart an object of the rollout belongs: to that whose stable Deployment owns it, by uid.

What `helm uninstall` does not know of, the garbage collector deletes with its owner; until it has run, the same names may stand for
another installation already.
"""

from __future__ import annotations

from k8s.cluster.api import Api, Object
from k8s.cluster.names import Names


def owners(found: Object) -> list[Object]:
    """Return what ``ownerReferences`` of another object say, for it to be deleted when `found` is."""
    return [{"apiVersion": found["apiVersion"], "kind": found["kind"], "name": found["metadata"]["name"], "uid": found["metadata"]["uid"]}]


class Belonging:
    """The installation that is there when it is asked for first; what is written belongs to this one, whatever comes later."""

    def __init__(self, api: Api, names: Names) -> None:
        self._api, self._names = api, names
        self._owners: list[Object] = []

    @property
    def metadata(self) -> Object:
        """What the metadata of an object says; nothing where there is no stable Deployment. Read once."""
        if not self._owners:
            self._owners = self._now()
        return {"ownerReferences": self._owners} if self._owners else {}

    def is_gone(self, found: Object) -> bool:
        """Whether an object is one of an installation that was deleted, and installed anew since. Read each time."""
        of = {each.get("uid") for each in found["metadata"].get("ownerReferences") or []}
        now = self._now() if of else []
        self._owners = self._owners or now
        return bool(now) and now[0]["uid"] not in of

    def _now(self) -> list[Object]:
        found = self._api.get(self._names.deployment("stable"))
        return [] if found is None else owners(found)
