"""The documentation says what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from loadtests.sources.rows import Values
from loadtests.sources.traffic import ClassifyRequests, RankRequests, Traffic, read_traffic
from serving.contract.fields import CategoricalField, Cross, NumericField
from serving.services.settings import ServiceSettings

ROOT = Path(__file__).parents[2]


def _pins(text: str) -> dict[str, str]:
    lines = [re.split("[#;]", line)[0].strip() for line in text.splitlines()]
    pairs = [line.split("==") for line in lines if "==" in line]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def test_every_service_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs/serving.md").read_text()
    for name, field in ServiceSettings.model_fields.items():
        row = re.search(rf"\| `PILOTAGE_{name.upper()}` \| `?([^`|]+?)`? \|", page)
        assert row, f"docs/serving.md does not document PILOTAGE_{name.upper()}"
        assert row[1].lower() == (f"{field.default:g}" if isinstance(field.default, float) else str(field.default).lower())


def test_every_setting_of_a_feature_specification_is_documented() -> None:
    page = (ROOT / "docs/feature-specification.md").read_text()
    for model in (CategoricalField, NumericField, Cross):
        for name in model.model_fields.keys() - {"name", "kind"}:
            assert f"`{name}`" in page, f"{model.__name__}.{name} is not documented"


def test_the_example_specification_of_the_guide_is_valid() -> None:
    from serving.contract.fields import parse_spec

    page = (ROOT / "docs/feature-specification.md").read_text()
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example
    assert parse_spec(tomllib.loads(example[1]), "guide").field("viewed").part == "user"


def test_every_setting_of_a_traffic_table_is_documented_and_the_example_is_valid() -> None:
    page = (ROOT / "docs/loadtests.md").read_text()
    for model in (Traffic, Values, RankRequests, ClassifyRequests):
        for name in model.model_fields.keys() - {"requests", "values"}:
            assert f"`{name}`" in page or f"`{name} = " in page, f"{model.__name__}.{name} is not documented"
    examples = [tomllib.loads(example) for example in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    traffic, *_ = [read_traffic(example["traffic"], "guide") for example in examples if "requests" in example.get("traffic", {})]
    assert [entry.endpoint for entry in traffic.requests] == ["rank", "rank-arrow", "classify"]


def test_the_image_installs_what_the_distribution_needs_at_the_tested_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.sub(r"[-_.]+", "-", re.split(r"[<>=~! ]", line)[0]).lower() for line in project["dependencies"]}
    tested = _pins((ROOT / "constraints.txt").read_text())
    assert _pins((ROOT / "serving/requirements.txt").read_text()) == {name: tested[name] for name in needed}


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 5
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
