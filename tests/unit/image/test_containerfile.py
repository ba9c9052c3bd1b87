"""The Containerfile, as far as it can be judged without a builder: its stages, what they copy, who they run as."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "image"
FINAL = ("tools", "service")

Stage = list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    """Instructions by stage; what stands before the first ``FROM`` is the stage ``""``."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", (IMAGE / "Containerfile").read_text(), flags=re.MULTILINE))
    found: dict[str, Stage] = {"": []}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, name = rest.split(" AS ")
            assert base == "${PYTHON_IMAGE}", "both halves of a stage's environment come from one base"
            found[name] = []
        else:
            list(found.values())[-1].append((word, rest))
    return found


def _values(stage: Stage, word: str) -> list[str]:
    return [rest for key, rest in stage if key == word]


def test_the_service_is_what_is_built_unless_asked_otherwise() -> None:
    assert list(stages())[-1] == "service"


@pytest.mark.parametrize("name", FINAL)
def test_a_final_stage_runs_unprivileged_and_installs_nothing(name: str) -> None:
    stage = stages()[name]
    security = yaml.safe_load((ROOT / "charts/pilotage/values.yaml").read_text())["security"]
    assert _values(stage, "USER") == [f"{security['user']}:{security['group']}"]
    assert _values(stage, "RUN") == []
    assert any("org.opencontainers.image.licenses" in label for label in _values(stage, "LABEL"))


def test_the_service_starts_as_the_chart_expects() -> None:
    stage = stages()["service"]
    values = yaml.safe_load((ROOT / "charts/pilotage/values.yaml").read_text())
    assert _values(stage, "EXPOSE") == [str(values["pod"]["port"])]
    assert json.loads(_values(stage, "ENTRYPOINT")[0]) + json.loads(_values(stage, "CMD")[0]) == [
        "bentoml", "serve", yaml.safe_load((ROOT / "bentofile.yaml").read_text())["service"],
    ]  # fmt: skip
    assert _values(stage, "WORKDIR") == ["/app"]
    assert "src /app" in _values(stage, "COPY"), "PILOTAGE_BUNDLE=bundle is looked for beside the package serving"


def test_nothing_is_fetched_but_pinned_packages() -> None:
    everything = [one for stage in stages().values() for one in stage]
    assert not [rest for word, rest in everything if word == "ADD"]
    text = (IMAGE / "Containerfile").read_text() + (IMAGE / "install.sh").read_text()
    assert not re.search(r"\b(curl|wget|apt-get|git clone)\b|:latest", text)
    for name in ("service-packages", "tools-packages"):
        assert all("install.sh" in run for run in _values(stages()[name], "RUN"))
    install = (IMAGE / "install.sh").read_text()
    assert '--constraint "$here/constraints.txt"' in install
    assert "--only-binary :all:" in install


def test_what_is_copied_lies_in_the_context(tmp_path: Path) -> None:
    bento, context = tmp_path / "bento", tmp_path / "context"
    shutil.copytree(ROOT / "serving", bento / "src" / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["sh", IMAGE / "context.sh", bento, context], check=True, timeout=30)
    known = stages()
    for stage in known.values():
        for copy in _values(stage, "COPY"):
            if copy.startswith("--from="):
                name, source, target = copy.removeprefix("--from=").split()
                assert name in known
                assert source == target == "/opt/pilotage", "scripts of an environment have its folder in their first line"
            else:
                for source in copy.split()[:-1]:
                    assert (context / source).exists(), source
    assert (context / ".dockerignore").read_text() == (context / ".containerignore").read_text()


def test_shell_scripts_can_be_read_by_the_shell_of_the_base_image() -> None:
    for path in IMAGE.glob("*.sh"):
        subprocess.run(["sh", "-n", path], check=True, timeout=10)
        assert path.read_text().startswith("#!/bin/sh\n")
        assert "\nset -eu\n" in path.read_text()
