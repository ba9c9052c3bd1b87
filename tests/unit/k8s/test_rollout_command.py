"""`pilotage rollout`, on a journal of this machine and through HTTP on a stand-in for a cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from k8s import cli
from k8s.installation import Installation
from k8s.rollout.clock import SystemClock
from k8s.rollout.disk import DiskJournal
from k8s.rollout.plan import Plan, load_plan
from k8s.rollout.plan_tables import Synthetic
from k8s.rollout.start import begin
from tests.clusters import NAMES, Cluster, Load, api_of, cluster
from tests.rollouts import NEW, PLAN, Town, plan, roll_out

RUN = CliRunner()
HERE = ("--name", NAMES.name, "--namespace", NAMES.namespace)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    town = Town(tmp_path, slow=2.0)
    roll_out(town)
    return tmp_path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with cluster() as installation:
        monkeypatch.setattr("k8s.installation.connect", lambda context: api_of(installation.server))
        yield installation


def _plan_file(folder: Path, **changes: Any) -> str:
    """The short plan as a TOML file; JSON tables are TOML's inline ones but for the colons."""
    document = PLAN | {"step": [{"weight_pct": 10, "samples": 1000}], "times": {"proven_s": 0, "poll_s": 0.05}} | changes
    lines = [f"{key} = {json.dumps(value).replace(': ', ' = ')}" for key, value in document.items()]
    (folder / "plan.toml").write_text("\n".join(lines))
    return str(folder / "plan.toml")


def _loads(monkeypatch: pytest.MonkeyPatch, slow: float) -> None:
    monkeypatch.setattr(Installation, "_load", lambda *args, **kwargs: Load(SystemClock(), slow))


