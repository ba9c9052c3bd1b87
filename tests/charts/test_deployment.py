"""The pods: three arms of one template, stopped without a lost request, threads that fit their CPU, bundles from four places."""

from __future__ import annotations

import math
from typing import Any

import pytest

from serving.services.settings import ServiceSettings
from tests.charts.rendering import MINIMAL, Object, Values, changed, render

NAME = "ranker-pilotage"
ALL_ARMS = {"baseline.enabled": True, "canary.enabled": True}


def deployment(changes: Values | None = None, arm: str = "stable") -> Object:
    return render(changed(MINIMAL, changes or {})).named("Deployment", f"{NAME}-{arm}")


def pod(changes: Values | None = None, arm: str = "stable") -> Object:
    return deployment(changes, arm)["spec"]["template"]["spec"]


def service(changes: Values | None = None, arm: str = "stable") -> Object:
    return pod(changes, arm)["containers"][0]


def environment(changes: Values | None = None, arm: str = "stable") -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in service(changes, arm)["env"]}


def test_an_update_takes_no_pod_away_before_its_successor_is_ready() -> None:
    spec = deployment()["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}}
    assert spec["minReadySeconds"] > 0


@pytest.mark.parametrize(("sleep_s", "drain_s", "grace_s"), [(5, 5, 10), (0, 0.5, 1), (30, 12.5, 60)])
def test_the_grace_period_is_longer_than_sleep_drain_and_last_answers_together(sleep_s: int, drain_s: float, grace_s: float) -> None:
    changes = {"drain.preStopSeconds": sleep_s, "drain.drainSeconds": drain_s, "drain.graceSeconds": grace_s}
    total_s = sleep_s + drain_s + grace_s
    assert pod(changes)["terminationGracePeriodSeconds"] == math.ceil(total_s) + 5
    variables = environment(changes)
    assert (float(variables["PILOTAGE_DRAIN_S"]), float(variables["PILOTAGE_GRACE_S"])) == (drain_s, grace_s)
    wanted = {"preStop": {"sleep": {"seconds": sleep_s}}} if sleep_s else None  # a sleep of 0 is refused before Kubernetes 1.34
    assert service(changes).get("lifecycle") == wanted


def test_probes_ask_the_endpoints_of_the_service() -> None:
    container = service()
    paths = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    readiness = container["readinessProbe"]
    # While it drains the service answers, and says no to `/readyz`: that must be seen before the drain ends.
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= float(environment()["PILOTAGE_DRAIN_S"])


def test_the_service_listens_where_the_probes_and_services_look() -> None:
    variables = environment({"pod.port": 8080})
    assert (variables["BENTOML_HOST"], variables["BENTOML_PORT"]) == ("0.0.0.0", "8080")
    assert service({"pod.port": 8080})["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]


def test_every_variable_that_the_chart_sets_is_a_setting_of_the_service() -> None:
    settings = {"workers": 2, "threads": 2, "provider": "cpu", "arenaMib": 64, "objectiveMs": 20, "maxCandidates": 10, "maxBodyBytes": 2048,
                "classifyObjectiveMs": 300, "textBudgetS": 2, "maxImages": 2, "maxLabels": 9, "maxUploadBytes": 4096, "maxImagePixels": 100,
                "labelCacheMib": 16, "reloadS": 5, "traceSampleRate": 0.5, "logLevel": "INFO"}  # fmt: skip
    changes = {f"settings.{name}": value for name, value in settings.items()}
    bundles = [{"source": "image", "path": "bundle", "sha256": "a" * 64}]
    variables = environment({**changes, "auth.secretName": "tokens", "tracing.endpoint": "http://collector:4318", "bundles": bundles})
    names = {name.removeprefix("PILOTAGE_").lower() for name in variables if name.startswith("PILOTAGE_")}
    assert names == set(ServiceSettings.model_fields)


def test_a_setting_that_is_null_is_left_to_the_service() -> None:
    assert {name for name in environment() if name.startswith("PILOTAGE_")} == {
        "PILOTAGE_BUNDLE", "PILOTAGE_STATE_DIR", "PILOTAGE_DRAIN_S", "PILOTAGE_GRACE_S"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("requests", "limits", "settings", "threads"),
    [
        ({"cpu": "4"}, {"cpu": "4"}, {}, None),  # the service reads its quota
        ({"cpu": "4"}, {}, {}, "4"),  # without a quota it would take the whole node for its own
        ({"cpu": "2500m"}, {}, {}, "3"),
        ({"cpu": 1.5}, {}, {}, "2"),
        ({"cpu": "4"}, {}, {"workers": 4}, "1"),
        ({"cpu": "500m"}, {}, {"workers": 4}, "1"),
        ({"cpu": "4"}, {}, {"threads": 2}, "2"),
        ({"cpu": "4"}, {"cpu": "4"}, {"threads": 0}, "0"),
        ({"memory": "1Gi"}, {}, {}, None),
    ],
)
def test_threads_follow_the_cpu(requests: Object, limits: Object, settings: Object, threads: str | None) -> None:
    values = changed(MINIMAL, {f"settings.{name}": value for name, value in settings.items()})
    # null takes a default away, as with --set resources.limits.cpu=null
    values["resources"] = {"requests": {"cpu": None, "memory": "1Gi", **requests}, "limits": {"cpu": None, "memory": "1Gi", **limits}}
    container = render(values).named("Deployment", f"{NAME}-stable")["spec"]["template"]["spec"]["containers"][0]
    assert {each["name"]: each.get("value") for each in container["env"]}.get("PILOTAGE_THREADS") == threads


def test_an_arm_is_as_stable_where_its_values_say_nothing() -> None:
    stable, baseline = deployment(ALL_ARMS), deployment(ALL_ARMS, "baseline")
    assert baseline["spec"]["template"]["spec"]["containers"] == stable["spec"]["template"]["spec"]["containers"]
    assert baseline["spec"]["replicas"] == 1
    assert baseline["spec"]["selector"]["matchLabels"]["pilotage.dev/arm"] == "baseline"


def test_a_canary_has_an_image_bundle_replicas_settings_and_resources_of_its_own() -> None:
    own = {
        "canary.image": {"digest": f"sha256:{'9' * 64}"},
        "canary.bundles": [{"source": "image", "path": "other"}],
        "canary.replicas": 3,
        "canary.settings": {"workers": 4, "reloadS": 0},
        "canary.resources": {"requests": {"cpu": "8"}, "limits": {"cpu": "8", "memory": "1Gi"}},
        "canary.env": [{"name": "EXTRA", "value": "yes"}],
    }
    changes = {**ALL_ARMS, **own, "settings.workers": 2, "settings.reloadS": 5, "settings.objectiveMs": 30}
    variables = environment(changes, "canary")
    assert service(changes, "canary")["image"] == f"registry.example/pilotage@sha256:{'9' * 64}"
    assert (variables["PILOTAGE_BUNDLE"], variables["PILOTAGE_WORKERS"], variables["PILOTAGE_RELOAD_S"]) == ("other", "4", "0")
    assert (variables["PILOTAGE_OBJECTIVE_MS"], variables["EXTRA"]) == ("30", "yes")
    assert service(changes, "canary")["resources"]["limits"]["cpu"] == "8"
    assert deployment(changes, "canary")["spec"]["replicas"] == 3
    assert environment(changes)["PILOTAGE_WORKERS"] == "2"


def test_a_variable_of_the_canary_takes_the_place_of_stables() -> None:
    changes = {**ALL_ARMS, "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}], "canary.env": [{"name": "A", "value": "2"}]}
    assert [each["value"] for each in service(changes, "canary")["env"] if each["name"] in ("A", "B")] == ["1", "2"]
    assert [each["value"] for each in service(changes)["env"] if each["name"] in ("A", "B")] == ["1", "1"]


def test_a_tag_of_the_canary_does_not_run_under_the_digest_of_stable() -> None:
    assert service({**ALL_ARMS, "canary.image": {"tag": "next"}}, "canary")["image"] == "registry.example/pilotage:next"


@pytest.mark.parametrize("scaler", ["hpa", "keda"])
def test_replicas_are_left_to_a_scaler_of_stable_alone(scaler: str) -> None:
    changes = {**ALL_ARMS, f"autoscaling.{scaler}.enabled": True}
    assert "replicas" not in deployment(changes)["spec"]
    assert deployment(changes, "canary")["spec"]["replicas"] == 1


def test_pods_of_an_arm_are_spread_by_release_of_the_arm() -> None:
    spread = pod(ALL_ARMS, "canary")["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert all(each["labelSelector"]["matchLabels"]["pilotage.dev/arm"] == "canary" for each in spread)
    assert all(each["matchLabelKeys"] == ["pod-template-hash"] for each in spread)
    assert "topologySpreadConstraints" not in pod({"pod.topologySpread.enabled": False})


def test_the_version_of_the_chart_is_no_reason_to_replace_pods() -> None:
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & deployment()["spec"]["template"]["metadata"]["labels"].keys()


def test_tokens_come_from_a_secret_whose_file_is_read_again() -> None:
    changes = {"auth.secretName": "ranker-tokens", "auth.secretKey": "list"}
    assert environment(changes)["PILOTAGE_TOKEN_FILE"] == "/etc/pilotage/tokens/list"  # noqa: S105 - a path
    volume = next(each for each in pod(changes)["volumes"] if each["name"] == "tokens")
    assert volume["secret"]["secretName"] == "ranker-tokens"
    mount = next(each for each in service(changes)["volumeMounts"] if each["name"] == "tokens")
    assert "subPath" not in mount  # a file mounted by itself is never renewed


def test_label_sets_lie_in_the_pod_or_in_a_claim_that_all_pods_share() -> None:
    def state(changes: Values) -> Object:
        return next(each for each in pod(changes)["volumes"] if each["name"] == "state")

    assert state({"pod.stateSizeLimit": "2Gi"}) == {"name": "state", "emptyDir": {"sizeLimit": "2Gi"}}
    assert state({"pod.stateClaimName": "label-sets"}) == {"name": "state", "persistentVolumeClaim": {"claimName": "label-sets"}}
    assert environment()["PILOTAGE_STATE_DIR"] == next(each["mountPath"] for each in service()["volumeMounts"] if each["name"] == "state")


BUNDLES: list[Object] = [
    {"source": "image", "path": "bundle"},
    {"source": "oci", "name": "clip", "reference": f"registry.example/clip@sha256:{'c' * 64}", "path": "model", "sha256": "d" * 64},
    {"source": "claim", "name": "shared", "claimName": "bundles", "path": "ranker/7"},
    {"source": "download", "name": "fresh", "url": "https://models.example/ranker/8", "sha256": "e" * 64},
]


def test_bundles_come_from_the_image_a_registry_a_claim_and_a_download() -> None:
    variables = environment({"bundles": BUNDLES})
    assert variables["PILOTAGE_BUNDLE"] == "bundle,/bundles/clip/model,/bundles/shared/ranker/7,/bundles/fresh/bundle"
    assert variables["PILOTAGE_BUNDLE_SHA256"] == f",{'d' * 64},,{'e' * 64}"
    volumes = {each["name"]: each for each in pod({"bundles": BUNDLES})["volumes"]}
    assert volumes["bundle-clip"]["image"] == {"reference": f"registry.example/clip@sha256:{'c' * 64}", "pullPolicy": "IfNotPresent"}
    assert volumes["bundle-shared"]["persistentVolumeClaim"] == {"claimName": "bundles", "readOnly": True}
    assert volumes["bundle-fresh"]["emptyDir"] == {"sizeLimit": "2Gi"}
    mounts = [each for each in service({"bundles": BUNDLES})["volumeMounts"] if each["name"].startswith("bundle-")]
    assert len(mounts) == 3
    assert all(each["readOnly"] for each in mounts)


def test_a_download_runs_first_with_the_image_of_its_arm_and_checks_the_manifest() -> None:
    changes = {**ALL_ARMS, "bundles": BUNDLES, "canary.image": {"digest": f"sha256:{'9' * 64}"}, "bundleDownload.secretName": "bucket"}
    (download,) = pod(changes, "canary")["initContainers"]
    assert download["image"].endswith("9" * 64)
    assert download["command"] == ["python", "-m", "serving.fetch"]
    assert download["args"] == ["https://models.example/ranker/8", "/bundles/fresh/bundle", "--sha256", "e" * 64]
    assert download["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert "initContainers" not in pod()


def test_a_download_trusts_the_certificates_of_the_house() -> None:
    (download,) = pod({"bundles": BUNDLES, "bundleDownload.ca.configMapName": "house"})["initContainers"]
    assert {"name": "SSL_CERT_FILE", "value": "/etc/pilotage/ca/ca.crt"} in download["env"]


def test_traces_say_which_arm_they_are_of() -> None:
    changes = {**ALL_ARMS, "tracing.endpoint": "http://collector:4318", "settings.traceSampleRate": 0.01}
    assert environment(changes, "canary")["OTEL_RESOURCE_ATTRIBUTES"].endswith(",pilotage.arm=canary")
    assert "OTEL_SERVICE_NAME" not in environment()


def test_nothing_of_the_cluster_comes_into_the_environment() -> None:
    assert pod()["enableServiceLinks"] is False
    assert pod()["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("changes", "account"),
    [({}, NAME), ({"serviceAccount.name": "own"}, "own"), ({"serviceAccount.create": False}, "default")],
)
def test_pods_have_a_service_account_that_there_is(changes: Values, account: str) -> None:
    assert pod(changes)["serviceAccountName"] == account
    accounts = [each["metadata"]["name"] for each in render(changed(MINIMAL, changes)).of_kind("ServiceAccount")]
    assert accounts == ([account] if account != "default" else [])
