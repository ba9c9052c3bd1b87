"""A whole rollout with a real Envoy and real processes, killed on the way: whoever comes next goes on, and users notice nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from k8s.local.processes import free_port
from k8s.rollout.arms import Weights
from k8s.rollout.plan import Plan
from k8s.rollout.report import decided_by
from tests.laptop import PLAN, Made, laptop, release, roll_out
from tests.upstreams import asking

pytest.importorskip("envoy", reason="Envoy comes with pilotage[local]")

ROOT = Path(__file__).parents[2]
LIMIT_S = 60


@dataclass
class Rig:
    folder: Path
    port: int

    def running(self) -> list[str]:
        """Command lines of all that was started for this folder; children have its name in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RIG") == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[-60:])
            except psutil.Error:
                continue
        return found


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("RIG", str(tmp_path))
    rig = Rig(tmp_path, free_port())
    yield rig
    laptop(tmp_path, rig.port).close()
    assert rig.running() == []


def killed_in(rig: Rig, phase: str, slower: float) -> None:
    """Begin in a process of its own; kill it in a phase."""
    command = [sys.executable, "-m", "tests.laptop", str(rig.folder), str(rig.port), "new", str(slower)]
    with (rig.folder / "child.log").open("wb") as sink:
        child = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
    try:
        deadline, record = time.monotonic() + LIMIT_S, rig.folder / "journal" / "record.json"
        while not (record.exists() and f'"phase": "{phase}"' in record.read_text()):
            assert child.poll() is None, (rig.folder / "child.log").read_text()[-2000:]
            assert time.monotonic() < deadline, f"never {phase}"
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)


@pytest.mark.parametrize("phase", ["stepping", "promoting"])
def test_a_good_release_is_promoted_though_its_engine_is_killed(rig: Rig, phase: str) -> None:
    killed_in(rig, phase, slower=1.0)
    at = laptop(rig.folder, rig.port)
    with asking(rig.port) as counts:
        record = roll_out(at, "new", slower=1.0)
        time.sleep(0.1)
    assert (record.outcome, at.fleet.stable_release().name, at.router.read()) == ("promoted", "new", Weights())
    assert {status for status, _ in counts} == {200}
    assert counts[200, "new"] > 0
    assert [at.fleet.state(arm).wanted for arm in ("stable", "baseline", "canary")] == [1, 0, 0]


def test_a_slow_release_is_rolled_back_though_its_engine_is_killed(rig: Rig) -> None:
    killed_in(rig, "warming", slower=2.0)
    at = laptop(rig.folder, rig.port)
    with asking(rig.port) as counts:
        record = roll_out(at, "new", slower=2.0)
    assert (record.outcome, record.conclusion, decided_by(record)) == ("rolled_back", "fail", "judge")
    assert (at.fleet.stable_release().name, at.router.read()) == ("old", Weights())
    assert set(counts) == {(200, "old")}


def test_of_two_releases_at_the_same_time_the_slow_one_goes_and_the_other_is_promoted(rig: Rig) -> None:
    at = laptop(rig.folder, rig.port)
    at.serve(release("old"))
    asked = Plan.model_validate(PLAN.model_dump(by_alias=True) | {"step": [{"weight_pct": 20, "bake_s": 2, "samples": 3000}]})
    with asking(rig.port) as counts:
        record = at.roll_out(asked, release("slow"), release("good"), generator=Made(2.0))
        time.sleep(0.1)
    assert (record.outcome, record.title) == ("promoted", "good")
    assert [(each.arm, each.conclusion) for each in record.dropped] == [("canary", "fail")]
    assert (at.fleet.stable_release().name, at.router.read()) == ("good", Weights())
    assert {status for status, _ in counts} == {200}
    assert {name for _, name in counts} == {"old", "slow", "good"}
    assert [at.fleet.state(arm).wanted for arm in ("stable", "baseline", "canary", "canary-2")] == [1, 0, 0, 0]


def test_a_generator_that_dies_is_told_and_passes_nothing(rig: Rig) -> None:
    class Dying(Made):
        def __call__(self, *_: object) -> list[str]:
            return [sys.executable, "-c", "import sys; sys.exit('no requests left')"]

    at = laptop(rig.folder, rig.port)
    at.serve(release("old"))
    short = PLAN.model_copy(update={"warm_up": PLAN.warm_up.model_copy(update={"timeout_s": 2.0})})
    record = at.roll_out(short, release("new"), generator=Dying(1.0))
    assert (record.outcome, record.conclusion, at.router.read()) == ("rolled_back", "inconclusive", Weights())
    assert any("ended with exit code 1: no requests left" in entry.detail for entry in record.timeline)


def test_a_laptop_that_is_to_end_with_its_program_does_whatever_that_dies_of(rig: Rig) -> None:
    code = "import sys; from pathlib import Path; from tests.laptop import *; at = laptop(Path(sys.argv[1]), int(sys.argv[2]), end_with_us=True)"
    code += "; at.serve(release('old')); print('serving', flush=True); import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(rig.folder), str(rig.port)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"serving\n"
        assert len(rig.running()) == 2  # the program and its service; Envoy is not given our environment
        envoy = psutil.Process(json.loads((rig.folder / "processes" / "envoy.json").read_text())["pid"])
    finally:
        child.kill()
        child.communicate(timeout=10)
    deadline = time.monotonic() + LIMIT_S
    while (rig.running() or lives(envoy)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rig.running() == []
    assert not lives(envoy)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
