"""The Job that loads the arms in a step: what of it the chart prepares, and who may speak to its pods."""

from __future__ import annotations

import json
from typing import Any

from tests.charts.rendering import MINIMAL, Object, Values, changed, render
from tests.charts.test_checks import TOOLS
from tests.charts.test_rollout_objects import ROLLOUT, allowed
from tests.charts.test_routes import NAME

LOAD: Values = {**ROLLOUT, **TOOLS}


def job(more: Values | None = None) -> Object:
    rendering = render(changed(MINIMAL, {**LOAD, **(more or {})}))
    found: Object = json.loads(rendering.named("ConfigMap", f"{NAME}-rollout")["data"]["load.json"])
    return found


def test_without_an_image_that_has_locust_there_is_no_job_to_make() -> None:
    data = render(changed(MINIMAL, ROLLOUT)).named("ConfigMap", f"{NAME}-rollout")["data"]
    assert "load.json" not in data
    assert "canary.json" in data
    assert not [each for each in render(changed(MINIMAL, ROLLOUT)).objects if each["metadata"]["name"] == f"{NAME}-rollout-load"]


def test_its_pods_are_numbered_tried_once_and_taken_away_by_themselves() -> None:
    spec = job()["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 1, 1)
    assert spec["backoffLimit"] == 0
    assert spec["ttlSecondsAfterFinished"] > 0
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["automountServiceAccountToken"]) == ("Never", False)
    (container,) = pod["containers"]
    assert container["command"] == ["pilotage", "load-node"]
    assert "args" not in container


def test_workers_find_the_master_by_name_before_it_is_ready_and_nobody_else_speaks_to_it() -> None:
    rendering = render(changed(MINIMAL, LOAD))
    service = rendering.named("Service", f"{NAME}-rollout-load")["spec"]
    pod = job()["spec"]["template"]
    assert pod["spec"]["subdomain"] == f"{NAME}-rollout-load"
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert [port["port"] for port in service["ports"]] == [5557]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    arms = render(changed(MINIMAL, LOAD)).named("Deployment", f"{NAME}-stable")["spec"]["template"]["metadata"]["labels"]
    assert not service["selector"].items() <= arms.items()
    policy = rendering.named("NetworkPolicy", f"{NAME}-rollout-load")["spec"]
    assert policy["podSelector"]["matchLabels"] == service["selector"]
    (rule,) = policy["ingress"]
    assert rule == {"ports": [{"port": 5557, "protocol": "TCP"}], "from": [{"podSelector": {"matchLabels": service["selector"]}}]}


def test_its_pods_reach_the_arms_through_the_policy_of_the_chart() -> None:
    (rule, *_) = render(changed(MINIMAL, LOAD)).named("NetworkPolicy", NAME)["spec"]["ingress"]
    labels = job()["spec"]["template"]["metadata"]["labels"]
    expressions = rule["from"][0]["podSelector"]["matchExpressions"]
    assert all(labels[each["key"]] in each["values"] for each in expressions)


def test_it_runs_where_the_values_say_with_what_they_give_it() -> None:
    resources: dict[str, Any] = {"requests": {"cpu": "4", "memory": "2Gi"}, "limits": {"cpu": "4", "memory": "2Gi"}}
    nodes: dict[str, Any] = {
        "nodeSelector": {"pool": "load"},
        "tolerations": [{"key": "load", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    }
    pod = job({"rollout.load.resources": resources, **{f"rollout.load.{key}": value for key, value in nodes.items()}})["spec"]["template"][
        "spec"
    ]
    assert pod["containers"][0]["resources"] == resources
    assert {key: pod[key] for key in nodes} == nodes
    (spread,) = pod["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert spread["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "load"


def test_recorded_requests_and_load_profiles_are_where_it_looks_for_them() -> None:
    pod = job({"profiles": {"own": "x = 1\n"}, "auth.secretName": "tokens"})["spec"]["template"]["spec"]
    (requests,) = [volume for volume in pod["volumes"] if volume["name"] == f"{NAME}-rollout-requests"]
    assert requests["configMap"] == {"name": f"{NAME}-rollout-requests", "optional": True}
    folders = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert folders[f"{NAME}-rollout-requests"] == "/requests"
    assert folders["profiles"] == "/profiles"
    assert folders["tokens"] == "/etc/pilotage/tokens"
    (profiles,) = [volume for volume in pod["volumes"] if volume["name"] == "profiles"]
    assert "optional" not in profiles["configMap"]


def test_a_rollout_may_make_the_load_and_read_what_it_writes() -> None:
    rules = render(changed(MINIMAL, LOAD)).one("Role")["rules"]
    may = [
        *((verb, "jobs", "any") for verb in ("get", "list", "create", "delete")), ("get", "pods/log", "any"),
        ("patch", "configmaps", f"{NAME}-rollout-requests"),
    ]  # fmt: skip
    may_not = [
        ("patch", "jobs", "any"),
        ("create", "pods", "any"),
        ("delete", "pods", "any"),
        ("get", "configmaps", "any"),
        ("create", "pods/exec", "any"),
    ]
    assert [each for each in may if not allowed(rules, *each)] == []
    assert [each for each in may_not if allowed(rules, *each)] == []


def test_names_of_the_longest_release_fit() -> None:
    name = "a" * 45
    rendering = render(changed(MINIMAL, {**LOAD, "fullnameOverride": name}))
    body = json.loads(rendering.named("ConfigMap", f"{name}-rollout")["data"]["load.json"])
    assert len(body["spec"]["template"]["spec"]["subdomain"]) <= 63
    # As the rollout makes it: a name of its own, and the index, which is the pod's host name.
    assert len(f"{body['metadata']['name']}-123456-64") <= 63
