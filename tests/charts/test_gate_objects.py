"""The gate beside the service, and what Argo Rollouts and Flagger are told of it: in the chart, and on the page."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from typer.main import get_command

from k8s.cli import app as rollout
from k8s.rollout.plan import load_plan, parse_plan
from tests.charts.api_schemas import custom_complaints
from tests.charts.rendering import CHART, MINIMAL, ROOT, Object, Rendering, Values, changed, example_values, render
from tests.charts.test_checks import ARGO, GATE
from tests.charts.test_routes import NAME

ASKED: Values = {**ARGO, **GATE, "argoRollouts.analysis.by": "gate"}
ARMS: Values = {**GATE, "gate.canary": "http://ranker-canary", "gate.baseline": "http://ranker-primary"}
OWN_PLAN = 'name = "mine"\n[synthetic]\nprofile = "/profiles/mine.toml"\n[[step]]\nweight_pct = 0\n'
PAGE = (ROOT / "docs/gate.md").read_text()


def gate(changes: Values) -> tuple[Object, Object]:
    """The pod and its container."""
    template = render(changed(MINIMAL, changes)).named("Deployment", f"{NAME}-gate")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    return template, container


def option(container: Object, name: str) -> str:
    command: list[str] = container["command"]
    return command[command.index(name) + 1]


def pages() -> list[Any]:
    """Every object of the page, those of Argo's steps too."""
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def page(kind: str) -> Object:
    (found,) = [each for each in pages() if each.get("kind") == kind]
    return dict(found)


def test_nothing_of_it_is_there_where_it_is_not_asked_for() -> None:
    assert [each for each in render(changed(MINIMAL, ARGO)).objects if each["metadata"]["name"].endswith("-gate")] == []


def test_the_command_is_one_that_there_is() -> None:
    group: Any = get_command(rollout)
    known = {name for parameter in group.commands["gate"].params for name in parameter.opts}
    _, container = gate(ASKED)
    assert container["command"][:3] == ["pilotage", "rollout", "gate"]
    assert {argument for argument in container["command"] if argument.startswith("--")} <= known
    assert load_plan(option(container, "--plan")).beside == "stable"


def test_there_is_one_and_never_two_and_it_may_do_nothing_in_the_cluster() -> None:
    spec = render(changed(MINIMAL, ASKED)).named("Deployment", f"{NAME}-gate")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["automountServiceAccountToken"], pod.get("serviceAccountName")) == ("Always", False, None)


