"""Arms as real processes behind a real Envoy: started, replaced, restarted, ended, found again."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from k8s.errors import Refused
from k8s.local.fleet import MAX_RESTARTS, Launch, LocalFleet
from k8s.local.processes import TOKEN_VARIABLE, Processes, free_port
from k8s.local.proxy import ensure_envoy
from k8s.rollout.arms import Arm, ArmState, Release
from k8s.routing.envoy import EnvoyRouter
from tests.laptop import SERVICE
from tests.upstreams import Caller, asking

pytest.importorskip("envoy", reason="Envoy comes with pilotage[local]")

LIMIT_S = 20


def launch(release: Release, port: int) -> Launch:
    if "path" not in release.bundle:
        raise Refused("no bundle")
    return Launch([sys.executable, "-I", "-S", "-c", SERVICE, str(port), release.name])


def release(name: str) -> Release:
    return Release(name, bundle={"path": name})


@dataclass
class Rig:
    folder: Path
    port: int
    router: EnvoyRouter

    def fleet(self) -> LocalFleet:
        """A new one, as after a kill: nothing is remembered but what stands on disk."""
        return LocalFleet(self.folder / "fleet", self.router, Processes(self.folder / "arms"), launch)

    def until(self, fleet: LocalFleet, arm: Arm, name: str) -> ArmState:
        deadline = time.monotonic() + LIMIT_S
        while (state := fleet.state(arm)).release != name:
            assert time.monotonic() < deadline, state
            time.sleep(0.02)
        return state

    def running(self) -> list[psutil.Process]:
        mine = []
        for process in psutil.process_iter():
            try:
                if str(self.folder) in process.environ().get("RIG", "") and process.status() != psutil.STATUS_ZOMBIE:
                    mine.append(process)
            except psutil.Error:
                continue
        return mine


@pytest.fixture(scope="module")
def one_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder, port = tmp_path_factory.mktemp("fleet"), free_port()
    processes = Processes(folder / "proxy")
    with ExitStack() as stack:
        stack.callback(processes.end_all)
        yield Rig(folder, port, ensure_envoy(folder / "envoy", processes, port, "/readyz"))


@pytest.fixture
def rig(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("RIG", str(one_rig.folder))
    yield one_rig
    one_rig.fleet().close()
    assert one_rig.running() == []


def test_an_arm_that_was_never_asked_for_is_not_there(rig: Rig) -> None:
    assert rig.fleet().state("canary") == ArmState()


@pytest.fixture
def caller(rig: Rig) -> Iterator[Caller]:
    caller = Caller(rig.port)
    yield caller
    caller.close()


def test_an_arm_answers_once_it_is_ready(rig: Rig, caller: Caller) -> None:
    fleet = rig.fleet()
    fleet.ensure("stable", release("one"))
    assert not fleet.state("stable").is_ready or fleet.state("stable").release == "one"
    state = rig.until(fleet, "stable", "one")
    assert (state.is_ready, state.restarts, state.reason) == (True, 0, None)
    assert state.memory_bytes is not None
    assert state.memory_bytes > 1e6
    assert caller.get().body == "one"
    assert fleet.stable_release() == release("one")


def test_asking_twice_starts_one_process(rig: Rig) -> None:
    fleet = rig.fleet()
    for _ in range(3):
        fleet.ensure("stable", release("one"))
        rig.fleet().ensure("stable", release("one"))
    rig.until(fleet, "stable", "one")
    assert len(rig.running()) == 1


def test_stable_gets_a_new_release_without_a_failed_request(rig: Rig) -> None:
    fleet = rig.fleet()
    fleet.ensure("stable", release("one"))
    rig.until(fleet, "stable", "one")
    with asking(rig.port) as statuses:
        fleet.ensure("stable", release("two"))
        assert fleet.stable_release() == release("one")
        rig.until(fleet, "stable", "two")
        fleet.ensure("stable", release("one"))
        rig.until(fleet, "stable", "one")
    assert {status for status, _ in statuses} == {200}
    assert statuses[200, "two"] > 0
    assert len(rig.running()) == 1


def test_a_promotion_that_is_taken_back_leaves_who_has_the_requests(rig: Rig) -> None:
    fleet = rig.fleet()
    fleet.ensure("stable", release("one"))
    rig.until(fleet, "stable", "one")
    before = rig.running()
    fleet.ensure("stable", release("broken"))
    fleet.ensure("stable", release("one"))
    rig.until(fleet, "stable", "one")
    assert rig.running() == before


def test_a_release_that_dies_at_its_start_is_started_a_few_times_and_the_log_is_told(rig: Rig) -> None:
    fleet = rig.fleet()
    fleet.ensure("canary", release("broken"))
    deadline = time.monotonic() + LIMIT_S
    while (state := fleet.state("canary")).restarts < MAX_RESTARTS or "exit code" not in (state.reason or ""):
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
    assert (state.ready, state.wanted, state.release) == (0, 1, None)
    assert "ended with exit code 1" in (state.reason or "")
    assert "no such model" in (state.reason or "")


def test_a_release_that_gets_not_ready_says_why(rig: Rig) -> None:
    fleet = rig.fleet()
    fleet.ensure("canary", release("unready"))
    deadline = time.monotonic() + LIMIT_S
    while not (state := fleet.state("canary")).reason.endswith("starts, and says: unready"):  # type: ignore[union-attr]
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
    assert (state.ready, state.release) == (0, None)


def test_a_process_that_is_killed_is_started_again_and_counted(rig: Rig) -> None:
    fleet = rig.fleet()
    fleet.ensure("canary", release("one"))
    rig.until(fleet, "canary", "one")
    (process,) = rig.running()
    process.kill()
    process.wait(5)
    deadline = time.monotonic() + LIMIT_S
    while (state := fleet.state("canary")).restarts != 1 or not state.is_ready:
        assert time.monotonic() < deadline, state
        time.sleep(0.02)


def test_an_engine_that_was_killed_finds_its_processes(rig: Rig) -> None:
    rig.fleet().ensure("stable", release("one"))
    before = rig.running()
    again = rig.fleet()
    again.ensure("stable", release("one"))
    rig.until(again, "stable", "one")
    assert rig.running() == before
    again.ensure("canary", release("two"))
    rig.until(again, "canary", "two")
    rig.fleet().remove("canary")
    rig.fleet().remove("canary")
    assert rig.running() == before


def test_an_engine_killed_before_it_wrote_the_number_down_ends_what_it_started(rig: Rig) -> None:
    fleet = rig.fleet()
    fleet.ensure("canary", release("one"))
    entry = next((rig.folder / "arms").glob("canary-*.json"))
    token = rig.running()[0].environ()[TOKEN_VARIABLE]
    entry.write_text(f'{{"token": "{token}"}}')
    again = rig.fleet()
    rig.until(again, "canary", "one")
    assert len(rig.running()) == 1
    again.remove("canary")
    assert rig.running() == []


def test_a_stranger_with_the_number_of_a_process_of_ours_is_left_alone(rig: Rig) -> None:
    fleet = rig.fleet()
    fleet.ensure("canary", release("one"))
    rig.until(fleet, "canary", "one")
    entry = next((rig.folder / "arms").glob("canary-*.json"))
    entry.write_text(f'{{"token": "of nobody", "pid": {os.getpid()}, "began_s": 1.0}}')
    (orphan,) = rig.running()
    orphan.kill()
    rig.fleet().remove("canary")
    assert psutil.Process().is_running()


def test_the_release_of_an_arm_is_checked_before_anything_changes(rig: Rig) -> None:
    fleet = rig.fleet()
    with pytest.raises(Refused, match="nothing is served yet"):
        fleet.ensure("canary", Release("no bundle"))
    fleet.ensure("stable", release("one"))
    rig.until(fleet, "stable", "one")
    fleet.ensure("canary", Release("settings only"))
    rig.until(fleet, "canary", "settings only")


def test_stable_is_not_removed(rig: Rig) -> None:
    with pytest.raises(Refused, match="stable is never removed"):
        rig.fleet().remove("stable")


def test_requests_are_told_apart_by_arm(rig: Rig, caller: Caller) -> None:
    fleet = rig.fleet()
    for arm, name in (("stable", "one"), ("canary", "two")):
        fleet.ensure(arm, release(name))  # type: ignore[arg-type]
    rig.until(fleet, "stable", "one")
    rig.until(fleet, "canary", "two")
    assert Counter(caller.get(x_pilotage_arm=arm).body for arm in ("stable", "canary", "canary")) == {"one": 1, "two": 2}
