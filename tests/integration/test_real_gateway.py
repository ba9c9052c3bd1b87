"""The rollout's route on a real controller of Gateway API (Traefik): what the documentation promises, with requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import pytest
from scipy.stats import binom

from k8s.errors import Refused, Unfit
from k8s.rollout.arms import Weights
from k8s.rollout.clock import SystemClock
from tests.charts.rendering import changed
from tests.clusters import NAMES, roll_out_in, rollout_values
from tests.gateways import ARMS, GATEWAY_API, ROUTED, Ground, ask, put, real_gateway, until, until_true
from tests.rollouts import plan
from tests.upstreams import Caller, asking

REQUESTS = 2000
PAUSE_S = 0.003
"""Of a user, so that two of them and a gateway leave a core to others: some 200 requests a second each."""
COOKIES = changed(rollout_values(), {"traffic.cookie.enabled": True, "traffic.cookie.set": True})
CHART_ROUTE = f"{GATEWAY_API}/namespaces/models/httproutes/{NAMES.name}"


@pytest.fixture(scope="module")
def one_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    # Every change is taken by itself: with the default, 2 s, these tests would wait for a minute.
    with real_gateway(tmp_path_factory.mktemp("traefik"), COOKIES, "--providers.providersThrottleDuration=50ms") as ground:
        ground.raise_arms()
        yield ground


@pytest.fixture
def ground(one_ground: Ground) -> Iterator[Ground]:
    yield one_ground
    one_ground.broken = set()
    one_ground.control()
    one_ground.router.rest()


@pytest.fixture
def caller(ground: Ground) -> Iterator[Caller]:
    caller = Caller(ground.port)
    yield caller
    caller.close()


@pytest.mark.parametrize("weights", [Weights(80, 10, 10), Weights(50, 0, 50), Weights(90, 5, 5), Weights(0, 0, 100)], ids=str)
def test_requests_are_shared_out_as_asked(ground: Ground, caller: Caller, weights: Weights) -> None:
    put(ground, caller, weights)
    counts = ask(caller, REQUESTS)
    for arm in ARMS:
        # A fair gateway leaves this interval once in a million times; one that gives an arm of 10 % less than 7 or more than 14 is found out.
        low, high = binom.interval(1 - 1e-6, REQUESTS, weights.of(arm) / 100)
        assert low <= counts[200, arm] <= high, counts
    assert sum(counts[200, arm] for arm in ARMS) == REQUESTS


def test_the_header_goes_to_its_arm_at_any_weight_below_the_paths_of_the_rollout(ground: Ground, caller: Caller) -> None:
    for weights in (Weights(0, 0, 100), Weights()):
        put(ground, caller, weights)
        for arm in ARMS:
            assert ask(caller, 50, x_pilotage_arm=arm) == {(200, arm): 50}
            assert ask(caller, 50, "/v2/models/ranker/infer", x_pilotage_arm=arm) == {(200, arm): 50}
            assert ask(caller, 50, "/metrics", x_pilotage_arm=arm) == {(200, "stable"): 50}


def test_the_cookie_of_the_first_answer_keeps_its_user_with_the_arm(ground: Ground, caller: Caller) -> None:
    put(ground, caller, Weights(34, 33, 33))
    cookies: dict[str, str] = {}
    while set(cookies) != set(ARMS):
        answer = caller.get(ROUTED)
        cookies[answer.body] = answer.headers["set-cookie"].partition(";")[0]
    for arm, cookie in cookies.items():
        assert ask(caller, 100, cookie=f"session=1; {cookie}; theme=dark") == {(200, arm): 100}
    assert ask(caller, 50, cookie=cookies["canary"], x_pilotage_arm="baseline") == {(200, "baseline"): 50}
    # An arm that loses its weight loses its users too.
    put(ground, caller, Weights(100, 0, 0))
    until_true(lambda: ask(caller, 50, cookie=cookies["canary"]) == {(200, "stable"): 50}, "users stay with an arm without weight")


def test_a_cookie_of_an_earlier_rollout_counts_for_nothing(ground: Ground, caller: Caller) -> None:
    put(ground, caller, Weights(0, 0, 100))
    cookie = caller.get(ROUTED).headers["set-cookie"].partition(";")[0]
    ground.router.rest()
    until_true(lambda: set(ask(caller, 50)) == {(200, "stable")}, "the route that was deleted still counts")
    assert "set-cookie" not in caller.get(ROUTED).headers
    put(ground, caller, Weights(0, 100, 0))
    assert ask(caller, 50, cookie=cookie) == {(200, "baseline"): 50}


def test_no_request_is_lost_while_weights_change_and_when_the_route_is_deleted(ground: Ground, caller: Caller) -> None:
    with ExitStack() as users:
        counts = [users.enter_context(asking(ground.port, ROUTED, PAUSE_S)) for _ in range(2)]
        for weights in (Weights(90, 5, 5), Weights(50, 0, 50), Weights(0, 0, 100), Weights(34, 33, 33), Weights()):
            put(ground, caller, weights)
        ground.write(Weights(0, 0, 100))
        ground.router.rest()
        until_true(lambda: set(ask(caller, 50, x_pilotage_arm="canary")) == {(200, "stable")}, "the route that was deleted still counts")
    every = counts[0] + counts[1]
    assert set(every) == {(200, arm) for arm in ARMS}, every


@pytest.mark.parametrize("born", ["2020-01-01T00:00:00Z", "2040-01-01T00:00:00Z"], ids=["older", "younger"])
def test_the_route_of_the_rollout_goes_before_the_charts_whichever_is_older(ground: Ground, caller: Caller, born: str) -> None:
    """Gateway API gives what two routes match alike to the older one; these do not: the longer path goes first."""
    chart = ground.server.objects[CHART_ROUTE]
    ground.server.put(CHART_ROUTE, chart | {"metadata": chart["metadata"] | {"creationTimestamp": born}})
    put(ground, caller, Weights(0, 0, 100))
    assert ask(caller, 100) == {(200, "canary"): 100}
    assert ask(caller, 100, "/ui") == {(200, "stable"): 100}


def test_definitions_must_have_the_version_of_tls_routes_that_traefik_asks_for(ground: Ground) -> None:
    """With those of Gateway API 1.4 it gave up waiting for this list, and answered every request with 404: see `docs/deploy.md`."""
    assert ("GET", f"{GATEWAY_API}/tlsroutes") in ground.server.requests


def test_a_route_that_was_written_is_accepted_in_this_very_version(ground: Ground) -> None:
    for weights in (Weights(90, 5, 5), Weights(80, 10, 10), Weights()):
        ground.write(weights)
        route = ground.server.objects[NAMES.route]
        (parent,) = route["status"]["parents"]
        seen = {each["type"]: (each["status"], each["observedGeneration"]) for each in parent["conditions"]}
        assert seen == dict.fromkeys(("Accepted", "ResolvedRefs"), ("True", route["metadata"]["generation"]))


def test_a_canary_without_endpoints_is_answered_503_by_a_route_that_says_all_is_well(ground: Ground, caller: Caller) -> None:
    """Why readiness is read from EndpointSlices before weight is given."""
    put(ground, caller, Weights(50, 0, 50))
    ground.broken = {NAMES.arm("canary")}
    ground.control()
    until_true(lambda: set(ask(caller, 50)) == {(200, "stable"), (503, "")}, "requests still come to a canary without endpoints")
    ground.write(Weights(60, 0, 40))


def test_a_service_that_is_not_there_is_refused_with_the_gateways_reason(ground: Ground, caller: Caller) -> None:
    path = f"/api/v1/namespaces/models/services/{NAMES.arm('canary')}"
    wanted = r"is not ResolvedRefs by traefik\.io/gateway-controller: BackendNotFound: .*ranker-pilotage-canary"
    shares = cycle((10, 11))

    def said() -> str:
        """What the gateway says of other weights than before; it may look at them before it has heard of the Service."""
        canary = next(shares)
        try:
            ground.write(Weights(100 - canary, 0, canary))
        except Refused as error:
            return str(error)
        return ""

    service = ground.server.objects.pop(path)
    try:
        until_true(lambda: re.search(wanted, said()) is not None, "weights are taken that lead to no Service")
    finally:
        ground.server.put(path, service)
        until_true(lambda: not said(), "a Service that is back is not found")


def test_traefik_accepts_copies_that_it_answers_with_500_and_a_rollout_asks_before(ground: Ground, caller: Caller) -> None:
    put(ground, caller, Weights(90, 5, 5))
    until(lambda: ground.router.mirror(20))
    until_true(lambda: ask(caller, 50) == {(500, ""): 50}, "Traefik copies requests: the documentation says that it does not")
    assert ask(caller, 50, x_pilotage_arm="canary") == {(200, "canary"): 50}
    said = r"gateway gateways/public cannot: GatewayClass traefik \(traefik\.io/gateway-controller\) has no HTTPRouteRequestMirror"
    with pytest.raises(Unfit, match=said):
        ground.router.check_mirror(20)


def test_a_plan_that_copies_is_refused_before_anything_is_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    with real_gateway(tmp_path_factory.mktemp("traefik")) as ground:
        with pytest.raises(Unfit, match="HTTPRouteRequestMirror"):
            roll_out_in(ground.server, plan(warm_up={"requests": 300, "mirror_pct": 5}))
        made = [
            path for path in ground.server.objects if path in (NAMES.route, NAMES.config_map(NAMES.journal), NAMES.deployment("canary"))
        ]
        assert made == []


@pytest.mark.parametrize(("slow", "outcome"), [(1.0, "promoted"), (2.0, "rolled_back")])
def test_users_lose_no_request_from_the_first_weight_to_the_last_pod(
    tmp_path_factory: pytest.TempPathFactory, slow: float, outcome: str
) -> None:
    """The whole engine. Its pause, the gateway's and the pods' are a quarter of their defaults: 2 s, 2 s and 5 s."""
    times: dict[str, Any] = {"poll_s": 0.5, "proven_s": 0.5, "ready_s": 30, "promote_s": 40, "api_s": 20}
    asked = plan(
        warm_up={"requests": 300},
        step=[{"weight_pct": 10, "samples": 2000, "bake_s": 1.0}, {"weight_pct": 50, "samples": 2000, "bake_s": 1.0}],
        times=times,
    )
    with (
        real_gateway(tmp_path_factory.mktemp("traefik"), None, "--providers.providersThrottleDuration=500ms") as ground,
        ExitStack() as users,
    ):
        ground.drain_s = 1.25
        counts = [users.enter_context(asking(ground.port, ROUTED, PAUSE_S)) for _ in range(2)]
        record = roll_out_in(ground.server, asked, slow=slow, clock=SystemClock())
        until_true(lambda: ground.arms["canary"].gone and ground.arms["baseline"].gone, "the arms are not taken away")
        before = sum(counts[0].values())
        until_true(lambda: sum(counts[0].values()) > before + 100, "users wait")
    assert (record.outcome, NAMES.route in ground.server.objects) == (outcome, False)
    every = counts[0] + counts[1]
    assert {status for status, _ in every} == {200}, every
    assert every[200, "canary"] > 0
    assert every[200, "baseline"] > 0
