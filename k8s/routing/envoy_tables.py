"""Envoy's configuration as documents: bootstrap, clusters, endpoints, routes. Nothing is read or written here.

One cluster an arm, with its endpoints in a file of its own (Envoy takes one resource from an endpoints file); one route table in a file,
with the weights. Both kinds of file are watched by Envoy, and taken as a whole when they are replaced by a rename.

References
----------
Envoy 1.40, API v3: ``config.bootstrap``, ``config.cluster``, ``config.endpoint``, ``config.route``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k8s.errors import Refused
from k8s.rollout.arms import ARM_HEADER, ARMS, CANARIES, Arm, Weights
from k8s.rollout.plan_tables import Copied

LOOPBACK = "127.0.0.1"
LISTENER, TABLE, LIVE = "ingress", "arms", "live"
ROUTES_FILE, BOOTSTRAP_FILE = "routes.json", "bootstrap.json"

ENGINE: Copied = "engine"
"""Cluster of the engine, which takes copies while it listens for them."""

Cluster = Arm | Copied
"""Who requests are sent to: an arm, or the engine."""

SPLIT_ORDER: tuple[Arm, ...] = (*CANARIES, "baseline", "stable")
"""Order of the weighted clusters. A user's hash falls into the same place whatever the weights are, so who is with the canary stays with it
when its weight grows."""

COOKIE, COOKIE_TTL_S = "pilotage-split", 7 * 86400
"""Carries the user's hash where users are to stay with their arm; longer than a rollout."""

ROUTE_TIMEOUT_S = 15
"""Envoy's own default, said aloud: longer than the load generator waits (10 s), so that it is never the proxy that gives up first."""

UPSTREAM_IDLE_S = 3
"""uvicorn closes a connection that was idle for 5 s; a request that goes out in that moment would be lost."""

CHECK_INTERVAL_S = 1
"""Between health checks. A new process takes requests from its first check that passes, which is sent at once."""

MAX_CONCURRENT = 4096
"""Requests and connections to an arm at a time: more than a laptop serves, so that waiting happens in the service, which sheds by time."""

MAX_COPIES = 64
"""On their way to the engine at a time: beyond it they are dropped, so that an engine that hangs holds none of the proxy's memory."""

RETRIES = {
    # Nothing of the request was sent, so nothing can have been computed twice, and an overloaded or failing version is not asked again:
    # its errors must be seen. A ranking changes nothing, but a retry after a reset would hide a version that dies of requests.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 2,
    # Another process of the same arm, where it has one.
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 3,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.1s"},
}


@dataclass(frozen=True)
class Split:
    """How live traffic is shared out.

    Attributes
    ----------
    mirror_pct
        Share of live requests that is copied.
    mirror_to
        To whom.
    sticky
        Whether a user stays with an arm, by a cookie.
    """

    weights: Weights = field(default_factory=Weights)
    mirror_pct: int = 0
    mirror_to: Copied = "canary"
    sticky: bool = False

    def __post_init__(self) -> None:
        """Check the share.

        Raises
        ------
        Refused
            It is none.
        """
        if not 0 <= self.mirror_pct <= 100:
            raise Refused(f"{self.mirror_pct} % of the requests cannot be mirrored: give 0 to 100")


def routes(split: Split) -> dict[str, Any]:
    """The route table: the header that forces an arm goes before the weights, and is never mirrored."""
    forced = [
        {
            "name": f"forced-{arm}",
            "match": {"prefix": "/", "headers": [{"name": ARM_HEADER, "string_match": {"exact": arm}}]},
            "route": {"cluster": arm, "timeout": f"{ROUTE_TIMEOUT_S}s", "retry_policy": RETRIES},
            "response_headers_to_add": [_tell(arm)],
        }
        for arm in ARMS
    ]
    shares = [
        {"name": arm, "weight": split.weights.of(arm), "response_headers_to_add": [_tell(arm)]}
        for arm in SPLIT_ORDER
    ]  # fmt: skip
    live: dict[str, Any] = {
        "weighted_clusters": {"clusters": shares, "use_hash_policy": split.sticky},
        "timeout": f"{ROUTE_TIMEOUT_S}s",
        "retry_policy": RETRIES,
    }
    if split.mirror_pct:
        share = {"default_value": {"numerator": split.mirror_pct, "denominator": "HUNDRED"}}
        live["request_mirror_policies"] = [
            {"cluster": split.mirror_to, "runtime_fraction": share, "disable_shadow_host_suffix_append": True}
        ]
    unforced = [{"name": LIVE, "match": {"prefix": "/"}, "route": live}]
    if split.sticky:
        unforced = _sticky(live)
    table = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": TABLE,
        "validate_clusters": True,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [*forced, *unforced]}],
    }
    return _versioned(table)


