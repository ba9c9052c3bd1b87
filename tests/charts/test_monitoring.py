"""Alerts and dashboards ask for what the service really exports; objectives are its histogram's bounds; every alert has its runbook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from serving.monitoring.metrics import BUCKETS_S
from tests.charts.exported_metrics import TARGET_LABELS, scrape
from tests.charts.rendering import CHART, EXAMPLES, MINIMAL, ROOT, Object, changed, example_values, refusal, render, render_example

pytest.importorskip("promql_parser", reason="promql-parser, of the extra dev, is not installed: no query can be read")

from tests.charts.promql import Selector, read, without_variables

WATCHED = changed(
    MINIMAL,
    {
        "monitoring.podMonitor.enabled": True,
        "monitoring.rules.enabled": True,
        "monitoring.rules.runbookUrl": "https://runbooks.example/pilotage",
        "monitoring.dashboards.enabled": True,
        "networkPolicy.monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    },
)

KUBE_STATE_METRICS = {
    "kube_deployment_status_condition": {"deployment", "condition", "status"},
    "kube_deployment_status_replicas_available": {"deployment"},
    "kube_deployment_spec_replicas": {"deployment"},
    "kube_pod_container_status_restarts_total": {"pod", "container"},
    "kube_horizontalpodautoscaler_status_current_replicas": {"horizontalpodautoscaler"},
    "kube_horizontalpodautoscaler_spec_max_replicas": {"horizontalpodautoscaler"},
}
"""Series of kube-state-metrics 2 that are stable, with their labels beside the namespace: its documentation of Deployments, pods and scalers."""

DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))


def rules() -> list[Object]:
    return [rule for group in render(WATCHED).one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def panels(board: Object) -> Iterator[Object]:
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", without_variables(target["expr"])
    for path in EXAMPLES:
        for trigger in (trigger for each in render_example(path).of_kind("ScaledObject") for trigger in each["spec"]["triggers"]):
            if trigger["type"] == "prometheus":
                yield f"{path.name}: ScaledObject", trigger["metadata"]["query"]


def known() -> dict[str, set[str]]:
    """Labels of every series that there is, beside those of scraping."""
    service = {name: set(labels) for name, labels in scrape().items()}
    recorded = {rule["record"]: set(rule["labels"]) for rule in rules() if "record" in rule}
    return {**service, **recorded, **KUBE_STATE_METRICS, "up": set()}


def _values_of(selector: Selector) -> Iterator[str]:
    """What a selector asks of the service's labels that no series of it has."""
    exported = scrape().get(selector.name, {})
    for label, operator, value in selector.matchers:
        if label in TARGET_LABELS or label in {"model", "version"} or label not in exported:
            continue
        if operator == "=" and value not in exported[label]:
            yield f"{selector.name} never has {label}={value!r}, but {sorted(exported[label])}"
        if operator == "=~" and not any(re.fullmatch(value, one) for one in exported[label]):
            yield f"{selector.name} never has {label}=~{value!r}, but {sorted(exported[label])}"


def complaints(expression: str) -> list[str]:
    """What an expression asks for that is not there."""
    selectors, groupings = read(expression)
    series = known()
    found = [f"nothing exports {one.name}" for one in selectors if one.name not in series]
    for one in selectors:
        unknown = {label for label, _, _ in one.matchers} - series.get(one.name, set()) - TARGET_LABELS
        found += [f"{one.name} has no label {label}" for label in sorted(unknown)]
        found += _values_of(one)
    for grouping in groupings:
        for name in grouping.names:
            unknown = set(grouping.labels) - series.get(name, set()) - TARGET_LABELS
            found += [f"{name} has no label {label} to group by" for label in sorted(unknown)]
    return found


def test_every_query_asks_for_what_is_exported() -> None:
    asked = list(queries())
    assert len(asked) > 40
    assert {where: found for where, expression in asked if (found := complaints(expression))} == {}


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("rate(pilotage_requests_total[5m])", "nothing exports pilotage_requests_total"),
        ('rate(pilotage_stage_seconds_sum{phase="queue"}[5m])', "pilotage_stage_seconds_sum has no label phase"),
        ('rate(pilotage_stage_seconds_sum{stage="wait"}[5m])', "pilotage_stage_seconds_sum never has stage='wait'"),
        ('pilotage_request_seconds_bucket{le="0.051"}', "pilotage_request_seconds_bucket never has le='0.051'"),
        ("sum by (route) (pilotage_shed_total)", "pilotage_shed_total has no label route to group by"),
    ],
)
def test_a_query_for_something_else_is_told(expression: str, told: str) -> None:
    assert any(found.startswith(told) for found in complaints(expression))


