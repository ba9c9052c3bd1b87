"""What Helm prints after an installation, and the chart's README, name what there is."""

from __future__ import annotations

import re
import shlex
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.main import get_command

from k8s.cli import app as rollout
from tests.charts.rendering import CHART, MINIMAL, NAMESPACE, ROOT, Values, changed, render
from tests.charts.test_checks import ARGO, FLAGGER
from tests.charts.test_rollout_objects import JOB, ROLLOUT


def test_the_notes_tell_the_next_three_commands() -> None:
    rendering = render(MINIMAL)
    commands = [line.strip() for line in rendering.notes.splitlines() if line.startswith("  ")]
    assert len(commands) == 3
    wait, test, forward = commands
    assert rendering.named("Deployment", wait.rpartition("/")[2])
    assert test.startswith("helm test ranker")
    service = re.search(r"service/(\S+) 3000:(\d+)", forward)
    assert service
    assert rendering.named("Service", service[1])["spec"]["ports"][0]["port"] == int(service[2])
    assert all(f"--namespace {NAMESPACE}" in command for command in commands)


def test_the_notes_watch_the_rollout_of_argo_where_that_owns_the_pods() -> None:
    assert "get rollouts ranker-pilotage --watch" in render(changed(MINIMAL, ARGO)).notes


def test_the_notes_warn_of_a_tag_that_can_change() -> None:
    assert "set image.digest" in render(changed(MINIMAL, {"image.digest": "", "image.tag": "dev"})).notes
    assert "set image.digest" not in render(MINIMAL).notes


def test_the_notes_tell_of_the_file_where_a_rollout_writes_values() -> None:
    notes = render(changed(MINIMAL, {**ROLLOUT, "rollout.writesTo": "values"})).notes
    assert "--values rollout.yaml --values-command" in notes
    assert "goes into image and bundles of your values" not in notes


@pytest.mark.parametrize(("changes", "step"), [(ROLLOUT, "start"), (JOB, "status")])
def test_the_notes_tell_how_a_release_is_rolled_out(changes: Values, step: str) -> None:
    commands = [shlex.split(line) for line in render(changed(MINIMAL, changes)).notes.splitlines() if line.startswith("  pilotage")]
    (command,) = commands
    group: Any = get_command(rollout)
    known = {name for parameter in group.commands[step].params for name in parameter.opts}
    assert command[:3] == ["pilotage", "rollout", step]
    assert {word for word in command if word.startswith("--")} <= known
    assert command[command.index("--name") + 1] == "ranker-pilotage"
    assert "pilotage rollout" not in render(MINIMAL).notes


def test_the_notes_tell_where_the_gate_answers() -> None:
    rendering = render(changed(MINIMAL, FLAGGER))
    url = urlsplit(re.findall(r"http://\S+gate\S+?(?=,)", rendering.notes)[0])
    service = rendering.named("Service", str(url.hostname).split(".")[0])
    assert [url.port] == [port["port"] for port in service["spec"]["ports"]]


def test_commands_that_the_runbook_names_exist() -> None:
    group: Any = get_command(rollout)
    named = set(re.findall(r"pilotage rollout ([a-z]+) --name", (ROOT / "docs/runbook.md").read_text()))
    assert {"abort", "status"} <= named <= set(group.commands)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (CHART / "README.md").read_text())
    assert len(targets) > 8
    assert [target for target in targets if not (CHART / target).exists()] == []