def _sticky(live: dict[str, Any]) -> list[dict[str, Any]]:
    """Two routes: who has the cookie is placed by it; who has none is placed by the request's id, and gets that as a cookie.

    Envoy's own cookie for hashing is made only where the cluster's load balancer hashes too, and after the arm was chosen.
    """
    cookie = {"key": "set-cookie", "value": f"{COOKIE}=%REQ(X-REQUEST-ID)%; Path=/; Max-Age={COOKIE_TTL_S}; HttpOnly; SameSite=Lax"}
    known = {"prefix": "/", "headers": [{"name": "cookie", "string_match": {"contains": f"{COOKIE}="}}]}
    return [
        {"name": f"{LIVE}-known", "match": known, "route": live | {"hash_policy": [{"cookie": {"name": COOKIE}}]}},
        {
            "name": LIVE,
            "match": {"prefix": "/"},
            "route": live | {"hash_policy": [{"header": {"header_name": "x-request-id"}}]},
            "response_headers_to_add": [{"header": cookie, "append_action": "APPEND_IF_EXISTS_OR_ADD"}],
        },
    ]


def split_of(table: Mapping[str, Any]) -> Split:
    """Read from a route table what `routes` put into it.

    Raises
    ------
    Refused
        It is another table.
    """
    try:
        live = next(route for route in table["virtual_hosts"][0]["routes"] if route.get("name") == LIVE)["route"]
        shares = {each["name"]: int(each.get("weight", 0)) for each in live["weighted_clusters"]["clusters"]}
        mirrors = live.get("request_mirror_policies", [])
        pct = mirrors[0]["runtime_fraction"]["default_value"]["numerator"] if mirrors else 0
        to: Copied = ENGINE if mirrors and mirrors[0]["cluster"] == ENGINE else "canary"
        return Split(Weights.shared(shares), int(pct), to, sticky=bool(live["weighted_clusters"].get("use_hash_policy")))
    except (KeyError, IndexError, StopIteration, TypeError, ValueError) as error:
        raise Refused(f"the proxy's route table is not one of ours ({error!r}): let nobody else write it") from error


def endpoints(cluster: Cluster, ports: Sequence[int]) -> dict[str, Any]:
    """Where an arm's processes listen, or the engine."""
    hosts = [{"endpoint": {"address": _address(port)}} for port in sorted(ports)]
    return _versioned(
        {
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": cluster,
            "endpoints": [{"lb_endpoints": hosts}],
        }
    )


def endpoints_file(cluster: Cluster) -> str:
    """Name of the file with an arm's endpoints, or the engine's."""
    return f"endpoints-{cluster}.json"


def bootstrap(folder: Path, port: int, health_path: str) -> dict[str, Any]:
    """What Envoy is started with: where the files are, and what does not change."""
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": LISTENER,
        "rds": {"route_config_name": TABLE, "config_source": _watched(folder / ROUTES_FILE)},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}
        ],
    }
    listener = {
        "name": LISTENER,
        "address": _address(port),
        "enable_reuse_port": False,  # a second proxy on the same port must fail, not take half of the requests
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {
        "node": {"id": "pilotage-local", "cluster": "pilotage-local"},
        "admin": {"address": _address(0)},
        "static_resources": {
            "listeners": [listener],
            "clusters": [*(_arm(arm, folder, health_path) for arm in ARMS), _cluster(ENGINE, folder, MAX_COPIES)],
        },
    }


def _arm(arm: Arm, folder: Path, health_path: str) -> dict[str, Any]:
    check = {
        "timeout": f"{CHECK_INTERVAL_S}s",
        "interval": f"{CHECK_INTERVAL_S}s",
        "no_traffic_interval": f"{CHECK_INTERVAL_S}s",
        "healthy_threshold": 1,
        # A busy service that is late once must not lose its arm, which has no other process to go to.
        "unhealthy_threshold": 3,
        "http_health_check": {"path": health_path},
    }
    return _cluster(arm, folder, MAX_CONCURRENT) | {
        "health_checks": [check],
        # Who is taken out of the file gets no new request from then on, healthy or not; what it is answering is waited for.
        "ignore_health_on_host_removal": True,
    }


def _cluster(name: Cluster, folder: Path, concurrent: int) -> dict[str, Any]:
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"idle_timeout": f"{UPSTREAM_IDLE_S}s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), concurrent)
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _watched(folder / endpoints_file(name))},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        # Without the first, an arm of which no process is healthy would be sent requests. Without the second, workers hear of a
        # check up to 1 s after the admin interface tells it, and taking the old process out in between leaves them with none.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "circuit_breakers": {"thresholds": [most]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _versioned(resource: dict[str, Any]) -> dict[str, Any]:
    """A file with one resource; the version is its content's, so the same content is the same version."""
    content = json.dumps(resource, sort_keys=True).encode()
    return {"version_info": hashlib.sha256(content).hexdigest()[:16], "resources": [resource]}


def _watched(path: Path) -> dict[str, Any]:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def _tell(arm: Arm) -> dict[str, Any]:
    """Which arm answered, for whoever wants to know; what the service itself says under this name counts nothing."""
    return {"header": {"key": ARM_HEADER, "value": arm}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
