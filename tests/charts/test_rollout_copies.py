"""How copies of live requests reach the engine: the Service of its pod, who may use it, and that the Job says where it listens."""

from __future__ import annotations

import json

import pytest

from k8s.rollout.collector import Collector
from k8s.rollout.plan import parse_plan
from tests.charts.rendering import CHART, MINIMAL, Object, Values, changed, example_values, render
from tests.charts.test_rollout_objects import JOB, ROLLOUT
from tests.charts.test_routes import GATEWAY, NAME


def pod(more: Values | None = None) -> Object:
    template: Object = render(changed(MINIMAL, {**JOB, **(more or {})})).one("Job")["spec"]["template"]
    return template


def test_without_a_job_nobody_could_take_them() -> None:
    rendering = render(changed(MINIMAL, ROLLOUT))
    assert not [
        each for each in rendering.objects if each["kind"] in ("Service", "NetworkPolicy") and each["metadata"]["name"] == f"{NAME}-rollout"
    ]


def test_the_service_selects_the_pod_of_the_job_and_no_other() -> None:
    rendering = render(changed(MINIMAL, JOB))
    service = rendering.named("Service", f"{NAME}-rollout")["spec"]
    assert service["selector"].items() <= pod()["metadata"]["labels"].items()
    others = [rendering.named("Deployment", f"{NAME}-stable")["spec"]["template"], load_job(rendering)["spec"]["template"]]
    assert not [each for each in others if service["selector"].items() <= each["metadata"]["labels"].items()]
    (port,) = service["ports"]
    assert (port["port"], port["targetPort"]) == (80, "copies")  # as the arms' Services, whose port the route has


def load_job(rendering: object) -> Object:
    data = rendering.named("ConfigMap", f"{NAME}-rollout")["data"]  # type: ignore[attr-defined]
    found: Object = json.loads(data["load.json"])
    return found


@pytest.mark.parametrize(("listen", "host"), [("0.0.0.0", "0.0.0.0"), ("::", "::")])
def test_the_job_says_where_its_pod_listens(listen: str, host: str) -> None:
    (container,) = pod({"pod.listen": listen})["spec"]["containers"]
    command = container["command"]
    found = Collector.at(command[command.index("--collect-at") + 1])
    (port,) = container["ports"]
    assert (found._host, found._port, port["name"]) == (host, port["containerPort"], "copies")


def test_the_gateway_alone_may_send_them() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"name": "edge"}}}]
    rendering = render(changed(MINIMAL, {**JOB, "networkPolicy.gateway": peers}))
    policy = rendering.named("NetworkPolicy", f"{NAME}-rollout")["spec"]
    assert policy["podSelector"]["matchLabels"] == rendering.named("Service", f"{NAME}-rollout")["spec"]["selector"]
    assert policy["policyTypes"] == ["Ingress"]  # the engine asks the API server, Prometheus, a gateway
    assert policy["ingress"] == [{"ports": [{"port": "copies", "protocol": "TCP"}], "from": peers}]
    assert not [
        each
        for each in render(changed(MINIMAL, {**JOB, "networkPolicy.enabled": False})).of_kind("NetworkPolicy")
        if each["metadata"]["name"] == f"{NAME}-rollout"
    ]


def test_no_right_is_needed_for_them() -> None:
    assert render(changed(MINIMAL, JOB)).one("Role") == render(changed(MINIMAL, ROLLOUT)).one("Role")
    assert "services" not in json.dumps(render(changed(MINIMAL, {**GATEWAY, **JOB})).one("Role")["rules"])


def test_the_example_has_a_plan_that_takes_them() -> None:
    values = example_values(CHART / "ci/copies-values.yaml")
    assert parse_plan(values["rollout"]["plan"], "copies-values.yaml").collects
