"""Whether an object is what the Kubernetes API, or the definition of a custom resource, takes: strictly, unknown fields are refused.

Kubernetes' own schemas come with the wheel ``kubernetes-validate``, those of Gateway API, KEDA, prometheus-operator and Argo Rollouts with
npm packages that ``make custom-resources`` installs from a lock file.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.charts.rendering import CHART, Object

CUSTOM = CHART.parents[1] / "tests" / "charts" / "custom_resources"
CUSTOM_GROUPS = ("argoproj.io", "gateway.networking.k8s.io", "keda.sh", "monitoring.coreos.com")
NODE_LIMIT_S = 60


def oldest_version() -> str:
    """The oldest Kubernetes that the chart says it runs on, as ``1.33``."""
    demand = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    found = re.fullmatch(r">=\s*v?(\d+\.\d+)\.\d+-0", demand)
    assert found, f"Chart.yaml's kubeVersion is {demand!r}; this reads the form '>=1.33.0-0', which takes vendors' suffixes too"
    return found[1]


def newest_version() -> str:
    return max(_folders(), key=lambda version: tuple(map(int, version.split("."))))


def is_custom(thing: Object) -> bool:
    return thing["apiVersion"].split("/")[0] in CUSTOM_GROUPS


def complaints(thing: Object, version: str) -> list[str]:
    """What Kubernetes `version` would not take in an object of its own API; empty if all is well."""
    # apps/v1 is in deployment-apps-v1.json, rbac.authorization.k8s.io/v1 in role-rbac-v1.json, v1 in service-v1.json.
    group, _, api = thing["apiVersion"].rpartition("/")
    name = "-".join(part for part in (thing["kind"].lower(), group.split(".")[0], api) if part)
    validator = _validator(version, f"{name}.json")
    if validator is None:
        return [f"Kubernetes {version} has no kind {thing['kind']} in {thing['apiVersion']}"]
    return [f"{error.json_path} {error.message}" for error in validator.iter_errors(thing)]


def custom_complaints(things: Sequence[Object]) -> list[list[str]]:
    """What the definitions of custom resources would not take, for each of `things`; the test is skipped where they are not at hand."""
    if not things:
        return []
    node = shutil.which("node")
    if node is None or not (CUSTOM / "node_modules").is_dir():
        pytest.skip("the schemas of custom resources are not installed: `make custom-resources` does it with npm")
    ran = subprocess.run([node, "validate.mjs"], cwd=CUSTOM, input=json.dumps(things), capture_output=True, text=True, timeout=NODE_LIMIT_S)
    assert ran.returncode == 0, ran.stderr
    answers: list[list[str]] = json.loads(ran.stdout)
    return answers


@cache
def _folders() -> dict[str, Traversable]:
    root = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    found = ((re.fullmatch(r"v(\d+\.\d+)\.\d+-local-strict", folder.name), folder) for folder in root.iterdir())
    return {match[1]: folder for match, folder in found if match}


@cache
def _definitions(version: str) -> Registry:
    contents = json.loads((_folders()[version] / "_definitions.json").read_text())
    return Registry().with_resource("/api/_definitions.json", Resource.from_contents(contents, default_specification=DRAFT202012))


@cache
def _validator(version: str, name: str) -> Draft202012Validator | None:
    file = _folders()[version] / name
    if not file.is_file():
        return None
    return Draft202012Validator(json.loads(file.read_text()), registry=_definitions(version))
