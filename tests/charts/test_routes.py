"""Which pods a request comes to: Services, weights, header, cookie, mirror, Ingress."""

from __future__ import annotations

import re

import pytest

from tests.charts.rendering import MINIMAL, Object, Values, changed, render

NAME = "ranker-pilotage"
GATEWAY: Values = {
    "traffic.httpRoute.enabled": True,
    "traffic.httpRoute.parentRefs": [{"name": "public"}],
    "networkPolicy.gateway": [{"namespaceSelector": {}}],
}
ARMS: Values = {"canary.enabled": True, "baseline.enabled": True, "traffic.weights": {"stable": 80, "baseline": 10, "canary": 10}}


def route(changes: Values) -> Object:
    return render(changed(MINIMAL, {**GATEWAY, **changes})).one("HTTPRoute")


def weights(rule: Object) -> dict[str, int]:
    return {each["name"].removeprefix(f"{NAME}-"): each.get("weight", 1) for each in rule["backendRefs"]}


def test_a_route_sends_everything_to_stable_at_first() -> None:
    *_, last = route({})["spec"]["rules"]
    assert weights(last) == {"stable": 100}
    assert last["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert last["timeouts"] == {"request": "15s"}
    assert "retry" not in last


def test_weights_name_the_arms_that_there_are() -> None:
    *_, last = route(ARMS)["spec"]["rules"]
    assert weights(last) == {"stable": 80, "baseline": 10, "canary": 10}


def test_a_header_chooses_the_arm_before_a_cookie_and_a_cookie_before_the_weights() -> None:
    rules = route({**ARMS, "traffic.cookie.enabled": True})["spec"]["rules"]
    said = [rule["matches"][0].get("headers", [{"name": None}])[0]["name"] for rule in rules]
    assert said == ["x-pilotage-arm"] * 3 + ["Cookie"] * 3 + [None]
    forced = {rule["matches"][0]["headers"][0]["value"]: weights(rule) for rule in rules[:3]}
    assert forced == {"stable": {"stable": 1}, "baseline": {"baseline": 1}, "canary": {"canary": 1}}


@pytest.mark.parametrize(
    ("cookies", "chosen"),
    [
        ("pilotage-arm=canary", True),
        ("session=1; pilotage-arm=canary; theme=dark", True),
        ("session=1;pilotage-arm=canary", True),
        ("pilotage-arm=canary2", False),
        ("my-pilotage-arm=canary", False),
        ("pilotage-arm=stable", False),
        ("note=pilotage-arm=canary", False),
    ],
)
def test_the_cookie_is_found_among_others_and_not_inside_them(cookies: str, chosen: bool) -> None:
    rules = route({**ARMS, "traffic.cookie.enabled": True, "traffic.forceHeader.enabled": False})["spec"]["rules"]
    pattern = next(rule["matches"][0]["headers"][0]["value"] for rule in rules if weights(rule) == {"canary": 1})
    # Envoy wants the whole header to match, Traefik looks anywhere in it.
    assert bool(re.fullmatch(pattern, cookies)) is bool(re.search(pattern, cookies)) is chosen


def test_the_gateway_sets_the_cookie_of_the_arm_that_answered() -> None:
    *_, last = route({**ARMS, "traffic.cookie.enabled": True, "traffic.cookie.set": True})["spec"]["rules"]
    for backend in last["backendRefs"]:
        (header,) = backend["filters"][0]["responseHeaderModifier"]["add"]
        assert header["value"].startswith(f"pilotage-arm={backend['name'].removeprefix(f'{NAME}-')}; Path=/; Max-Age=86400")


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({"traffic.mirror.pct": 25}, {"group": "", "kind": "Service", "name": f"{NAME}-canary", "port": 80}),
        ({"traffic.mirror.serviceName": "shadow", "traffic.mirror.pct": 25}, {"name": "shadow", "port": 80}),
    ],
)
def test_requests_are_mirrored_to_the_canary_or_a_shadow(changes: Values, target: Object) -> None:
    *chosen, last = route({**ARMS, "traffic.mirror.enabled": True, **changes})["spec"]["rules"]
    assert last["filters"] == [{"type": "RequestMirror", "requestMirror": {"backendRef": target, "percent": 25}}]
    assert not any("filters" in rule for rule in chosen)


def test_retries_ask_another_pod_when_one_refuses() -> None:
    for rule in route({"traffic.retry.enabled": True, "traffic.backendTimeout": "400ms", "traffic.timeout": "1s"})["spec"]["rules"]:
        assert rule["retry"] == {"codes": [503], "attempts": 1, "backoff": "25ms"}
        assert rule["timeouts"] == {"request": "1s", "backendRequest": "400ms"}


def test_every_arm_has_a_service_while_it_runs_and_stable_always() -> None:
    def selected(changes: Values) -> dict[str, str | None]:
        services = render(changed(MINIMAL, changes)).of_kind("Service")
        return {each["metadata"]["name"]: each["spec"]["selector"].get("pilotage.dev/arm") for each in services}

    assert selected({}) == {NAME: "stable", f"{NAME}-stable": "stable"}
    assert selected({"service.enabled": False}) == {f"{NAME}-stable": "stable"}
    assert selected({**ARMS, "service.allArms": True}) == {
        NAME: None, f"{NAME}-stable": "stable", f"{NAME}-baseline": "baseline", f"{NAME}-canary": "canary"
    }  # fmt: skip


def test_an_ingress_goes_to_stable_and_a_second_one_to_the_canary() -> None:
    changes = {
        "traffic.ingress.enabled": True, "traffic.ingress.hosts": ["ranker.example"], "traffic.ingress.annotations": {"kept": "yes"},
        "networkPolicy.gateway": [{"namespaceSelector": {}}], "canary.enabled": True, "traffic.weights": {"stable": 95, "canary": 5},
        "traffic.cookie.enabled": True,
    }  # fmt: skip
    stable, canary = (render(changed(MINIMAL, changes)).named("Ingress", name) for name in (NAME, f"{NAME}-canary"))
    backend = stable["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": f"{NAME}-stable", "port": {"name": "http"}}
    assert stable["metadata"]["annotations"] == {"kept": "yes"}
    assert canary["metadata"]["annotations"] == {
        "kept": "yes",
        "nginx.ingress.kubernetes.io/canary": "true",
        "nginx.ingress.kubernetes.io/canary-weight": "5",
        "nginx.ingress.kubernetes.io/canary-by-header": "x-pilotage-arm",
        "nginx.ingress.kubernetes.io/canary-by-header-value": "canary",
        "nginx.ingress.kubernetes.io/canary-by-cookie": "pilotage-arm",
    }
