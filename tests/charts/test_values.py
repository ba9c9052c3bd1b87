"""Every value is documented, in the schema, and told in the README; what is misspelt or out of bounds is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from serving.services.settings import ServiceSettings
from tests.charts.rendering import CHART, MINIMAL, changed, refusal, render
from tests.charts.values_table import README, VALUES, renewed, rows

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load(VALUES.read_text())


def leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path


def resolved(schema: Any) -> Any:
    return resolved(SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]) if "$ref" in schema else schema


def keys(schema: Any, path: str = "") -> Iterator[str]:
    """Paths of the objects' keys that the schema knows; lists and free-form objects count as leaves."""
    schema = resolved(schema)
    if "properties" not in schema:
        yield path
        return
    for key, inner in schema["properties"].items():
        yield from keys(inner, f"{path}.{key}" if path else key)


def objects_of(schema: Any) -> Iterator[Any]:
    if isinstance(schema, dict):
        if "properties" in schema and "type" in schema:
            yield schema
        for inner in schema.values():
            yield from objects_of(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from objects_of(inner)


def test_the_readme_has_the_values_as_they_are() -> None:
    text = README.read_text()
    assert text == renewed(text, VALUES.read_text()), "run `python -m tests.charts.values_table`"


def test_every_value_is_documented() -> None:
    documented = [row.path for row in rows(VALUES.read_text())]
    assert len(documented) == len(set(documented))
    undocumented = [leaf for leaf in leaves(DEFAULTS) if not any(leaf == path or leaf.startswith(f"{path}.") for path in documented)]
    assert undocumented == []
    assert all(row.meaning.endswith((".", ",", ";", ":")) for row in rows(VALUES.read_text()))


def test_the_schema_knows_the_values_that_there_are_and_no_others() -> None:
    # What a probe, an arm's image or its resources may have besides their defaults is theirs to say; `global` is Helm's own.
    free = (
        "probes.",
        "resources",
        "bundleDownload.resources",
        "tools.resources",
        "rollout.load.resources",
        "global",
        "canary.",
        "baseline.",
    )
    known = {path for path in keys(SCHEMA) if not path.startswith(free)}
    assert known == {path for path in _collapsed(known) if not path.startswith(free)}
    assert keys_of("canary") == keys_of("baseline")


def _collapsed(known: set[str]) -> set[str]:
    """The default leaves, those inside a free-form value cut to the key that the schema knows."""
    return {next((path for path in known if leaf == path or leaf.startswith(f"{path}.")), leaf) for leaf in leaves(DEFAULTS)}


def keys_of(arm: str) -> set[str]:
    return set(DEFAULTS[arm]) & set(resolved(SCHEMA["properties"][arm])["properties"])


def test_no_object_of_the_schema_takes_keys_that_it_does_not_know() -> None:
    assert all(each["additionalProperties"] is False for each in objects_of(SCHEMA))


def test_every_setting_of_the_service_can_be_set_within_its_own_bounds() -> None:
    by_the_chart = {"bundle", "bundle_sha256", "state_dir", "token_file", "drain_s", "grace_s"}
    names = {
        "".join(part.title() if n else part for n, part in enumerate(name.split("_")))
        for name in ServiceSettings.model_fields.keys() - by_the_chart
    }
    assert set(DEFAULTS["settings"]) == names
    for name, field in ServiceSettings.model_json_schema()["properties"].items():
        if name in by_the_chart:
            continue
        camel = "".join(part.title() if n else part for n, part in enumerate(name.split("_")))
        ours = SCHEMA["definitions"]["settings"]["properties"][camel]
        for bound in ("minimum", "maximum", "exclusiveMinimum"):
            assert ours.get(bound) == field.get(bound), f"{camel}: {bound}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"traffic.weights.canray": 3}, "at '/traffic/weights': additional properties 'canray' not allowed"),
        ({"canary.setings": {}}, "at '/canary': additional properties 'setings' not allowed"),
        ({"settings.objectiveMS": 3}, "at '/settings': additional properties 'objectiveMS' not allowed"),
        ({"settings.workers": 0}, "at '/settings/workers': minimum: got 0, want 1"),
        ({"settings.provider": "gpu"}, "at '/settings/provider': value must be one of 'cpu', 'openvino', 'cuda'"),
        ({"image.digest": "latest"}, "at '/image/digest': 'latest' does not match pattern"),
        ({"bundles": [{"source": "ftp"}]}, "at '/bundles/0/source': value must be one of 'image', 'oci', 'claim', 'download'"),
        ({"bundles": [{"source": "image", "pth": "x"}]}, "at '/bundles/0': additional properties 'pth' not allowed"),
        ({"bundles": []}, "at '/bundles': minItems: got 0, want 1"),
        (
            {"bundles": [{"source": "oci", "name": "a", "reference": "r/a:latest"}]},
            "at '/bundles/0/reference': 'r/a:latest' does not match",
        ),
        ({"traffic.timeout": "soon"}, "at '/traffic/timeout': 'soon' does not match pattern"),
        ({"commonLabels": {"pilotage.dev/arm": "x"}}, "invalid propertyName 'pilotage.dev/arm'"),
        ({"security.user": 0}, "at '/security/user': minimum: got 0, want 1"),
        ({"env": [{"name": "A", "valu": "b"}]}, "at '/env/0': additional properties 'valu' not allowed"),
    ],
    ids=str,
)
def test_a_value_that_is_none_is_told_by_its_place(changes: dict[str, Any], told: str) -> None:
    assert told in refusal(changed(MINIMAL, changes))


def test_numbers_are_written_as_people_write_them() -> None:
    values = changed(
        MINIMAL, {"settings.maxUploadBytes": 33_554_432, "settings.objectiveMs": 12.5, "settings.traceSampleRate": 0, "settings.reloadS": 0}
    )
    environment = {
        each["name"]: each["value"] for each in render(values).of_kind("Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert environment["PILOTAGE_MAX_UPLOAD_BYTES"] == "33554432"
    assert environment["PILOTAGE_OBJECTIVE_MS"] == "12.5"
    assert environment["PILOTAGE_RELOAD_S"] == "0"