@pytest.mark.parametrize(("slow", "code", "outcome"), [(1.0, 0, "promoted"), (2.0, 1, "rolled_back")])
def test_start_waits_for_the_end_and_says_by_its_exit_code_what_came_of_it(
    slow: float, code: int, outcome: str, here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _loads(monkeypatch, slow)
    options = ["--plan", _plan_file(tmp_path), "--report", str(tmp_path / "report"), "--json"]
    result = RUN.invoke(cli.app, ["start", *HERE, *options])
    assert result.exit_code == code, result.output
    assert json.loads(result.stdout)["outcome"] == outcome
    assert (tmp_path / "report" / "report.html").is_file()
    assert "phase" in result.stderr
    status = RUN.invoke(cli.app, ["status", *HERE, "--json"])
    assert json.loads(status.stdout)["outcome"] == outcome


def test_asked_again_by_the_same_key_it_ends_with_the_same_code_and_says_why(
    here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _loads(monkeypatch, 2.0)
    words = ["start", *HERE, "--plan", _plan_file(tmp_path), "--key", "job-1"]
    assert RUN.invoke(cli.app, words).exit_code == 1
    again = RUN.invoke(cli.app, [*words, "--json"])
    assert again.exit_code == 1, again.output
    assert "asked for by the same key, is over, rolled back: Failed" in again.stderr
    assert len(json.loads(RUN.invoke(cli.app, ["history", *HERE, "--json"]).stdout)) == 1


def test_started_again_with_a_changed_plan_it_goes_on_by_the_one_that_it_began_with_and_says_so(
    here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[float | None] = []

    def load(installation: Installation, plan: Plan, asked: Synthetic, *args: Any) -> Load:
        loaded.append(asked.rate_per_s)
        return Load(SystemClock(), 1.0)

    monkeypatch.setattr(Installation, "_load", load)
    installation, asked = Installation(NAMES, api_of(here.server)), load_plan(_plan_file(tmp_path, synthetic={"rate_per_s": 40}))
    world = installation.world(asked, "dead")
    begin(world, NAMES.name, asked, installation.releases(["first"], []), "dead").tick()
    world.lease.release()
    changed = _plan_file(tmp_path, name="faster", synthetic={"rate_per_s": 400}, finish="discard")
    result = RUN.invoke(cli.app, ["start", *HERE, "--plan", changed, "--release", "first"])
    assert result.exit_code == 0, result.output
    assert "goes on by plan test as it was when the rollout began" in result.stderr
    assert loaded == [40, 40]
    (record,) = installation.journal.history()
    assert (record.outcome, record.plan) == ("promoted", asked)


@pytest.mark.parametrize("content", [None, "", '{"images": ["aGk="]}'])
def test_recorded_requests_that_cannot_be_compared_are_wrong_use_and_begin_nothing(
    here: Cluster, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "requests.jsonl"
    if content is not None:
        path.write_text(content)
    words = ["start", *HERE, "--plan", _plan_file(tmp_path, answers={}), "--requests-file", str(path), "--gateway", "http://127.0.0.1:9"]
    result = RUN.invoke(cli.app, words)
    assert result.exit_code == 2, result.output
    assert str(path) in result.stderr
    assert Installation(NAMES, api_of(here.server)).journal.load() is None


def test_a_plan_that_compares_answers_is_refused_where_there_is_nothing_to_compare_them_on(
    here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _loads(monkeypatch, 1.0)
    result = RUN.invoke(cli.app, ["start", *HERE, "--plan", _plan_file(tmp_path, answers={"requests": 500})])
    assert result.exit_code == 2, result.output
    assert "give recorded ones (--requests-file)" in result.stderr
    assert NAMES.deployment("canary") not in here.server.objects


def test_a_release_that_stable_runs_already_is_no_failure(here: Cluster) -> None:
    data = here.server.objects[NAMES.config_map(NAMES.rollout)]["data"]
    data["canary.json"] = data["baseline.json"].replace('"baseline"', '"canary"')
    result = RUN.invoke(cli.app, ["start", *HERE, "--plan", "canary"])
    assert result.exit_code == 0, result.output
    assert "already" in result.stderr
    assert "start again" not in result.stderr


@pytest.mark.parametrize(
    ("phase", "outcome"), [("warming", "rolled_back"), ("stepping", "rolled_back"), ("promoting", "rolled_back"), ("returning", "promoted")]
)
def test_another_release_supersedes_one_that_no_engine_carries_on(
    phase: str, outcome: str, here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _loads(monkeypatch, 1.0)
    long = {"step": [{"weight_pct": 10, "bake_s": 600}]} if phase == "stepping" else {}
    installation, asked = Installation(NAMES, api_of(here.server)), load_plan(_plan_file(tmp_path, **long))
    world = installation.world(asked, "dead")
    dead = begin(world, NAMES.name, asked, installation.releases(["first"], []), "dead")
    while dead.record.phase != phase:
        dead.tick()
    if phase in ("stepping", "promoting"):
        dead.tick()  # what the phase is for: weight to the canary, the release to stable
    world.lease.release()  # as if its time had run out
    newer = f"registry.example/pilotage@sha256:{'7' * 64}"
    words = ["start", *HERE, "--plan", _plan_file(tmp_path), "--image", newer, "--release", "second", "--key", "job-2"]
    refused = RUN.invoke(cli.app, words)
    assert refused.exit_code == 3
    assert f"of first is {phase}: abort it" in refused.stderr
    result = RUN.invoke(cli.app, [*words, "--supersede"])
    assert result.exit_code == 0, result.output
    first, second = installation.journal.history()
    assert (first.outcome, second.outcome, second.title) == (outcome, "promoted", "second")
    assert any("abort, asked by job-2: superseded by second" in entry.detail for entry in first.timeline)
    assert here.image("stable") == newer
    assert NAMES.route not in here.server.objects


def test_an_undecided_rollout_ends_with_its_own_code(here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _loads(monkeypatch, 1.0)
    asked = _plan_file(tmp_path, objectives={"quantile_ratio": {"quantile": 0.9999}}, inconclusive={"extend": 0})
    assert RUN.invoke(cli.app, ["start", *HERE, "--plan", asked]).exit_code == 4


def test_abort_puts_everything_back_itself_where_no_engine_is_left(here: Cluster) -> None:
    installation = Installation(NAMES, api_of(here.server))
    asked: Plan = plan(step=[{"weight_pct": 10, "bake_s": 600}], times={"poll_s": 0.05})
    world = installation.world(asked, "dead")
    engine = begin(world, NAMES.name, asked, installation.releases(["new"], []), "dead")
    engine.tick()
    world.lease.release()  # as if its time had run out
    assert NAMES.deployment("canary") in here.server.objects
    result = RUN.invoke(cli.app, ["abort", *HERE, "--reason", "a bad feeling", "--json"])
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout)["why"].endswith("a bad feeling")
    assert NAMES.deployment("canary") not in here.server.objects
    assert NAMES.route not in here.server.objects


def test_an_image_without_a_digest_is_refused(here: Cluster) -> None:
    result = RUN.invoke(cli.app, ["start", *HERE, "--image", "registry.example/pilotage:latest"])
    assert result.exit_code == 2
    assert "has no digest" in result.stderr
    assert "what was begun" not in result.stderr


def test_watching_ends_with_the_rollout(here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _loads(monkeypatch, 2.0)
    RUN.invoke(cli.app, ["start", *HERE, "--plan", _plan_file(tmp_path)])
    assert RUN.invoke(cli.app, ["status", *HERE, "--watch"]).exit_code == 0
    assert next(Installation(NAMES, api_of(here.server)).changes()).outcome == "rolled_back"


def test_history_and_explain_tell_what_happened_and_why(finished: Path) -> None:
    rows = json.loads(RUN.invoke(cli.app, ["history", "--folder", str(finished), "--json"]).stdout)
    assert [row["outcome"] for row in rows] == ["rolled_back"]
    assert "new" in RUN.invoke(cli.app, ["history", "--folder", str(finished)]).stdout
    said = RUN.invoke(cli.app, ["explain", rows[0]["id"], "--folder", str(finished)])
    assert said.exit_code == 0
    assert "Decided by judge" in said.stdout
    assert "rolled back" in RUN.invoke(cli.app, ["status", "--folder", str(finished)]).stdout


def test_a_wish_reaches_the_journal_while_a_rollout_is_under_way(tmp_path: Path) -> None:
    town = Town(tmp_path)
    begin(town.world(), "ranker", plan(), [NEW], "engine")
    for wish in ("pause", "resume", "promote"):
        assert RUN.invoke(cli.app, [wish, "--folder", str(tmp_path), "--reason", "because"]).exit_code == 0
        request = DiskJournal(tmp_path / "journal").request()
        assert request is not None
        assert (request.wish, request.reason) == (wish, "because")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status"], "say where"),
        (["status", "--name", "x", "--folder", "y"], "say where"),
        (["status", "--folder", "nowhere"], "there is no rollout here"),
        (["start", "--folder", "nowhere"], "name the bundle"),
        (["start", "--folder", "nowhere", "--bundle", "x", "--plan", "no-such"], "plans that ship"),
        (["start", "--folder", "nowhere", "--bundle", "x", "--plan", "canary"], "x: no such folder"),
        (["start", "--folder", "nowhere", "--bundle", "y", "--stable", "x", "--plan", "canary"], "y: no such folder"),
        (["explain", "--folder", "nowhere"], "there is no rollout here: start one"),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_to_do(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = RUN.invoke(cli.app, words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_what_is_over_cannot_be_steered(finished: Path) -> None:
    result = RUN.invoke(cli.app, ["pause", "--folder", str(finished)])
    assert result.exit_code == 2
    assert "is over: rolled_back" in result.stderr


def test_stop_ends_what_runs_for_a_folder_and_keeps_its_record(finished: Path) -> None:
    from k8s.local.processes import Processes

    Processes(finished / "processes", end_with_us=False).start("stable", ["sleep", "60"], dict(os.environ))
    assert RUN.invoke(cli.app, ["stop", "--folder", str(finished)]).exit_code == 0
    assert Processes(finished / "processes", end_with_us=False).find("stable") is None
    assert RUN.invoke(cli.app, ["status", "--folder", str(finished)]).exit_code == 0
