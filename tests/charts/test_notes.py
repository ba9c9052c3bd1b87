"""What Helm prints after an installation, and the chart's README, name what there is."""

from __future__ import annotations

import re

from tests.charts.rendering import CHART, MINIMAL, NAMESPACE, changed, render
from tests.charts.test_checks import ARGO


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


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (CHART / "README.md").read_text())
    assert len(targets) > 8
    assert [target for target in targets if not (CHART / target).exists()] == []