def test_an_objective_is_a_bound_of_the_histogram_as_prometheus_reads_it() -> None:
    bounds = scrape()["pilotage_request_seconds_bucket"]["le"]
    assert {float(bound) for bound in bounds - {"+Inf"}} == set(BUCKETS_S)
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["monitoring"]["properties"]["objectives"]
    assert set(schema["items"]["properties"]["latencySeconds"]["enum"]) == bounds - {"+Inf"}
    beside = [{**example_values(CHART / "values.yaml")["monitoring"]["objectives"][0], "latencySeconds": "0.06"}]
    assert "latencySeconds" in refusal(changed(WATCHED, {"monitoring.objectives": beside}))


def test_every_alert_has_a_section_of_the_runbook_and_links_to_it() -> None:
    headings = set(re.findall(r"^## (Pilotage\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE))
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert headings == alerts
    for rule in rules():
        if "alert" in rule:
            assert rule["annotations"]["runbook_url"] == f"https://runbooks.example/pilotage#{rule['alert'].lower()}"
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert rule["annotations"]["summary"]


def test_without_kube_state_metrics_no_rule_asks_for_it() -> None:
    groups = render(changed(WATCHED, {"monitoring.rules.kubeStateMetrics": False})).one("PrometheusRule")["spec"]["groups"]
    assert not any("kube_" in rule["expr"] for group in groups for rule in group["rules"])


def test_each_objective_has_a_group_of_its_own() -> None:
    objective: dict[str, Any] = {"availabilityPct": 99.5, "latencyPct": 95, "minRequests": 50}
    objectives = [
        {"name": "ranking", "models": "rank.*", "latencySeconds": "0.05", **objective},
        {"name": "classifying", "models": "clip.*", "latencySeconds": "1.0", **objective},
    ]
    groups = render(changed(WATCHED, {"monitoring.objectives": objectives})).one("PrometheusRule")["spec"]["groups"]
    assert [group["name"].split(".")[1] for group in groups] == ["ranking", "classifying", "alerts"]
    text = json.dumps(groups[1])
    assert 'le=\\"1.0\\"' in text
    assert 'model=~\\"clip.*\\"' in text
    assert "1 - 99.5 / 100" in text
    assert 'le=\\\\\\"0.05' not in text


def test_pods_of_every_arm_are_scraped_and_tell_their_arm() -> None:
    rendering = render(changed(WATCHED, {"canary.enabled": True}))
    monitor = rendering.one("PodMonitor")["spec"]
    for pod in rendering.of_kind("Deployment"):
        labels = pod["spec"]["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert labels["pilotage.dev/arm"] in {"stable", "canary"}
    (endpoint,) = monitor["podMetricsEndpoints"]
    targets = {one["targetLabel"]: one for one in endpoint["relabelings"]}
    assert targets["job"]["replacement"] == "ranker-pilotage"
    assert targets["arm"]["sourceLabels"] == ["__meta_kubernetes_pod_label_pilotage_dev_arm"]
    container = rendering.of_kind("Deployment")[0]["spec"]["template"]["spec"]["containers"][0]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Any) -> None:
    board = json.loads(path.read_text())
    config = render(WATCHED).named("ConfigMap", f"ranker-pilotage-dashboard-{path.stem}")
    assert json.loads(config["data"][path.name]) == board
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    ids = [panel["id"] for panel in panels(board)]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for panel in panels(board):
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval"} <= variables
        if panel["type"] != "heatmap":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    for one, other in combinations([panel["gridPos"] for panel in board["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, f"{one} and {other} overlap"


def test_a_monitor_that_the_network_policy_shuts_out_is_refused() -> None:
    assert "networkPolicy.monitoring" in refusal(changed(WATCHED, {"networkPolicy.monitoring": []}))
    assert render(changed(WATCHED, {"networkPolicy.monitoring": [], "networkPolicy.enabled": False})).one("PodMonitor")


def test_nothing_is_watched_unless_asked_for() -> None:
    kinds = {each["kind"] for each in render(MINIMAL).objects}
    assert not kinds & {"PodMonitor", "PrometheusRule"}
