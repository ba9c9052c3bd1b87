"""What an object names is there: schemas see single objects, an installation is all of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.charts.rendering import EXAMPLES, NAMESPACE, Object, containers, pod_templates, render_example

example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@example
def test_no_object_stands_twice_and_all_stand_in_the_namespace_of_the_release(example: Path) -> None:
    objects = render_example(example).everything
    twice = {key: n for key, n in Counter((each["kind"], each["metadata"]["name"]) for each in objects).items() if n > 1}
    assert twice == {}
    for each in objects:
        name = each["metadata"]["name"]
        assert len(name) <= 63, f"{each['kind']} {name}"
        assert NAME.fullmatch(name), f"{each['kind']} {name}"
        assert each["metadata"].get("namespace", NAMESPACE) == NAMESPACE, f"{each['kind']} {name}"


def _takes(selector: Object, labels: Object) -> bool:
    return bool(selector) and selector.items() <= labels.items()


@example
def test_every_selector_selects_pods_of_the_release(example: Path) -> None:
    rendering = render_example(example)
    pods = [template["metadata"]["labels"] for _, template in pod_templates(rendering.everything) if template["metadata"].get("labels")]
    for each in rendering.everything:
        selectors = []
        if each["kind"] == "Deployment":
            assert _takes(each["spec"]["selector"]["matchLabels"], each["spec"]["template"]["metadata"]["labels"])
            selectors = [each["spec"]["selector"]["matchLabels"]]
        elif each["kind"] == "Service" and "selector" in each["spec"]:
            selectors = [each["spec"]["selector"]]
        elif each["kind"] in {"PodDisruptionBudget", "PodMonitor"}:
            selectors = [each["spec"]["selector"]["matchLabels"]]
        elif each["kind"] == "NetworkPolicy":
            selectors = [each["spec"]["podSelector"].get("matchLabels", {})]
            if selectors == [{}]:  # all pods of the namespace
                continue
        for selector in selectors:
            assert any(_takes(selector, labels) for labels in pods), (
                f"{each['kind']}/{each['metadata']['name']} selects nothing: {selector}"
            )


@example
def test_two_deployments_never_own_the_same_pods(example: Path) -> None:
    deployments = [each for each in render_example(example).everything if each["kind"] == "Deployment"]
    for one in deployments:
        for other in deployments:
            labels = other["spec"]["template"]["metadata"]["labels"]
            assert one is other or not _takes(one["spec"]["selector"]["matchLabels"], labels), one["metadata"]["name"]


@example
def test_mounts_ports_and_variables_of_a_container_fit_its_pod(example: Path) -> None:
    for title, template in pod_templates(render_example(example).everything):
        volumes = [volume["name"] for volume in template["spec"].get("volumes", [])]
        assert len(volumes) == len(set(volumes)), title
        used = set()
        for container in containers(template):
            where = f"{title}: {container['name']}"
            mounts = container.get("volumeMounts", [])
            assert {mount["name"] for mount in mounts} <= set(volumes), where
            assert len({mount["mountPath"] for mount in mounts}) == len(mounts), where
            names = [variable["name"] for variable in container.get("env", [])]
            assert len(names) == len(set(names)), where
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports, where
            used |= {mount["name"] for mount in mounts}
        assert used == set(volumes), f"{title} has volumes that nothing mounts"


@example
def test_what_is_named_is_rendered(example: Path) -> None:
    rendering = render_example(example)
    have = {(each["kind"], each["metadata"]["name"]) for each in rendering.objects}
    ports = {each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]} for each in rendering.of_kind("Service")}
    for each in rendering.everything:
        where = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = each["spec"]["scaleTargetRef"]
            assert (target.get("kind", "Deployment"), target["name"]) in have, where
        if each["kind"] == "RoleBinding":
            assert (each["roleRef"]["kind"], each["roleRef"]["name"]) in have, where
        if each["kind"] == "HTTPRoute":
            for rule in each["spec"]["rules"]:
                mirrors = [one["requestMirror"] for one in rule.get("filters", []) if one["type"] == "RequestMirror"]
                for backend in [*rule["backendRefs"], *(mirror["backendRef"] for mirror in mirrors)]:
                    assert backend["port"] in ports.get(backend["name"], ()), f"{where} sends to {backend['name']}:{backend['port']}"
