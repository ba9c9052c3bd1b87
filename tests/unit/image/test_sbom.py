"""The bill of materials: all that is installed, with licences, the same bytes each time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "image" / "sbom.py"


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bill() -> tuple[str, dict[str, Any]]:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    text = subprocess.run([sys.executable, SCRIPT], env=environment, check=True, capture_output=True, text=True, timeout=60).stdout
    return text, json.loads(text)


def test_the_bill_lists_every_package_with_its_licence_and_is_the_same_each_time() -> None:
    text, bill = _bill()
    assert text == _bill()[0]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    components = {one["purl"]: one for one in bill["components"]}
    assert len(components) == len(bill["components"])
    runtime = components[f"pkg:pypi/onnxruntime@{metadata.version('onnxruntime')}"]
    assert "MIT" in json.dumps(runtime["licenses"])
    assert {one["name"] for purl, one in components.items() if purl.startswith("pkg:pypi/")} == {
        one.name for one in metadata.distributions()
    }


def test_packages_of_debian_are_listed_as_dpkg_has_them(sbom: ModuleType, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u10\nDescription: GNU C Library\n shared libraries\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n"
        "Package: passwd\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:4.13\n"
    )
    assert [one["purl"] for one in sbom.debian_packages(status)] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64",
        "pkg:deb/debian/passwd@1%3A4.13?arch=amd64",
    ]
    assert list(sbom.debian_packages(tmp_path / "none")) == []


def test_the_serial_number_follows_from_the_contents(sbom: ModuleType) -> None:
    one = [{"purl": "pkg:pypi/a@1", "name": "a"}]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert sbom.bill(one, at) == sbom.bill(one, at)
    assert sbom.bill(one, at)["serialNumber"] != sbom.bill([*one, {"purl": "pkg:pypi/b@1", "name": "b"}], at)["serialNumber"]
