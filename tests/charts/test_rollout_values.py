"""`rollout.writesTo: values`: what a rollout changes is said by values, and nobody but Helm or a GitOps controller writes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.charts.rendering import MINIMAL, Values, changed, refusal, render
from tests.charts.test_checks import TOOLS
from tests.charts.test_rollout_objects import ROLLOUT, allowed
from tests.charts.test_routes import NAME, weights

BY_VALUES: Values = {**ROLLOUT, "rollout.writesTo": "values"}
STANDING: Values = {**BY_VALUES, "baseline.enabled": True, "canary.enabled": True}
COOKIE: Values = {"traffic.cookie.enabled": True, "traffic.cookie.set": True}
SCALED: Values = {"autoscaling.hpa.enabled": True}


def share(stable: int, baseline: int, canary: int) -> Values:
    return {"traffic.weights": {"stable": stable, "baseline": baseline, "canary": canary}}


def route(changes: Values) -> Any:
    return render(changed(MINIMAL, changes)).one("HTTPRoute")


def test_arms_run_and_get_weight_when_the_values_say_so() -> None:
    rendering = render(changed(MINIMAL, {**STANDING, **share(80, 10, 10)}))
    assert {each["metadata"]["name"] for each in rendering.of_kind("Deployment")} == {
        f"{NAME}-{arm}" for arm in ("stable", "baseline", "canary")
    }
    assert weights(rendering.one("HTTPRoute")["spec"]["rules"][-1]) == {"stable": 80, "baseline": 10, "canary": 10}


def test_at_rest_the_services_are_there_and_the_route_knows_stable_alone() -> None:
    rendering = render(changed(MINIMAL, {**BY_VALUES, **COOKIE}))
    assert {f"{NAME}-{arm}" for arm in ("baseline", "canary")} <= {each["metadata"]["name"] for each in rendering.of_kind("Service")}
    assert all(set(weights(rule)) == {"stable"} for rule in rendering.one("HTTPRoute")["spec"]["rules"])
    assert "ookie" not in json.dumps(rendering.one("HTTPRoute"))


def test_copies_are_what_the_values_say() -> None:
    copied: Values = {**STANDING, "traffic.mirror": {"enabled": True, "pct": 5}}
    (each,) = route(copied)["spec"]["rules"][-1]["filters"]
    assert each["requestMirror"] == {
        "backendRef": {"group": "", "kind": "Service", "name": f"{NAME}-canary", "port": 80}, "percent": 5
    }  # fmt: skip
    (whole,) = route({**STANDING, "traffic.mirror": {"enabled": True}})["spec"]["rules"][-1]["filters"]
    assert "percent" not in whole["requestMirror"]  # for gateways that know no shares


def cookies(changes: Values) -> dict[str, str]:
    """Values of the cookie by the arm that they keep a user with."""
    found: dict[str, str] = {}
    for rule in route({**STANDING, **COOKIE, **changes})["spec"]["rules"]:
        for header in rule["matches"][0].get("headers", []):
            if header["name"] == "Cookie":
                (ref,) = rule["backendRefs"]
                found[ref["name"].removeprefix(f"{NAME}-")] = header["value"]
    return found


def test_a_cookie_keeps_a_user_with_an_arm_that_has_weight_and_ends_with_what_is_tried() -> None:
    first = cookies(share(80, 10, 10))
    assert set(first) == {"stable", "baseline", "canary"}
    assert set(cookies(share(50, 0, 50))) == {"stable", "canary"}
    assert cookies(share(100, 0, 0)) == {}
    assert cookies({**share(80, 10, 10), "canary.replicas": 4, "image.digest": f"sha256:{'0' * 64}"}) == first
    other = cookies({**share(80, 10, 10), "canary.image": {"digest": f"sha256:{'9' * 64}"}})
    assert not set(other.values()) & set(first.values())


def test_what_a_rollout_needs_of_the_values_stands_in_its_config_map_and_no_route_does() -> None:
    data = render(changed(MINIMAL, {**BY_VALUES, "rollout.change": "0123abcd"})).named("ConfigMap", f"{NAME}-rollout")["data"]
    said = json.loads(data["values.json"])
    assert said["change"] == "0123abcd"
    assert set(said["arms"]) == {"stable", "baseline", "canary"}
    assert all(each["bundles"] == [{"source": "image", "path": "bundle"}] for each in said["arms"].values())
    assert {"canary.json", "baseline.json"} <= data.keys()
    assert "route.json" not in data
    assert "values.json" not in render(changed(MINIMAL, ROLLOUT)).named("ConfigMap", f"{NAME}-rollout")["data"]


def test_a_rollout_by_values_may_look_and_write_nothing_but_its_own() -> None:
    rules = render(changed(MINIMAL, {**BY_VALUES, **SCALED})).one("Role")["rules"]
    writing = {"create", "patch", "update", "delete"}
    written = {resource for rule in rules for resource in rule["resources"] if writing & set(rule["verbs"])}
    assert written == {"configmaps", "leases", "events", "jobs"}
    may = [
        ("get", "deployments", f"{NAME}-stable"), ("get", "deployments", f"{NAME}-canary"), ("get", "httproutes", NAME),
        ("get", "horizontalpodautoscalers", NAME), ("get", "configmaps", f"{NAME}-rollout"), ("list", "endpointslices", "any"),
        ("patch", "configmaps", f"{NAME}-rollout-journal"), ("update", "leases", f"{NAME}-rollout"),
    ]  # fmt: skip
    assert [each for each in may if not allowed(rules, *each)] == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rollout.writesTo": "values"}, "rollout.writesTo is values, which needs rollout.enabled"),
        ({"rollout.enabled": True, "rollout.writesTo": "values"}, "which needs traffic.httpRoute.enabled"),
        ({**BY_VALUES, "rollout.variants": [{"image": {"digest": f"sha256:{'9' * 64}"}}]}, "try one release at a time"),
        ({**BY_VALUES, **TOOLS, "rollout.job.enabled": True}, "its pod has no checkout of your values"),
        ({**BY_VALUES, **share(90, 0, 10)}, "traffic.weights.canary is 10, but canary.enabled is false"),
        ({**BY_VALUES, "traffic.mirror.enabled": True}, "there is nobody to copy requests to"),
        ({**BY_VALUES, "rollout.change": "anything"}, "/rollout/change"),
    ],
)
def test_values_that_cannot_be_carried_out_are_refused(changes: Values, told: str) -> None:
    assert told in refusal(changed(MINIMAL, changes))


def test_the_chart_s_own_route_stays_at_rest_where_a_rollout_writes_to_the_cluster() -> None:
    assert set(weights(route(ROLLOUT)["spec"]["rules"][-1])) == {"stable"}
    assert "canary.enabled with rollout.enabled" in refusal(changed(MINIMAL, {**ROLLOUT, "canary.enabled": True}))
