"""Weights by Gateway API: an HTTPRoute of the rollout's own, over the chart's, for as long as the rollout lasts.

The chart's route is never touched: its rules are one field to server-side apply, and Helm's. Where this route is deleted, by whomever, all
requests go to stable.
"""

from __future__ import annotations

import json
import secrets

from k8s.cluster.api import Api, Object
from k8s.cluster.belonging import owners
from k8s.cluster.names import Names
from k8s.errors import Refused
from k8s.rollout.arms import Weights
from k8s.rollout.plan_tables import Copied
from k8s.routing.features import check_mirror
from k8s.routing.shares import MIRROR, arm_of, mirrors, require_in_force, weights_of

COOKIES, OWN = "pilotage.dev/cookies", "{rollout}"
"""Annotation of the route, and what stands for it in the chart's: part of the cookies' value, new with each rollout, so that users of an
earlier one, whose cookies still hold, are shared out by weight again."""

REMEDY = "; delete it, and all requests go to stable"


class GatewayRouter:
    """Writes the rollout's route as the chart prepared it, with weights and the mirror of the moment."""

    def __init__(self, api: Api, names: Names) -> None:
        self._api, self._names = api, names

    def read(self) -> Weights:
        """Weights of the route; where there is none, everything is stable's."""
        found = self._api.get(self._names.route)
        return Weights() if found is None else weights_of(found, self._names, REMEDY)

    def write(self, weights: Weights) -> None:
        """Set all weights in one write; done when every gateway has accepted it. Traefik takes it up to 2 s later."""
        found = self._api.get(self._names.route)
        self._apply(found, weights, [] if found is None else mirrors(found))

    def mirror(self, pct: int, to: Copied = "canary") -> None:
        """Copy a share of the requests that go by weight."""
        if not 0 <= pct <= 100:
            raise Refused(f"{pct} % of the requests cannot be mirrored: give 0 to 100")
        found = self._api.get(self._names.route)
        # All of them is what a gateway does that knows no shares.
        share = {} if pct == 100 else {"percent": pct}
        mirror = {"type": MIRROR, "requestMirror": {"backendRef": self._backend(to), **share}}
        self._apply(found, Weights() if found is None else weights_of(found, self._names, REMEDY), [mirror] if pct else [])

    def check_mirror(self, pct: int) -> str | None:
        """Ask the classes of the route's gateways whether they can copy requests; see `k8s.routing.features`."""
        return check_mirror(self._api, self._names.namespace, self._made()["spec"].get("parentRefs") or [], pct)

    def keeps_users(self) -> bool:
        """Whether the chart's route goes by cookies."""
        return any(_by_cookie(rule) for rule in self._made()["spec"]["rules"])

    def withdraw(self) -> None:
        """Delete the route, which no gateway takes as it is: the chart's own gets everything again."""
        self._api.delete(self._names.route)

    def rest(self) -> None:
        """Delete the route, which is not needed any more."""
        self._api.delete(self._names.route)

    def _backend(self, to: Copied) -> Object:
        """Who gets copies: the canary's Service, or that of the chart's Job, in which the engine is."""
        made = self._made()
        canary = next(ref for ref in made["spec"]["rules"][-1]["backendRefs"] if arm_of(ref, self._names, made) == "canary")
        known = {key: canary[key] for key in ("group", "kind", "name", "port") if key in canary}
        return known if to == "canary" else known | {"name": self._names.rollout}

    def _apply(self, found: Object | None, weights: Weights, copies: list[Object]) -> None:
        own = ((found or {}).get("metadata", {}).get("annotations") or {}).get(COOKIES) or secrets.token_hex(3)
        body = self._made(own)
        body["metadata"]["annotations"] = {COOKIES: own}
        if found is not None:  # a write that was under way when another engine took over comes too late
            body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        stable = self._api.get(self._names.deployment("stable"))
        if stable is not None:  # what is left over the next installation would send its requests to arms that are no more
            body["metadata"]["ownerReferences"] = owners(stable)
        # A user stays with an arm as long as it has weight; one whose arm has lost it goes by weight like everybody.
        body["spec"]["rules"] = [
            each for each in body["spec"]["rules"] if not _by_cookie(each) or weights.of(arm_of(each["backendRefs"][0], self._names, body))
        ]
        rule = body["spec"]["rules"][-1]
        for ref in rule["backendRefs"]:
            ref["weight"] = weights.of(arm_of(ref, self._names, body))
        if sum(ref["weight"] for ref in rule["backendRefs"]) != 100:
            arms = ", ".join(arm_of(ref, self._names, body) for ref in rule["backendRefs"])
            raise Refused(f"{weights}: the chart has prepared {arms} alone; further canaries are rollout.variants of its values")
        filters = [*(each for each in rule.get("filters") or [] if each.get("type") != MIRROR), *copies]
        rule.pop("filters", None)
        if filters:
            rule["filters"] = filters
        require_in_force(self._api.apply(self._names.route, body, force=True))

    def _made(self, own: str = "") -> Object:
        """Read the route that the chart prepared; `own` tells the cookies that it sets from those of other rollouts."""
        found = self._api.get(self._names.config_map(self._names.rollout))
        text = ((found or {}).get("data") or {}).get("route.json")
        if text is None:
            raise Refused(
                f"ConfigMap {self._names.rollout} has no route.json: install the chart with rollout.enabled=true and"
                " traffic.httpRoute.enabled=true"
            )
        body: Object = json.loads(text.replace(OWN, own))
        return body


def _by_cookie(rule: Object) -> bool:
    """Whether a rule sends users to the arm that their cookie names."""
    matches = rule.get("matches") or []
    return any(header.get("name", "").lower() == "cookie" for match in matches for header in match.get("headers") or [])
