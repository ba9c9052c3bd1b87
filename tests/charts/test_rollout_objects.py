"""What a rollout finds: objects ready to be applied, rights to them and to nothing else, and a route of the chart that it need not touch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.charts.rendering import MINIMAL, Object, Values, changed, render
from tests.charts.test_checks import ARGO, TOOLS
from tests.charts.test_routes import ARMS, GATEWAY, NAME, weights

ROLLOUT: Values = {**GATEWAY, "rollout.enabled": True}
JOB: Values = {**ROLLOUT, **TOOLS, "rollout.job.enabled": True}


def templates(changes: Values) -> dict[str, Any]:
    data = render(changed(MINIMAL, changes)).named("ConfigMap", f"{NAME}-rollout")["data"]
    return {key: json.loads(text) for key, text in data.items() if key.endswith(".json")}


def test_nothing_of_it_is_there_where_it_is_not_asked_for() -> None:
    rendering = render(changed(MINIMAL, GATEWAY))
    assert not [each for kind in ("Role", "RoleBinding", "Job") for each in rendering.of_kind(kind)]
    assert [each["metadata"]["name"] for each in rendering.of_kind("ServiceAccount")] == [NAME]


def test_a_canary_of_the_rollout_is_the_one_that_the_chart_would_run() -> None:
    canary: Values = {"canary.image": {"digest": f"sha256:{'9' * 64}"}, "canary.replicas": 2}
    carried = templates({**ROLLOUT, **canary})["canary.json"]
    standing = render(changed(MINIMAL, {**canary, "canary.enabled": True})).named("Deployment", f"{NAME}-canary")
    assert carried["spec"] == standing["spec"]
    assert carried["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "pilotage-rollout"


def test_helm_renders_neither_arms_nor_weights_under_a_rollout() -> None:
    rendering = render(changed(MINIMAL, ROLLOUT))
    assert [each["metadata"]["name"] for each in rendering.of_kind("Deployment")] == [f"{NAME}-stable"]
    assert {each["metadata"]["name"] for each in rendering.of_kind("Service")} == {
        NAME,
        *(f"{NAME}-{arm}" for arm in ("stable", "baseline", "canary")),
    }
    route = rendering.one("HTTPRoute")
    assert all(set(weights(rule)) == {"stable"} for rule in route["spec"]["rules"])


def test_another_canary_changes_nothing_that_runs() -> None:
    before, after = (render(changed(MINIMAL, {**ROLLOUT, **more})) for more in ({}, {"canary.image": {"digest": f"sha256:{'9' * 64}"}}))
    differing = [each["metadata"]["name"] for each, other in zip(before.objects, after.objects, strict=True) if each != other]
    assert differing == [f"{NAME}-rollout"]


def test_the_route_of_a_rollout_goes_before_the_one_of_the_chart() -> None:
    chart = render(changed(MINIMAL, ROLLOUT)).one("HTTPRoute")
    route = templates(ROLLOUT)["route.json"]
    assert route["metadata"]["name"] == f"{NAME}-rollout"
    assert {key: route["spec"].get(key) for key in ("parentRefs", "hostnames")} == {
        key: chart["spec"].get(key) for key in ("parentRefs", "hostnames")
    }
    paths = {match["path"]["value"] for rule in route["spec"]["rules"] for match in rule["matches"]}
    assert paths == {"/v1", "/v2"}  # the longer prefix counts: these before "/"
    assert {match["path"]["value"] for rule in chart["spec"]["rules"] for match in rule["matches"]} == {"/"}


@pytest.mark.parametrize("cookie", [False, True])
def test_the_last_rule_has_the_weights_and_the_others_an_arm_each(cookie: bool) -> None:
    *chosen, last = templates({**ROLLOUT, "traffic.cookie.enabled": cookie})["route.json"]["spec"]["rules"]
    assert weights(last) == {"stable": 100, "baseline": 0, "canary": 0}
    assert all("headers" in match for rule in chosen for match in rule["matches"])
    assert [set(weights(rule)) for rule in chosen] == [{"stable"}, {"baseline"}, {"canary"}] * (1 + cookie)


def test_under_a_rollout_its_own_route_alone_sets_and_reads_cookies() -> None:
    values: Values = {**ROLLOUT, "traffic.cookie.enabled": True, "traffic.cookie.set": True}
    assert "Cookie" not in json.dumps(render(changed(MINIMAL, values)).one("HTTPRoute"))
    assert "pilotage-arm=canary_{rollout};" in json.dumps(templates(values)["route.json"])
    # Where an application sets them it knows the arms, and no rollout.
    assert "pilotage-arm=canary(;" in json.dumps(templates({**values, "traffic.cookie.set": False})["route.json"])


def allowed(rules: list[Object], verb: str, resource: str, name: str) -> bool:
    return any(verb in rule["verbs"] and resource in rule["resources"] and name in rule.get("resourceNames", [name]) for rule in rules)


def test_a_rollout_may_do_what_it_does_and_no_more() -> None:
    rules = render(changed(MINIMAL, ROLLOUT)).one("Role")["rules"]
    assert not any("*" in (*rule["verbs"], *rule["resources"], *rule["apiGroups"]) for rule in rules)
    may = [
        ("patch", "deployments", f"{NAME}-canary"), ("delete", "deployments", f"{NAME}-canary"), ("patch", "deployments", f"{NAME}-stable"),
        ("patch", "httproutes", f"{NAME}-rollout"), ("delete", "httproutes", f"{NAME}-rollout"), ("get", "httproutes", NAME),
        ("patch", "configmaps", f"{NAME}-rollout-journal"), ("update", "leases", f"{NAME}-rollout"), ("list", "endpointslices", "any"),
        ("delete", "configmaps", f"{NAME}-rollout-journal"), ("delete", "leases", f"{NAME}-rollout"),
    ]  # fmt: skip
    may_not = [
        ("delete", "deployments", f"{NAME}-stable"), ("patch", "deployments", "another"), ("patch", "httproutes", NAME),
        ("patch", "configmaps", f"{NAME}-rollout"), ("delete", "configmaps", f"{NAME}-rollout"), ("get", "secrets", "any"), ("patch", "services", f"{NAME}-canary"),
    ]  # fmt: skip
    assert [each for each in may if not allowed(rules, *each)] == []
    assert [each for each in may_not if allowed(rules, *each)] == []


def test_rights_beyond_the_namespace_are_given_only_when_asked_for_and_only_to_read_what_gateways_can_do() -> None:
    assert not render(changed(MINIMAL, ROLLOUT)).of_kind("ClusterRole")
    rendering = render(changed(MINIMAL, {**ROLLOUT, "rollout.clusterRole.enabled": True}))
    role, binding = rendering.one("ClusterRole"), rendering.one("ClusterRoleBinding")
    assert role["metadata"]["name"] == binding["roleRef"]["name"] == f"models-{NAME}-rollout"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": f"{NAME}-rollout", "namespace": "models"}]
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get"}
    assert allowed(role["rules"], "get", "gatewayclasses", "any")
    assert allowed(role["rules"], "get", "gateways", "public")
    assert not allowed(role["rules"], "get", "gateways", "another")


def test_a_job_runs_once_for_what_it_rolls_out() -> None:
    def name(more: Values) -> str:
        return str(render(changed(MINIMAL, {**JOB, **more})).one("Job")["metadata"]["name"])

    assert name({}) == name({"replicas": 5})
    assert name({}) != name({"security.user": 20000})  # the pods of a Job cannot be changed
    assert len({name({}), name({"canary.image": {"digest": f"sha256:{'9' * 64}"}}), name({"rollout.plan": "x = 1\n"})}) == 3


def test_a_job_that_has_judged_is_not_asked_again_and_one_that_was_killed_goes_on() -> None:
    spec = render(changed(MINIMAL, JOB)).one("Job")["spec"]
    assert spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [1, 2, 4]
    assert spec["podFailurePolicy"]["rules"][0] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert spec["backoffLimit"] > 0
    pod = spec["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == (f"{NAME}-rollout", True)


def test_the_job_rolls_out_by_a_plan_that_comes_along_or_one_of_ones_own() -> None:
    def command(more: Values) -> list[str]:
        return list(render(changed(MINIMAL, {**JOB, **more})).one("Job")["spec"]["template"]["spec"]["containers"][0]["command"])

    start = ["pilotage", "rollout", "start", "--name", NAME, "--namespace", "models"]
    assert command({})[:7] == start
    assert command({})[command({}).index("--plan") + 1] == "canary"
    own = command({"rollout.plan": 'name = "own"\n', "rollout.job.options": ["--gateway=http://gateway"]})
    assert own[own.index("--plan") + 1] == "/rollout/plan.toml"
    assert own[-1] == "--gateway=http://gateway"
    job = render(changed(MINIMAL, JOB)).one("Job")["metadata"]["name"]
    assert command({})[command({}).index("--key") + 1] == job
    assert "--supersede" in command({})
    rendering = render(changed(MINIMAL, {**JOB, "rollout.plan": 'name = "own"\n'}))
    assert rendering.named("ConfigMap", f"{NAME}-rollout")["data"]["plan.toml"] == 'name = "own"\n'


def test_the_job_has_the_volumes_of_the_values_beside_its_own_and_is_another_one_with_them() -> None:
    volumes = [
        {"name": "recorded", "configMap": {"name": "recorded-requests"}},
        {"name": "prometheus", "secret": {"secretName": "prometheus-token", "defaultMode": 288}},
    ]
    mounts = [
        {"name": "recorded", "mountPath": "/recorded", "readOnly": True},
        {"name": "prometheus", "mountPath": "/prometheus", "readOnly": True},
    ]
    plain = render(changed(MINIMAL, JOB)).one("Job")
    names = {plain["metadata"]["name"]}
    for given in ({"rollout.job.volumes": volumes}, {"rollout.job.volumes": volumes, "rollout.job.volumeMounts": mounts}):
        job = render(changed(MINIMAL, {**JOB, **given})).one("Job")
        names.add(job["metadata"]["name"])
    assert len(names) == 3
    own, with_them = (each["spec"]["template"]["spec"] for each in (plain, job))
    assert with_them["volumes"] == [*own["volumes"], *volumes]
    assert with_them["containers"][0]["volumeMounts"] == [*own["containers"][0]["volumeMounts"], *mounts]
    # The pods that load the arms get their requests from the rollout.
    load = templates({**JOB, "rollout.job.volumes": volumes, "rollout.job.volumeMounts": mounts})["load.json"]
    assert "recorded" not in {volume["name"] for volume in load["spec"]["template"]["spec"]["volumes"]}


def test_argo_takes_the_pods_of_stable_over_and_both_services_select_them() -> None:
    rendering = render(changed(MINIMAL, ARGO))
    rollout = rendering.one("Rollout")["spec"]
    assert rollout["workloadRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{NAME}-stable", "scaleDown": "progressively"}
    pods = rendering.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert rollout["selector"]["matchLabels"].items() <= pods.items()
    for service in (rollout["strategy"]["canary"]["stableService"], rollout["strategy"]["canary"]["canaryService"]):
        assert rendering.named("Service", service)["spec"]["selector"].items() <= pods.items()


def test_argo_judges_by_our_load_test_between_its_steps() -> None:
    rendering = render(changed(MINIMAL, ARGO))
    steps = rendering.one("Rollout")["spec"]["strategy"]["canary"]["steps"]
    analysis = {"analysis": {"templates": [{"templateName": f"{NAME}-judge"}]}}
    assert steps == [{"setWeight": 10}, analysis, {"setWeight": 50}, analysis]
    assert rendering.one("AnalysisTemplate")["metadata"]["name"] == f"{NAME}-judge"


def test_the_analysis_of_argo_compares_both_versions_at_their_own_services() -> None:
    (metric,) = render(changed(MINIMAL, ARGO)).one("AnalysisTemplate")["spec"]["metrics"]
    command = metric["provider"]["job"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[command.index("--profile") + 1] == "canary"
    assert f"--arm=baseline=http://{NAME}-stable:80" in command
    assert f"--arm=canary=http://{NAME}-canary:80" in command
    assert metric["failureLimit"] == 0


def test_standing_arms_have_no_rights() -> None:
    assert render(changed(MINIMAL, {**GATEWAY, **ARMS})).of_kind("Role") == []
