"""Rollouts that change a values file and nothing in the cluster, with a GitOps controller that renders the chart."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from k8s.cli import app
from k8s.cluster.fleet import DeploymentFleet
from k8s.cluster.journal import ConfigMapJournal
from k8s.cluster.values import ValuesFile
from k8s.cluster.values_fleet import ValuesFleet
from k8s.errors import Ignored, Refused, Unavailable
from k8s.installation import Installation
from k8s.rollout.arms import Weights
from k8s.rollout.record import Record, Request
from k8s.routing.by_values import ValuesRouter
from serving.contract.errors import SettingsError
from tests.api_server import ApiServer, api_server
from tests.charts.rendering import changed
from tests.clusters import NAMES, api_of
from tests.gitops import Direct, Synced, Time, gitops_values, roll_out_by_values
from tests.rollouts import LATENCY_ALONE, plan

OLD, NEW = (f"registry.example/pilotage@sha256:{digit * 64}" for digit in "14")
DOCS = Path(__file__).parents[2] / "docs" / "rollouts.md"
SHORT = plan(
    warm_up={"requests": 0},
    step=[{"weight_pct": 10, "samples": 1000}],
    objectives=LATENCY_ALONE,
    times={"proven_s": 0, "poll_s": 1, "api_s": 60, "promote_s": 60},
)
MINIMUM = NAMES.scalers[1][0]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Synced]:
    with api_server() as server:
        yield Synced(server, tmp_path)


class Asking(Time):
    """Somebody asks to abort, as soon as something is the case."""

    def __init__(self, here: Synced, when: Callable[[], bool]) -> None:
        self._journal, self._when = ConfigMapJournal(api_of(here.server), NAMES), when
        super().__init__(here)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self._when() and self._journal.request() is None:
            self._journal.ask(Request(id="1", wish="abort", by="a person", at_s=self.now_s()))


def command(here: Synced) -> str:
    return f"cp {here.file} {here.committed}"


def is_settled(here: Synced, image: str) -> None:
    """What is committed, once it is applied, leaves stable alone; and nobody but the controller has written to what it makes."""
    here.sync()
    objects = here.server.objects
    assert here.image("stable") == image
    assert [path for path in objects if "/deployments/" in path] == [NAMES.deployment("stable")]
    (rule,) = [rule for rule in here.route["spec"]["rules"] if "headers" not in rule["matches"][0]]
    assert [(ref["name"], ref["weight"]) for ref in rule["backendRefs"]] == [(NAMES.arm("stable"), 100)]
    assert "filters" not in rule
    assert objects[MINIMUM]["spec"]["minReplicas"] == 2
    assert set(here.values) <= {"image", "rollout"}
    written = {path for method, path in here.server.requests if method != "GET"}
    assert all(path.startswith((NAMES.config_map(NAMES.journal), NAMES.leases, NAMES.events)) for path in written), written


def test_a_good_release_is_promoted_by_values_alone(here: Synced) -> None:
    seen: list[dict[str, Any]] = []

    class Watching(Time):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            seen.append(here.values)

    record = roll_out_by_values(here, clock=Watching(here))
    assert (record.outcome, record.conclusion) == ("promoted", "pass")
    weights = [each["traffic"]["weights"] for each in seen if "weights" in each.get("traffic", {})]
    assert {"stable": 80, "baseline": 10, "canary": 10} in weights
    assert {"stable": 50, "baseline": 0, "canary": 50} in weights
    assert any(each.get("traffic", {}).get("mirror") == {"enabled": True, "serviceName": "", "pct": 5} for each in seen)
    assert any(each.get("autoscaling") == {"minReplicas": 3} for each in seen)
    promoting = next(each for each in seen if "image" in each)
    bundles = [{"source": "image", "path": "bundle"}]
    assert promoting["canary"] == {"enabled": True, "replicas": 1, "image": _image(NEW), "bundles": bundles}
    assert promoting["baseline"] == {"enabled": True, "replicas": 1, "image": _image(OLD), "bundles": bundles}
    assert promoting["image"] == _image(NEW)
    is_settled(here, NEW)
    assert here.values["image"] == _image(NEW)


def _image(text: str) -> dict[str, str]:
    return dict(zip(("repository", "digest"), text.split("@"), strict=True))


def test_a_slow_release_goes_back_and_leaves_the_file_as_it_was(here: Synced) -> None:
    record = roll_out_by_values(here, slow=2.0)
    assert (record.outcome, record.conclusion) == ("rolled_back", "fail")
    is_settled(here, OLD)
    assert set(here.values) == {"rollout"}


def test_a_promotion_that_is_aborted_gives_stable_what_the_file_said_before(here: Synced) -> None:
    clock = Asking(here, lambda: here.image("stable") == NEW)
    assert roll_out_by_values(here, SHORT, clock=clock).outcome == "rolled_back"
    is_settled(here, OLD)
    assert set(here.values) == {"rollout"}


def test_bundles_go_with_the_image_and_back(tmp_path: Path) -> None:
    bundle = {"name": "ranker", "source": "download", "url": "s3://models/ranker/8", "sha256": "6" * 64}
    with api_server() as server:
        here = Synced(server, tmp_path, changed(gitops_values(), {"canary.bundles": [bundle], "canary.image": {}}))
        assert roll_out_by_values(here, SHORT).outcome == "promoted"
        is_settled_with_bundles = here.values
        assert is_settled_with_bundles["bundles"] == [bundle]
        here.sync()
        downloads = here.stable["spec"]["template"]["spec"]["initContainers"]
        assert any("s3://models/ranker/8" in each["args"] for each in downloads)
        # The next one has other bundles again, fails, and leaves those.
        here.own_values = changed(here.own_values, {"canary.bundles": [bundle | {"url": "s3://models/ranker/9"}]})
        here.sync()
        assert roll_out_by_values(here, SHORT, slow=2.0, name="second").outcome == "rolled_back"
        assert here.values["bundles"] == [bundle]


@pytest.mark.parametrize("every_s", [7.0, 25.0])
def test_a_slow_controller_is_waited_for(every_s: float, tmp_path: Path) -> None:
    with api_server() as server:
        here = Synced(server, tmp_path, every_s=every_s)
        record = roll_out_by_values(here, SHORT)
        assert record.outcome == "promoted"
        # No action is done over and over while the controller has not come.
        done = [(entry.what, entry.detail) for entry in record.timeline if entry.what in ("ensure", "weights", "floor", "remove")]
        assert len(done) == len(set(done)) == 9
        is_settled(here, NEW)


def test_a_controller_that_never_comes_ends_the_engine_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with api_server() as server:
        here = Synced(server, tmp_path)

        class Stopping(Time):
            def sleep(self, seconds: float) -> None:
                here.every_s = 1e9 if "traffic" in here.values else 0.0
                super().sleep(seconds)

        clock = Stopping(here)
        with pytest.raises(Unavailable, match=r"does not say yet what .*rollout.yaml does: stable 80, baseline 10, canary 10"):
            roll_out_by_values(here, SHORT, clock=clock)
        here.every_s = 0.0
        assert roll_out_by_values(here, SHORT, clock=Time(here, clock.now_s() - Time(here).now_s()), name="next").outcome == "promoted"
        is_settled(here, NEW)


def test_a_command_that_fails_for_a_while_is_run_again_until_it_does_not(here: Synced, tmp_path: Path) -> None:
    script, count = tmp_path / "push.sh", tmp_path / "count"
    script.write_text(f"echo x >> {count}; test $(($(wc -l < {count}) % 3)) = 0 && {command(here)}\n")
    assert roll_out_by_values(here, SHORT, file=ValuesFile(here.file, f"sh {script}", marked=True)).outcome == "promoted"
    assert count.read_text().count("x") >= 9
    is_settled(here, NEW)


def test_a_person_is_heard_while_the_engine_waits_for_nobody(here: Synced) -> None:
    clock = Asking(here, lambda: "weights" in here.values.get("traffic", {}))
    assert roll_out_by_values(here, SHORT, clock=clock).why == "abort, asked by a person"
    is_settled(here, OLD)


class Killed(BaseException):
    """The process is gone."""


class Life:
    """Of an engine, up to one of its actions: nothing that it does afterwards takes effect.

    Parameters
    ----------
    last
        Number of the last action; 0: none.
    """

    def __init__(self, last: int = 0) -> None:
        self.done, self._last = 0, last

    def check(self) -> None:
        if self._last and self.done >= self._last:
            raise Killed

    def tell(self) -> None:
        self.done += 1
        self.check()


def _mortal(here: Synced, life: Life) -> dict[str, Any]:
    """The API, the journal and the file of an engine: it may die after each write to the journal or the file, and after each command."""

    class MortalApi(Direct):
        def _json(self, *arguments: Any, **options: Any) -> Any:
            life.check()
            return super()._json(*arguments, **options)

    class MortalJournal(ConfigMapJournal):
        def save(self, record: Record, expected_version: str | None) -> str:
            version = super().save(record, expected_version)
            life.tell()
            return version

    class MortalFile(ValuesFile):
        def _run(self) -> None:
            life.tell()
            here.committed.write_bytes(here.file.read_bytes())
            life.tell()

    api = MortalApi(here.server)
    return {"api": api, "journal": MortalJournal(api, NAMES), "file": MortalFile(here.file, marked=True)}


@pytest.mark.parametrize(("slow", "outcome", "image"), [(1.0, "promoted", NEW), (2.0, "rolled_back", OLD)])
def test_killed_after_any_write_or_command_the_next_engine_brings_it_to_its_right_end(
    slow: float, outcome: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a killed process wrote is in the kernel's memory; only a machine that stops needs it on the disk.
    monkeypatch.setattr("serving.contract.files.sync", lambda path: None)

    def run(point: int, then: Callable[[Synced, Life], None]) -> None:
        folder = tmp_path / str(point)
        folder.mkdir()
        then(Synced(ApiServer(), folder), Life(point))

    def whole(here: Synced, life: Life) -> None:
        assert roll_out_by_values(here, SHORT, slow=slow, **_mortal(here, life)).outcome == outcome
        is_settled(here, image)
        points.append(life.done)

    def killed(here: Synced, life: Life) -> None:
        clock = Time(here)
        with pytest.raises(Killed):
            roll_out_by_values(here, SHORT, slow=slow, clock=clock, **_mortal(here, life))
        if life.done % 2:  # the next one has a checkout of its own, with what was committed
            here.file.unlink(missing_ok=True)
            if here.committed.exists():
                here.file.write_bytes(here.committed.read_bytes())
        here.server.objects[f"{NAMES.leases}/{NAMES.rollout}"]["spec"]["holderIdentity"] = ""  # its time ran out
        record = roll_out_by_values(here, SHORT, slow=slow, clock=clock, name="next", **_mortal(here, Life()))
        assert record.outcome == outcome, f"killed after action {life.done}"
        is_settled(here, image)

    points: list[int] = []
    run(0, whole)
    assert points[0] > 25
    for point in range(1, points[0]):
        run(point, killed)


def test_a_person_puts_back_what_an_engine_left_by_the_command_and_the_file(here: Synced, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(Time):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if here.values.get("traffic", {}).get("weights", {}).get("canary"):
                raise Killed

    with pytest.raises(Killed):
        roll_out_by_values(here, SHORT, clock=Dying(here))
    monkeypatch.setattr("k8s.installation.connect", lambda context: api_of(here.server))
    seen = [here.committed.read_text()]

    def follow(method: str, path: str) -> None:
        """The controller, which looks whenever something is asked of the API server."""
        if here.committed.read_text() != seen[-1]:
            seen.append(here.committed.read_text())
            here.sync()

    here.server.fault = follow
    asked = ["abort", "--name", NAMES.name, "--namespace", NAMES.namespace]
    alone = CliRunner().invoke(app, asked)
    assert alone.exit_code == 2
    assert "name the file of the rollout (--values)" in alone.output
    done = CliRunner().invoke(app, [*asked, "--values", str(here.file), "--values-command", command(here)])
    assert done.exit_code == 1, done.output  # rolled back
    is_settled(here, OLD)


@pytest.mark.skipif(shutil.which("git") is None, reason="the documented command commits with git")
def test_the_documented_command_commits_what_has_changed_and_pushes_it_and_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, checkout, tools = (tmp_path / name for name in ("remote.git", "checkout", "bin"))
    for arguments in (["init", "--quiet", "--bare", "-b", "main", remote], ["clone", "--quiet", remote, checkout]):
        subprocess.run(["git", *arguments], check=True, capture_output=True)
    (script,) = re.findall(r"^```sh\n(#!/bin/sh -e\n# deploy/push.sh\n.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    (checkout / "deploy").mkdir()
    (checkout / "deploy" / "push.sh").write_text(script)
    tools.mkdir()
    (tools / "argocd").write_text(f"#!/bin/sh\necho $* >> {tmp_path}/synced\n")
    (tools / "argocd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.chdir(checkout)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example"]
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    subprocess.run([*git, "push", "--quiet", "--set-upstream", "origin", "HEAD"], check=True, capture_output=True)
    file = ValuesFile(checkout / "deploy" / "rollout.yaml", "sh deploy/push.sh", marked=True)
    for replicas in (1, 1, 2):
        file.change(lambda values, replicas=replicas: values.update(autoscaling={"minReplicas": replicas}), again=True)  # type: ignore[misc]
    pushed = subprocess.run(["git", "-C", remote, "show", "HEAD:deploy/rollout.yaml"], check=True, capture_output=True)
    assert pushed.stdout == (checkout / "deploy" / "rollout.yaml").read_bytes()
    log = subprocess.run(["git", "-C", remote, "log", "--format=%s"], check=True, capture_output=True, text=True).stdout
    assert log.splitlines() == ["Rollout of ranker", "Rollout of ranker", "first"]
    assert (tmp_path / "synced").read_text().splitlines() == ["app sync ranker --async"] * 3


def test_an_installation_says_itself_that_everything_is_written_to_values(here: Synced, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"rollout.writesTo: values: name the file of the rollout \(--values\)"):
        Installation(NAMES, api_of(here.server)).releases([], [])
    installation = Installation(NAMES, api_of(here.server), values=here.file, values_command=command(here))
    (release,) = installation.releases(["spring"], [])
    assert (release.name, release.image) == ("spring", NEW)
    world = installation.world(SHORT.model_copy(update={"synthetic": None}), "engine")
    assert isinstance(world.router, ValuesRouter)
    assert isinstance(world.fleet, ValuesFleet)
    world.fleet.ensure("canary", release, 1)
    here.sync()
    assert world.fleet.state("canary").release == "spring"
    # A release that stable runs already is known by the name that it is asked for by.
    world.fleet.ensure("stable", release, None)
    here.sync()
    again = Installation(NAMES, api_of(here.server), values=here.file, values_command=command(here))
    again.releases(["spring"], [])
    assert again.fleet.stable_release().name == "spring"


def test_a_rollout_does_not_begin_before_the_last_change_of_the_values_is_in_the_cluster(here: Synced) -> None:
    fleet = ValuesFleet(api_of(here.server), NAMES, ValuesFile(here.file, command(here), marked=True))
    old = fleet.stable_release()
    fleet.remove("canary")  # nothing to be removed, and nothing to wait for
    assert fleet.stable_release() == old
    fleet.floor(3)
    with pytest.raises(Unavailable, match="whoever applies the chart has not taken its last change"):
        fleet.stable_release()
    here.sync()
    assert fleet.stable_release() == old


def test_a_rollout_that_began_by_writing_to_the_cluster_is_not_gone_on_with_by_values(here: Synced) -> None:
    fleet = ValuesFleet(api_of(here.server), NAMES, ValuesFile(here.file, command(here), marked=True))
    (release,) = DeploymentFleet(api_of(here.server), NAMES).releases()
    with pytest.raises(Refused, match=r"began with rollout\.writesTo: cluster"):
        fleet.ensure("canary", release, 1)
    with pytest.raises(Refused, match=r"or it began with rollout\.writesTo: values"):
        DeploymentFleet(api_of(here.server), NAMES).ensure("canary", fleet.releases()[0], 1)


def test_an_arm_that_the_controller_has_not_made_yet_is_wanted_and_not_there(here: Synced) -> None:
    fleet = ValuesFleet(api_of(here.server), NAMES, ValuesFile(here.file, command(here), marked=True))
    fleet.ensure("canary", fleet.releases()[0], 2)
    state = fleet.state("canary")
    assert (state.release, state.ready, state.wanted) == (None, 0, 2)
    assert "there is no Deployment" in str(state.reason)
    assert fleet.state("stable").release is None  # for all that is known it is about to change
    assert fleet.state("stable").ready == 3
    here.sync()
    assert fleet.state("canary").ready == 2
    with pytest.raises(Refused, match="values have one canary, and no canary-2"):
        fleet.ensure("canary-2", fleet.releases()[0], 1)


def test_a_minimum_is_raised_within_the_scalers_maximum_and_only_where_it_is_lower(here: Synced) -> None:
    fleet = ValuesFleet(api_of(here.server), NAMES, ValuesFile(here.file, command(here), marked=True))
    for asked, written in ((2, None), (3, 3), (99, 10), (None, None)):
        fleet.floor(asked)
        here.sync()
        assert here.values.get("autoscaling", {}).get("minReplicas") == written


def test_weights_are_in_force_when_the_route_has_them_and_the_gateway_has_accepted_that(here: Synced, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    file = ValuesFile(here.file, f"sh -c 'echo x >> {runs}; {command(here)}'", marked=True)
    fleet, router = ValuesFleet(api_of(here.server), NAMES, file), ValuesRouter(api_of(here.server), NAMES, file)
    for arm in ("baseline", "canary"):
        fleet.ensure(arm, fleet.releases()[0], 1)  # type: ignore[arg-type]
    here.sync()
    assert router.read() == Weights()
    for _ in range(3):
        with pytest.raises(Unavailable, match="does not say yet"):
            router.write(Weights(80, 10, 10))
    assert runs.read_text().count("x") == 3  # two arms, and the weights once
    status = here.answer_routes
    here.answer_routes = lambda: None  # type: ignore[method-assign]
    here.sync()
    with pytest.raises(Unavailable, match="not Accepted yet"):
        router.write(Weights(80, 10, 10))
    status()
    router.write(Weights(80, 10, 10))
    assert router.read() == Weights(80, 10, 10)
    # Somebody turns a weight by hand: whoever applies the chart is told once more, and is waited for.
    here.route["spec"]["rules"][-1]["backendRefs"][0]["weight"] = 90
    here.route["spec"]["rules"][-1]["backendRefs"][1]["weight"] = 0
    for _ in range(2):
        with pytest.raises(Unavailable):
            router.write(Weights(80, 10, 10))
    assert runs.read_text().count("x") == 4
    with pytest.raises(Refused, match="values have one canary"):
        router.write(Weights(80, 10, 5, (5,)))
    with pytest.raises(Refused, match="values copy requests to the canary alone"):
        router.mirror(5, "engine")


def test_whether_a_cookie_keeps_users_is_known_before_the_route_has_weights(tmp_path: Path) -> None:
    with api_server() as server:
        here = Synced(server, tmp_path, changed(gitops_values(), {"traffic.cookie.enabled": True}))
        assert "ookie" not in str(here.route["spec"])
        assert ValuesRouter(api_of(server), NAMES, ValuesFile(here.file, command(here), marked=True)).keeps_users()


def test_a_route_that_nobody_looks_at_is_withdrawn_and_one_that_is_refused_is_not(here: Synced) -> None:
    file = ValuesFile(here.file, command(here), marked=True)
    router = ValuesRouter(api_of(here.server), NAMES, file)
    here.answer_routes = lambda: None  # type: ignore[method-assign]
    here.route.pop("status")
    with pytest.raises(Unavailable):
        router.write(Weights())
    here.sync()
    with pytest.raises(Ignored, match="no gateway has said anything"):
        router.write(Weights())
    router.withdraw()
    assert "traffic" not in here.values
    here.route["status"] = {"parents": [{"controllerName": "x", "conditions": []}]}
    with pytest.raises(Refused, match="the only way to stable"):
        router.withdraw()
    here.server.objects.pop(NAMES.chart_route)
    with pytest.raises(Refused, match="there is no HTTPRoute ranker-pilotage"):
        router.write(Weights())
