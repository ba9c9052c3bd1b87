"""What gateways say that they can do: ``status.supportedFeatures`` of their GatewayClasses.

A gateway that cannot mirror need not refuse a route that asks for it: Traefik 3.7 accepts it, resolves it, and answers every request of the
rule with 500. So it is asked before anything starts.

References
----------
Gateway API, GEP-2162 (supported features in the status of a GatewayClass), GEP-3171 (percentage-based mirroring).
"""

from __future__ import annotations

from k8s.cluster.api import Api, Object
from k8s.errors import Refused, Unfit

GROUP = "gateway.networking.k8s.io"
MIRROR, MIRROR_SHARE = "HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror"


def check_mirror(api: Api, namespace: str, parents: list[Object], pct: int) -> str | None:
    """Find out whether all gateways of a route can copy this share of its requests.

    Parameters
    ----------
    namespace
        Of the route.
    parents
        Its ``parentRefs``.

    Returns
    -------
        What could not be found out, in words; None: they can.

    Raises
    ------
    Unfit
        One of them cannot.
    """
    wanted = {MIRROR} if pct == 100 else {MIRROR, MIRROR_SHARE}
    unknown: list[str] = []
    for parent in parents:
        if (parent.get("group", GROUP), parent.get("kind", "Gateway")) != (GROUP, "Gateway"):
            unknown.append(f"{parent.get('kind')} {parent['name']} is no Gateway")
            continue
        gateway = f"{parent.get('namespace', namespace)}/{parent['name']}"
        try:
            described, features = _features(api, *gateway.split("/"))
        except _Unknown as error:
            unknown.append(str(error))
            continue
        missing = sorted(wanted - features)
        if missing:
            raise Unfit(
                f"the plan copies requests, and gateway {gateway} cannot: {described} has no {' and no '.join(missing)} among its features;"
                " set mirror_pct to 0 in answers, the warm-up and all steps, or use a gateway that mirrors"
            )
    if not unknown:
        return None
    return f"whether the gateway can copy requests is not known: {'; '.join(unknown)}"


class _Unknown(Exception):
    """Cannot be found out."""


def _features(api: Api, namespace: str, name: str) -> tuple[str, frozenset[str]]:
    gateway = _read(api, f"/apis/{GROUP}/v1/namespaces/{namespace}/gateways/{name}", f"Gateway {namespace}/{name}")
    class_name = (gateway.get("spec") or {}).get("gatewayClassName")
    found = _read(api, f"/apis/{GROUP}/v1/gatewayclasses/{class_name}", f"GatewayClass {class_name}")
    told = (found.get("status") or {}).get("supportedFeatures")
    if not told:
        raise _Unknown(f"GatewayClass {class_name} does not say what it can")
    described = f"GatewayClass {class_name} ({(found.get('spec') or {}).get('controllerName')})"
    return described, frozenset(str(each["name"] if isinstance(each, dict) else each) for each in told)


def _read(api: Api, path: str, title: str) -> Object:
    try:
        found = api.get(path)
    except Refused as error:
        raise _Unknown(f"{title} cannot be read ({error}; the chart's rollout.clusterRole.enabled lets its Job do so)") from error
    if found is None:
        raise _Unknown(f"there is no {title}")
    return found
