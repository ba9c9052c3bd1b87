"""An upgrade changes nothing that the API server refuses to change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, EXAMPLES, MINIMAL, Object, Rendering, Values, changed, example_values, render

CHANGES: dict[str, Values] = {
    "another image": {"image.digest": f"sha256:{'1' * 64}"},
    "another bundle": {"bundles": [{"source": "image", "path": "another"}]},
    "a canary comes": {"canary.enabled": True, "canary.image": {"digest": f"sha256:{'2' * 64}"}, "baseline.enabled": True},
    "more resources": {"resources": {"requests": {"cpu": "4", "memory": "4Gi"}, "limits": {"cpu": "4", "memory": "4Gi"}}},
    "labels and annotations": {"commonLabels": {"team": "ranking"}, "pod.annotations": {"seen": "yes"}},
    "a scaler comes": {"autoscaling.hpa.enabled": True},
}


IMMUTABLE: dict[str, Callable[[Object], Any]] = {
    "Deployment": lambda spec: spec["selector"],
    "Service": lambda spec: spec.get("clusterIP", "one of the cluster's"),
    "Job": lambda spec: [spec["template"], spec.get("selector"), spec.get("completions")],
    "PersistentVolumeClaim": lambda spec: [spec.get(key) for key in ("accessModes", "storageClassName", "volumeName", "selector")],
    "Rollout": lambda spec: spec.get("selector"),
}
"""What of the ``spec`` can be set once."""


def immutable(thing: Object) -> Any:
    """The fields of an object that can be set once; None where there are none."""
    if thing["kind"] in {"RoleBinding", "ClusterRoleBinding"}:
        return thing["roleRef"]
    if thing.get("immutable"):  # of a ConfigMap or a Secret
        return thing.get("data")
    return IMMUTABLE[thing["kind"]](thing["spec"]) if thing["kind"] in IMMUTABLE else None


def is_hook(thing: Object) -> bool:
    """Hooks, such as the pods of ``helm test``, are deleted before they are made again."""
    return "helm.sh/hook" in thing["metadata"].get("annotations", {})


def fields(rendering: Rendering) -> dict[str, Any]:
    named = {f"{each['kind']}/{each['metadata']['name']}": each for each in rendering.everything if not is_hook(each)}
    return {name: told for name, each in named.items() if (told := immutable(each)) is not None}


def assert_kept(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert {name: new[name] for name in old.keys() & new.keys()} == {name: old[name] for name in old.keys() & new.keys()}


def newer_chart(folder: Path) -> Path:
    """The chart as its next version."""
    copy = Path(shutil.copytree(CHART, folder / "pilotage"))
    meta = yaml.safe_load((copy / "Chart.yaml").read_text())
    (copy / "Chart.yaml").write_text(yaml.safe_dump({**meta, "version": "99.0.0", "appVersion": "99.0.0"}))
    return copy


@pytest.mark.parametrize("change", CHANGES)
def test_changed_values_change_no_immutable_field(change: str) -> None:
    before, after = render(MINIMAL), render(changed(MINIMAL, CHANGES[change]), upgrade=True)
    assert before.objects != after.objects
    assert_kept(fields(before), fields(after))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_next_version_of_the_chart_changes_no_immutable_field(example: Path, tmp_path: Path) -> None:
    values = example_values(example)
    before, after = render(values), render(values, upgrade=True, path=newer_chart(tmp_path))
    assert before.objects != after.objects, "the labels have the chart's version"
    assert fields(before) == fields(after)


def test_a_change_of_a_selector_would_be_told() -> None:
    before = fields(render(MINIMAL))
    after = fields(render(changed(MINIMAL, {"nameOverride": "another"})))
    with pytest.raises(AssertionError):
        assert_kept(before, {**before, **{name: after.get(name, {"matchLabels": {}}) for name in before}})


def test_selectors_are_those_that_installations_have() -> None:
    """Written down here, since a template and its selector would change together in one commit, and no upgrade could be made."""
    kept = fields(render(changed(MINIMAL, CHANGES["a canary comes"])))
    for arm in ("stable", "baseline", "canary"):
        assert kept[f"Deployment/ranker-pilotage-{arm}"] == {
            "matchLabels": {
                "app.kubernetes.io/name": "pilotage",
                "app.kubernetes.io/instance": "ranker",
                "app.kubernetes.io/component": "service",
                "pilotage.dev/arm": arm,
            }
        }
