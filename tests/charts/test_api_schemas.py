"""Every object of every example is what the API servers of the oldest and the newest supported version take."""

from __future__ import annotations

from pathlib import Path

import pytest
from helm_python.chart import lint

from tests.charts.api_schemas import complaints, custom_complaints, is_custom, newest_version, oldest_version
from tests.charts.rendering import CHART, EXAMPLES, Object, example_values, render_example

example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)

ROUTE: Object = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "ranker", "labels": {"app": "ranker"}},
    "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": [{"name": "ranker", "port": 80, "weight": 10}]}]},
}
SERVICE: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "ranker"},
    "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}},
}


@example
@pytest.mark.parametrize("version", ["oldest", "newest"])
def test_every_example_keeps_the_schemas_of_kubernetes(example: Path, version: str) -> None:
    number = oldest_version() if version == "oldest" else newest_version()
    things = [each for each in render_example(example).everything if not is_custom(each)]
    assert things
    assert {f"{each['kind']}/{each['metadata']['name']}": found for each in things if (found := complaints(each, number))} == {}


@example
def test_every_example_keeps_the_definitions_of_custom_resources(example: Path) -> None:
    things = [each for each in render_example(example).everything if is_custom(each)]
    found = custom_complaints(things)
    assert {f"{each['kind']}/{each['metadata']['name']}": told for each, told in zip(things, found, strict=True) if told} == {}


@example
def test_helm_finds_nothing_to_say_about_an_example(example: Path) -> None:
    report = lint(CHART, example_values(example), strict=True, kube_version=f"v{newest_version()}.0")
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"] if message["severity"] > 1] == []


def test_a_field_that_the_api_does_not_know_is_told() -> None:
    assert complaints(SERVICE, newest_version()) == []
    misspelt = {**SERVICE, "spec": {**SERVICE["spec"], "sesionAffinity": "ClientIP"}}
    assert any("sesionAffinity" in found for found in complaints(misspelt, newest_version()))
    assert complaints({**SERVICE, "kind": "Servise"}, newest_version()) == [f"Kubernetes {newest_version()} has no kind Servise in v1"]


def test_a_field_that_a_custom_resource_does_not_know_is_told() -> None:
    misspelt = {**ROUTE, "spec": {**ROUTE["spec"], "parentRefs": [{"name": "gateway", "sectionNam": "http"}]}}
    wrong = {**ROUTE, "spec": {**ROUTE["spec"], "hostnames": "ranker.example"}}
    unknown = {**ROUTE, "kind": "HTTPRout"}
    fine, no_such_field, no_list, no_kind = custom_complaints([ROUTE, misspelt, wrong, unknown])
    assert fine == []
    assert no_such_field == ["$.spec.parentRefs[0].sectionNam is an unknown field"]
    assert any("hostnames must be array" in found for found in no_list)
    assert no_kind == ["gateway.networking.k8s.io/v1 has no kind HTTPRout"]