def test_it_is_asked_at_its_own_health_and_by_its_service() -> None:
    rendering = render(changed(MINIMAL, ASKED))
    template, container = gate(ASKED)
    service = rendering.named("Service", f"{NAME}-gate")["spec"]
    (port,) = container["ports"]
    assert (port["name"], str(port["containerPort"])) == ("gate", option(container, "--port"))
    assert {container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")} == {"/healthz"}
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    assert service["ports"][0]["targetPort"] == "gate"


def test_no_other_service_takes_the_gates_pod_for_one_of_the_service() -> None:
    rendering = render(changed(MINIMAL, ASKED))
    labels = gate(ASKED)[0]["metadata"]["labels"]
    takers = [each["metadata"]["name"] for each in rendering.of_kind("Service") if each["spec"]["selector"].items() <= labels.items()]
    assert takers == [f"{NAME}-gate"]


@pytest.mark.parametrize(
    ("changes", "canary", "baseline"),
    [
        (ASKED, f"http://{NAME}-canary:80", f"http://{NAME}-stable:80"),
        (ARMS, "http://ranker-canary", "http://ranker-primary"),
        ({**GATE, "canary.enabled": True}, f"http://{NAME}-canary:80", f"http://{NAME}-stable:80"),
        ({**GATE, "canary.enabled": True, "baseline.enabled": True}, f"http://{NAME}-canary:80", f"http://{NAME}-baseline:80"),
    ],
    ids=["Argo Rollouts", "Flagger", "a standing canary", "a standing baseline"],
)
def test_it_compares_the_services_of_whoever_rolls_out(changes: Values, canary: str, baseline: str) -> None:
    _, container = gate(changes)
    assert (option(container, "--canary"), option(container, "--baseline")) == (canary, baseline)


def test_the_services_that_it_compares_are_those_that_the_rollout_manages() -> None:
    rendering = render(changed(MINIMAL, ASKED))
    strategy = rendering.one("Rollout")["spec"]["strategy"]["canary"]
    _, container = gate(ASKED)
    asked = [urlsplit(option(container, name)).hostname for name in ("--canary", "--baseline")]
    assert asked == [strategy["canaryService"], strategy["stableService"]]
    assert all(rendering.named("Service", str(name)) for name in asked)


def test_a_plan_of_ones_own_is_mounted_and_read_anew_when_it_changes() -> None:
    mine = {**ASKED, "gate.plan": OWN_PLAN}
    template, container = gate(mine)
    config = render(changed(MINIMAL, mine)).named("ConfigMap", f"{NAME}-gate")["data"]
    folder, _, name = option(container, "--plan").rpartition("/")
    assert parse_plan(config[name], name).name == "mine"
    assert {"name": f"{NAME}-gate", "mountPath": folder, "readOnly": True} in container["volumeMounts"]
    other, _ = gate({**ASKED, "gate.plan": OWN_PLAN.replace("mine", "other")})
    assert template["metadata"]["annotations"] != other["metadata"]["annotations"]


def policies(changes: Values) -> tuple[Object, Object]:
    rendering = render(changed(MINIMAL, changes))
    return rendering.named("NetworkPolicy", NAME)["spec"], rendering.named("NetworkPolicy", f"{NAME}-gate")["spec"]


def test_only_who_is_named_may_ask_and_the_load_goes_to_the_service_alone() -> None:
    service, own = policies(ASKED)
    (asked,) = own["ingress"]
    assert asked == {"ports": [{"port": "gate", "protocol": "TCP"}], "from": GATE["networkPolicy.gate"]}
    names, load = own["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    selected = load["to"][0]["podSelector"]["matchLabels"]
    assert selected.items() <= render(MINIMAL).named("Deployment", f"{NAME}-stable")["spec"]["template"]["metadata"]["labels"].items()
    assert load["ports"] == [{"port": 3000, "protocol": "TCP"}]
    assert "gate" in service["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][1]["values"]


def metric(rendering: Rendering) -> Object:
    (found,) = rendering.one("AnalysisTemplate")["spec"]["metrics"]
    return dict(found)


def test_the_analysis_is_a_job_where_nobody_says_otherwise() -> None:
    rendering = render(changed(MINIMAL, {**ARGO, **GATE}))
    assert metric(rendering)["provider"].keys() == {"job"}
    analyses = [step["analysis"] for step in rendering.one("Rollout")["spec"]["strategy"]["canary"]["steps"] if "analysis" in step]
    assert all("args" not in each for each in analyses)


def test_the_last_inconclusive_answer_pauses_and_the_first_clear_one_ends() -> None:
    found = metric(render(changed(MINIMAL, {**ASKED, "argoRollouts.analysis.timeoutSeconds": 600})))
    assert (found["interval"], found["count"]) == ("10s", 60)
    # Argo: inconclusive above the limit, failed above its own; a success ends it.
    assert (found["inconclusiveLimit"], found["failureLimit"], found["consecutiveSuccessLimit"]) == (59, 0, 1)
    assert found["successCondition"] == 'result.status == "pass"'
    assert found["failureCondition"] == 'result.status == "fail"'


def test_the_analysis_waits_as_long_as_the_gate_may_take() -> None:
    plan, found = load_plan("gate"), metric(render(changed(MINIMAL, ASKED)))
    longest_s = plan.warm_up.timeout_s + plan.steps[0].timeout_s * (1 + plan.inconclusive.extend)
    assert found["count"] * 10 >= longest_s


def test_every_analysis_of_a_rollout_asks_the_gate_about_a_step_of_its_own() -> None:
    rendering = render(changed(MINIMAL, ASKED))
    url = urlsplit(metric(rendering)["provider"]["web"]["url"])
    service = rendering.named("Service", f"{NAME}-gate")["spec"]
    assert (url.hostname, url.port, url.path) == (f"{NAME}-gate.models.svc", service["ports"][0]["port"], "/verdict")
    taken = {each["name"] for each in rendering.one("AnalysisTemplate")["spec"]["args"]}
    assert set(re.findall(r"\{\{args\.([a-z-]+)\}\}", url.query)) == taken
    steps = [step["analysis"] for step in rendering.one("Rollout")["spec"]["strategy"]["canary"]["steps"] if "analysis" in step]
    given = [{each["name"]: each for each in step["args"]} for step in steps]
    assert all(set(each) == taken for each in given)
    assert [each["step"]["value"] for each in given] == ["2", "4"]
    assert {each["latest-hash"]["valueFrom"]["podTemplateHashValue"] for each in given} == {"Latest"}


def test_the_page_shows_argo_what_the_chart_renders_and_its_api_takes_it() -> None:
    rendering = render(changed(MINIMAL, ASKED))
    shown, rendered = page("AnalysisTemplate"), rendering.one("AnalysisTemplate")
    assert shown["spec"] == rendered["spec"]
    assert shown["metadata"] == {key: rendered["metadata"][key] for key in ("name", "namespace")}
    (steps,) = [each["steps"] for each in pages() if "steps" in each]
    assert steps == rendering.one("Rollout")["spec"]["strategy"]["canary"]["steps"][:2]
    assert custom_complaints([shown, rendered]) == [[], []]


# Of flagger/pkg/apis/flagger/v1beta1/canary.go and of its page on Gateway API: what the page uses, and what is beside it.
CANARY = {"provider", "targetRef", "autoscalerRef", "service", "analysis", "progressDeadlineSeconds", "skipAnalysis"}
SERVICE = {"name", "port", "portName", "targetPort", "timeout", "hosts", "gatewayRefs", "retries", "match"}
ANALYSIS = {"interval", "iterations", "maxWeight", "stepWeight", "stepWeights", "threshold", "metrics", "webhooks", "match", "alerts"}
WEBHOOK = {"type", "name", "url", "muteAlert", "timeout", "metadata", "retries"}
HOOKS = {"rollout", "pre-rollout", "post-rollout", "confirm-rollout", "confirm-promotion", "confirm-traffic-increase", "event", "rollback"}


def test_the_pages_canary_has_fields_of_flaggers_api() -> None:
    spec = page("Canary")["spec"]
    assert (spec.keys() <= CANARY, spec["service"].keys() <= SERVICE, spec["analysis"].keys() <= ANALYSIS) == (True, True, True)
    for hook in spec["analysis"]["webhooks"]:
        assert hook.keys() <= WEBHOOK
        assert hook["type"] in HOOKS
        assert all(isinstance(value, str) for value in hook.get("metadata", {}).values())
    waits = [hook for hook in spec["analysis"]["webhooks"] if hook.get("metadata") == {"must": "pass"}]
    assert [hook["type"] for hook in waits] == ["confirm-promotion"]


def test_the_pages_canary_and_the_example_of_the_chart_name_each_others_objects() -> None:
    example = render(example_values(CHART / "ci/flagger-values.yaml"))
    canary = page("Canary")
    spec, namespace = canary["spec"], canary["metadata"]["namespace"]
    target = example.named("Deployment", spec["targetRef"]["name"])
    assert example.named("HorizontalPodAutoscaler", spec["autoscalerRef"]["name"])
    assert "replicas" not in target["spec"]
    gate = example.named("Service", "ranker-gate")["spec"]["ports"][0]["port"]
    assert {hook["url"] for hook in spec["analysis"]["webhooks"]} == {f"http://ranker-gate.{namespace}.svc:{gate}/flagger"}
    (container,) = example.named("Deployment", "ranker-gate")["spec"]["template"]["spec"]["containers"]
    name = spec["service"]["name"]
    assert (option(container, "--canary"), option(container, "--baseline")) == (f"http://{name}-canary", f"http://{name}-primary")
    # Services that Flagger makes are none of the chart's.
    assert {each["metadata"]["name"] for each in example.of_kind("Service")}.isdisjoint({name, f"{name}-canary", f"{name}-primary"})
    # Its Services select by this label alone, and a named port keeps out who has none of that name.
    assert target["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == "ranker"
    assert spec["service"]["targetPort"] in {port["name"] for port in target["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert spec["service"]["targetPort"] not in {port["name"] for port in container["ports"]}
    interval_s = float(spec["analysis"]["interval"].removesuffix("s"))
    assert interval_s < float(option(container, "--idle-s"))
