"""Nothing goes in or out of the service's pods but through holes that the values state."""

from __future__ import annotations

from tests.charts.rendering import MINIMAL, Object, Values, changed, render

DOWNLOAD = [{"source": "download", "name": "a", "url": "https://models.example/a", "sha256": "e" * 64}]


def policy(changes: Values | None = None) -> Object:
    return render(changed(MINIMAL, changes or {})).one("NetworkPolicy")["spec"]


def test_by_default_the_namespace_may_ask_and_nothing_goes_out() -> None:
    spec = policy()
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    tests, namespace = rule["from"]
    assert namespace == {"podSelector": {}}
    assert tests["podSelector"]["matchExpressions"][1]["values"] == ["rollout", "load", "gate", "test"]


def test_all_arms_are_under_it_those_of_a_rollout_too() -> None:
    assert set(policy()["podSelector"]["matchLabels"]) == {
        "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"
    }  # fmt: skip


def test_without_clients_only_the_tests_and_rollouts_of_the_release_may_ask() -> None:
    assert len(policy({"networkPolicy.clients": []})["ingress"][0]["from"]) == 1


def test_gateway_and_monitoring_are_let_in_where_they_are_named() -> None:
    changes = {
        "networkPolicy.clients": [],
        "networkPolicy.gateway": [{"namespaceSelector": {}}],
        "networkPolicy.monitoring": [{"podSelector": {"matchLabels": {"a": "b"}}}],
    }
    assert policy(changes)["ingress"][0]["from"][1:] == [{"namespaceSelector": {}}, {"podSelector": {"matchLabels": {"a": "b"}}}]


def test_a_download_opens_the_way_to_names_and_to_the_store() -> None:
    names, store = policy({"bundles": DOWNLOAD, "networkPolicy.bundles": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]})["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert store == {"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]}


def test_a_download_of_an_arm_alone_opens_it_as_well() -> None:
    assert "egress" in policy({"canary.enabled": True, "canary.bundles": DOWNLOAD})
    assert "egress" in policy({"rollout.enabled": True, "canary.bundles": DOWNLOAD})
    assert "egress" not in policy({"canary.bundles": DOWNLOAD})


def test_traces_open_the_way_to_their_collector() -> None:
    names, collector = policy({"tracing.endpoint": "http://collector:4318", "settings.traceSampleRate": 0.1})["egress"]
    assert names["ports"]
    assert collector == {"to": [{"namespaceSelector": {}}]}
