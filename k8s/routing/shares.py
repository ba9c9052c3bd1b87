"""What an HTTPRoute of the chart's making says: its last rule has the weights, one ``backendRef`` an arm, and the mirror."""

from __future__ import annotations

from typing import Any

from k8s.cluster.api import Object
from k8s.cluster.names import Names
from k8s.errors import Ignored, Refused, Unavailable
from k8s.rollout.arms import ARMS, Arm, Weights

MIRROR = "RequestMirror"


def weights_of(route: Object, names: Names, remedy: str = "") -> Weights:
    """Return the weights.

    Parameters
    ----------
    remedy
        What to do where they are none, for the end of a sentence.

    Raises
    ------
    Refused
        They do not add up, or somebody else's Service is among them.
    """
    refs = route["spec"]["rules"][-1].get("backendRefs") or []
    shares = {arm_of(ref, names, route): int(ref.get("weight", 1)) for ref in refs}
    try:
        return Weights.shared(shares)
    except ValueError as error:
        raise Refused(f"{_title(route)}: {error}{remedy}") from error


def arm_of(ref: Object, names: Names, route: Object) -> Arm:
    """Return the arm that a ``backendRef`` sends to."""
    for arm in ARMS:
        if ref["name"] == names.arm(arm):
            return arm
    raise Refused(f"{_title(route)} sends to {ref['name']}, which is no arm of {names.name}")


def mirrors(route: Object) -> list[Object]:
    """Return the filters that copy requests."""
    return [each for each in route["spec"]["rules"][-1].get("filters") or [] if each.get("type") == MIRROR]


def require_in_force(route: Object) -> None:
    """Check that every gateway has accepted this very version of the route.

    Raises
    ------
    Ignored
        None has ever said anything of it.
    Unavailable
        One has not looked at it yet.
    Refused
        One does not take it.
    """
    title, generation = _title(route), int(route["metadata"].get("generation") or 0)
    parents = (route.get("status") or {}).get("parents") or []
    if not parents:
        raise Ignored(f"{title}: no gateway has said anything of it; look at traffic.httpRoute.parentRefs")
    if len(parents) < len(route["spec"].get("parentRefs") or []):
        raise Unavailable(f"{title} is not accepted yet: {len(parents)} gateways have answered")
    for parent in parents:
        conditions = {each["type"]: each for each in parent.get("conditions") or []}
        for kind in ("Accepted", "ResolvedRefs"):
            condition: dict[str, Any] = conditions.get(kind) or {}
            if int(condition.get("observedGeneration") or 0) < generation:
                raise Unavailable(f"{title} is not {kind} yet by {parent.get('controllerName')}")
            if condition.get("status") != "True":
                said = f"{condition.get('reason')}: {condition.get('message')}"
                raise Refused(f"{title} is not {kind} by {parent.get('controllerName')}: {said}")


def _title(route: Object) -> str:
    return f"HTTPRoute {route['metadata']['name']}"
