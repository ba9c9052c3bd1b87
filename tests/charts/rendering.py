"""The chart, rendered by Helm 4 in this process."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart, HelmError, values_from_yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pilotage"
EXAMPLES = sorted((CHART / "ci").glob("*.yaml"))
RELEASE, NAMESPACE = "ranker", "models"
MINIMAL: dict[str, Any] = {"image": {"repository": "registry.example/pilotage", "digest": f"sha256:{'0' * 64}"}}
"""What nobody can install without."""

Object = dict[str, Any]
Values = dict[str, Any]


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a key that stands twice in a mapping: the API server would take one of both, nobody knows which."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"stands twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


# The plain constructor of mappings does not call the method above.
_StrictLoader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node, deep=True))


@dataclass(frozen=True)
class Rendering:
    """What an installation applies, and what it prints. Cached: do not change the objects."""

    objects: tuple[Object, ...]
    notes: str

    @property
    def everything(self) -> tuple[Object, ...]:
        """The objects, and those that ConfigMaps carry for somebody else to apply: what the rollout makes."""
        carried: list[Object] = []
        for each in self.of_kind("ConfigMap"):
            parsed = [json.loads(text) for key, text in each.get("data", {}).items() if key.endswith(".json")]
            carried += [thing for thing in parsed if isinstance(thing, dict) and {"apiVersion", "kind"} <= thing.keys()]
        return (*self.objects, *carried)

    def of_kind(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def named(self, kind: str, name: str) -> Object:
        """The object of `kind` with this name; its absence fails the test that asked, with what there is."""
        found = {each["metadata"]["name"]: each for each in self.of_kind(kind)}
        assert name in found, f"no {kind} {name}, but {sorted(found)}"
        return found[name]

    def one(self, kind: str) -> Object:
        found = self.of_kind(kind)
        assert len(found) == 1, f"{len(found)} of kind {kind}: {[each['metadata']['name'] for each in found]}"
        return found[0]


@cache
def chart() -> Chart:
    return Chart.load(CHART)


def render(values: Values | None = None, *, upgrade: bool = False, path: Path | None = None) -> Rendering:
    """Render the chart, or the one at `path`, as ``helm install ranker`` or ``helm upgrade ranker`` would in namespace ``models``."""
    loaded = chart() if path is None else Chart.load(path)
    files = loaded.render(
        values or {}, name=RELEASE, namespace=NAMESPACE, revision=2 if upgrade else 1, is_install=not upgrade, is_upgrade=upgrade
    )
    objects: list[Object] = []
    for name, text in sorted(files.items()):
        if name.endswith((".yaml", ".yml")):
            objects += [each for each in yaml.load_all(text, Loader=_StrictLoader) if each is not None]
    return Rendering(tuple(objects), next((text for name, text in files.items() if name.endswith("templates/NOTES.txt")), ""))


@cache
def example_values(path: Path) -> Values:
    return values_from_yaml(path.read_text())


@cache
def render_example(path: Path) -> Rendering:
    return render(example_values(path))


def refusal(values: Values) -> str:
    """Why the chart refuses `values`: by its schema or by a template. Fails where it takes them."""
    try:
        render(values)
    except HelmError as error:
        return str(error)
    raise AssertionError(f"the chart takes {values}")


def changed(values: Values, changes: Mapping[str, Any]) -> Values:
    """A copy of `values` with some set by dotted path, like ``--set``: ``{"canary.enabled": True}``."""
    result = copy.deepcopy(values)
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return result


def pod_templates(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod that the objects would start: a name to tell it by, and its template."""
    for each in objects:
        title = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield title, {"metadata": each["metadata"], "spec": each["spec"]}
        elif each["kind"] == "CronJob":
            yield title, each["spec"]["jobTemplate"]["spec"]["template"]
        elif each["kind"] == "AnalysisTemplate":
            for metric in each["spec"]["metrics"]:
                if "job" in metric["provider"]:
                    yield f"{title} {metric['name']}", metric["provider"]["job"]["spec"]["template"]
        elif isinstance(each.get("spec"), dict) and "template" in each["spec"]:
            yield title, each["spec"]["template"]


def containers(template: Object) -> list[Object]:
    """All containers of a pod template, those that run first included."""
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec.get("containers", [])]
