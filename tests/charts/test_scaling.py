"""How many pods there are, and how many may be missing."""

from __future__ import annotations

import pytest
from helm_python.chart import lint

from tests.charts.rendering import CHART, MINIMAL, Object, Values, changed, refusal, render
from tests.charts.test_checks import ARGO

NAME = "ranker-pilotage"
HPA: Values = {"autoscaling.hpa.enabled": True}
KEDA: Values = {"autoscaling.keda.enabled": True, "autoscaling.keda.prometheusAddress": "http://prometheus:9090"}


def scaler(changes: Values, kind: str) -> Object:
    return render(changed(MINIMAL, changes)).one(kind)["spec"]


def test_the_hpa_owns_stable_and_looks_at_the_service_not_at_its_sidecars() -> None:
    spec = scaler(HPA, "HorizontalPodAutoscaler")
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{NAME}-stable"}
    (metric,) = spec["metrics"]
    assert metric["containerResource"] == {
        "container": "service",
        "name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 60},
    }


def test_the_hpa_goes_up_at_once_and_down_slowly() -> None:
    behaviour = scaler(HPA, "HorizontalPodAutoscaler")["behavior"]
    assert behaviour["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == 300
    assert {policy["type"] for policy in behaviour["scaleUp"]["policies"]} == {"Percent", "Pods"}
    assert "tolerance" not in behaviour["scaleUp"]


def test_a_tolerance_is_refused_where_the_api_server_would_drop_it() -> None:
    values = changed(MINIMAL, {**HPA, "autoscaling.down.tolerancePct": 20})
    assert "are known to Kubernetes from 1.37 on" in refusal(values)
    assert lint(CHART, values, kube_version="v1.37.0")["errors"] == []


def test_the_hpa_scales_by_requests_under_way_and_waiting() -> None:
    changes = {**HPA, "autoscaling.inFlight.enabled": True, "autoscaling.queue.enabled": True, "autoscaling.cpu.enabled": False}
    metrics = scaler(changes, "HorizontalPodAutoscaler")["metrics"]
    assert {each["pods"]["metric"]["name"]: each["pods"]["target"]["averageValue"] for each in metrics} == {
        "pilotage_requests_in_flight": "1", "pilotage_requests_queued": "0.5"
    }  # fmt: skip


def test_keda_asks_prometheus_for_pods_of_this_release() -> None:
    spec = scaler({**KEDA, "autoscaling.inFlight.enabled": True, "autoscaling.queue.enabled": True}, "ScaledObject")
    cpu, in_flight, queue = spec["triggers"]
    assert cpu["metadata"] == {"value": "60", "containerName": "service"}
    for trigger, metric in ((in_flight, "pilotage_request_seconds_sum"), (queue, "pilotage_stage_seconds_sum")):
        assert trigger["metadata"]["query"].startswith(f'sum(rate({metric}{{namespace="models",pod=~"{NAME}-.+"')
    assert spec["fallback"]["replicas"] == 4


def test_keda_by_cpu_alone_has_no_fallback_which_knows_averages_of_metrics_only() -> None:
    assert "fallback" not in scaler(KEDA, "ScaledObject")


@pytest.mark.parametrize(("changes", "kind"), [(HPA, "HorizontalPodAutoscaler"), (KEDA, "ScaledObject")])
def test_a_scaler_scales_the_rollout_of_argo_where_that_owns_the_pods(changes: Values, kind: str) -> None:
    rendering = render(changed(MINIMAL, {**ARGO, **changes}))
    assert rendering.one(kind)["spec"]["scaleTargetRef"]["kind"] == "Rollout"
    assert "replicas" not in rendering.one("Rollout")["spec"]
    assert "replicas" not in rendering.one("Deployment")["spec"]


def test_a_node_drain_takes_stable_pods_one_by_one_and_never_waits_for_broken_ones() -> None:
    spec = render(MINIMAL).one("PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == 1
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert spec["selector"]["matchLabels"]["pilotage.dev/arm"] == "stable"
    assert render(changed(MINIMAL, {"pdb.enabled": False})).of_kind("PodDisruptionBudget") == []
