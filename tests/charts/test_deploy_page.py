"""docs/deploy.md can be followed: what its commands call is there, and every installation that it makes on the way renders."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import typer
from helm_python import parse_set_string, parse_set_string_values, values_from_yaml

from tests.charts.rendering import ROOT, Rendering, Values, render

PAGE = (ROOT / "docs/deploy.md").read_text()
HELM_FLAGS = {"--namespace", "--create-namespace", "--values", "--set", "--set-string", "--reuse-values", "--wait", "--install", "--logs"}
KINDS = {"deployment": "Deployment", "service": "Service", "podmonitor": "PodMonitor", "prometheusrule": "PrometheusRule"}


def commands() -> Iterator[tuple[list[str], str]]:
    """Words of each command of the page, and its here-document."""
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        lines = iter(block.splitlines())
        for line in lines:
            document = ""
            if "<<'EOF'" in line:
                document = "\n".join(iter(lambda lines=lines: next(lines), "EOF"))  # type: ignore[misc]
            yield shlex.split(line.replace("<<'EOF'", ""), comments=True), document


def _laid_over(base: Values, more: Values) -> Values:
    both = dict(base)
    for key, value in more.items():
        both[key] = _laid_over(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


@dataclass
class Installation:
    """The release as the commands leave it, one after the other."""

    files: dict[str, Values] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    renderings: list[Rendering] = field(default_factory=list)

    def helm(self, words: list[str]) -> None:
        assert {word for word in words if word.startswith("--")} <= HELM_FLAGS
        assert words[words.index("--namespace") + 1] == "models"
        values = self.values if "--reuse-values" in words else {}
        for flag, argument in pairwise(words):
            if flag == "--values":
                values = _laid_over(values, self.files[argument])
            if flag == "--set":
                values = _laid_over(values, parse_set_string(argument))
            if flag == "--set-string":
                values = _laid_over(values, parse_set_string_values(argument))
        self.values = values
        self.renderings.append(render(values, upgrade=words[1] == "upgrade"))


def followed() -> Installation:
    """Everything that the page does to the release; the managed cluster's values come last, as in the page."""
    installation = Installation()
    for words, document in commands():
        match words:
            case ["cat", ">", name]:
                installation.files[name] = values_from_yaml(document)
            case ["helm", "install" | "upgrade", "ranker", "charts/pilotage", *_]:
                installation.helm(words)
            case ["helm", "test", name, "--namespace", namespace, "--logs"]:
                assert (name, namespace) == ("ranker", "models")
    return installation


def test_every_installation_on_the_way_renders_and_the_weights_arrive() -> None:
    renderings = followed().renderings
    weights = [[backend.get("weight") for backend in each.one("HTTPRoute")["spec"]["rules"][-1]["backendRefs"]] for each in renderings]
    assert len(renderings) == 10
    assert [90, 5, 5] in weights
    assert [50, 25, 25] in weights
    arms = [sorted(one["metadata"]["name"].rpartition("-")[2] for one in each.of_kind("Deployment")) for each in renderings]
    assert arms[0] == arms[-1] == ["stable"]
    assert arms[2] == ["baseline", "canary", "stable"]


def test_the_page_for_ones_own_machine_renders_too() -> None:
    first = next(document for words, document in commands() if words[:3] == ["cat", ">", "cluster.yaml"])
    ranker = next(document for words, document in commands() if words[:3] == ["cat", ">", "ranker.yaml"])
    rendering = render(_laid_over(values_from_yaml(first), values_from_yaml(ranker)))
    assert (
        rendering.named("Deployment", "ranker-pilotage-stable")["spec"]["template"]["spec"]["containers"][0]["image"]
        == "localhost/pilotage:1"
    )


def test_objects_that_are_asked_for_are_rendered() -> None:
    rendered = {(one["kind"], one["metadata"]["name"]) for each in followed().renderings for one in each.objects}
    asked = [
        word
        for words, _ in commands()
        if words[0] == "kubectl" and "models" in words
        for word in words
        if word.split("/")[0] in KINDS and "/" in word
    ]
    assert asked
    for word in asked:
        kind, _, name = word.partition("/")
        assert (KINDS[kind], name) in rendered, word


def _options(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


def _known(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def test_targets_and_options_that_are_called_exist() -> None:
    from k8s.cli import app as rollout
    from loadtests.cli import app as loadtest

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    load: Any = typer.main.get_command(loadtest)
    steps: Any = typer.main.get_command(rollout)
    called = 0
    for words, _ in commands():
        if words[0] == "make":
            assert words[1] in targets
            called += 1
        if words[:2] == ["pilotage", "loadtest"]:
            assert _options(words) <= _known(load)
            assert (ROOT / "loadtests/profiles" / f"{words[words.index('--profile') + 1]}.toml").is_file()
            called += 1
        if words[:2] == ["pilotage", "rollout"]:
            assert _options(words) <= _known(steps.commands[words[2]])
            called += 1
    assert called == 6


def test_stages_that_are_built_exist() -> None:
    names = set(re.findall(r" AS ([a-z-]+)$", (ROOT / "image/Containerfile").read_text(), re.MULTILINE))
    assert set(re.findall(r"--target (\S+)", PAGE)) <= names


def test_the_numbers_of_pods_follow_from_the_benchmark() -> None:
    measured = (ROOT / "docs/benchmarks/serving.md").read_text()
    a_core = {100: 1451.0, 500: 1 / 0.0022}
    assert "100 candidates: 1,451 requests/s" in measured
    assert "An answer takes 0.65 ms with 100 candidates and 2.2 ms with 500" in measured
    assert f"= {a_core[500]:.0f} requests/s" in PAGE
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| ([\d.]+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for peak, candidates, cores, by_four, by_one in rows:
        needed = int(peak.replace(",", "")) / (a_core[int(candidates)] * 0.6)
        assert f"{needed:.1f}" == cores, f"{peak} × {candidates}"
        assert math.ceil(needed / 4) + 1 == int(by_four), f"{peak} × {candidates}"
        assert math.ceil(needed) + 1 == int(by_one), f"{peak} × {candidates}"
