"""Load tests that the chart starts are those that there are: options, profiles and tokens of `pilotage loadtest`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from k8s.cli import app as rollout_app
from k8s.rollout.plan import load_plan
from loadtests.cli import app
from loadtests.load_profile import load_profile
from tests.charts.rendering import EXAMPLES, MINIMAL, Rendering, Values, changed, containers, pod_templates, render, render_example
from tests.charts.test_checks import ARGO, TOOLS
from tests.charts.test_routes import GATEWAY

LATENCY: Values = {**TOOLS, "tests.latency.enabled": True}
AUTH: Values = {"auth.secretName": "ranker-tokens"}


def commands(rendering: Rendering) -> list[list[str]]:
    found = [
        container for _, template in pod_templates(rendering.objects) for container in containers(template) if container["name"] == "tools"
    ]
    return [container["command"] for container in found]


@pytest.mark.parametrize("changes", [LATENCY, ARGO, {**LATENCY, **ARGO, **AUTH}], ids=["latency", "analysis", "with a token"])
def test_every_option_is_one_of_the_command(changes: Values) -> None:
    known = {name for parameter in get_command(app).params for name in parameter.opts}
    found = commands(render(changed(MINIMAL, changes)))
    assert found
    for program, stage, *arguments in found:
        assert (program, stage) == ("pilotage", "loadtest")
        assert {argument.partition("=")[0] for argument in arguments if argument.startswith("--")} <= known
        profile = arguments[arguments.index("--profile") + 1]
        assert load_profile(profile).name == profile


def test_a_profile_of_ones_own_is_found_before_one_that_comes_along() -> None:
    own = {**LATENCY, "tests.latency.profile": "smoke", "profiles": {"smoke": "name = 'smoke'"}}
    (command,) = commands(render(changed(MINIMAL, own)))
    assert command[command.index("--profile") + 1] == "/profiles/smoke.toml"


def test_the_load_shows_the_token_of_a_secret() -> None:
    (command,) = commands(render(changed(MINIMAL, {**LATENCY, **AUTH})))
    assert "--token-file=/etc/pilotage/tokens/tokens" in command
    (command,) = commands(render(changed(MINIMAL, LATENCY)))
    assert not any("token" in argument for argument in command)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_profiles_of_the_examples_are_profiles(example: Path, tmp_path: Path) -> None:
    for each in render_example(example).of_kind("ConfigMap"):
        if each["metadata"]["name"].endswith("-profiles"):
            for name, text in each["data"].items():
                (tmp_path / name).write_text(text)
                assert f"{load_profile(str(tmp_path / name)).name}.toml" == name


def test_the_job_of_a_rollout_has_options_and_a_plan_that_there_are() -> None:
    group = get_command(rollout_app)
    start = group.get_command(None, "start")  # type: ignore[attr-defined, arg-type]
    known = {name for parameter in start.params for name in parameter.opts}
    (command,) = commands(render(changed(MINIMAL, {**GATEWAY, **TOOLS, "rollout.enabled": True, "rollout.job.enabled": True})))
    assert {argument for argument in command if argument.startswith("--")} <= known
    assert load_plan(command[command.index("--plan") + 1]).name == "canary"
