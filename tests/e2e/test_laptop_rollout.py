"""One good and one bad release on this machine: real Envoy, real services, real load, the engine and plan of a cluster.

Takes half a minute: each of five services takes seconds to start, and a judge wants hundreds of requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from benchmarks.rollout import SETTINGS, launch
from benchmarks.rollout_live import Live, failures, live_load
from benchmarks.rollout_models import Version, make_bundle, make_requests
from k8s.local.laptop import Laptop
from k8s.local.processes import TOKEN_VARIABLE, free_port
from k8s.rollout.arms import Release, Weights
from k8s.rollout.plan import Plan
from k8s.rollout.report import write_report

pytest.importorskip("envoy", reason="Envoy comes with pilotage[local]")
if find_spec("locust") is None:  # looked for only: imported, it would patch the process of the tests
    pytest.skip("load comes with pilotage[loadtest]", allow_module_level=True)

# One step beside stable, judged on errors and answers: what a busy machine cannot disturb.
PLAN = Plan.model_validate(
    {
        "name": "test",
        "baseline": False,
        "warm_up": {"requests": 50, "timeout_s": 60},
        "synthetic": {"rate_per_s": 200},
        "answers": {"rate_per_s": 100, "max_distance": 0.5},
        "objectives": {
            "error_increase": {"tolerated_points": 0.1, "max_points": 3.0},
            "policy": {"max_lag_ms": 1000, "min_samples": 100, "silent_after": 2000},
        },
        "times": {"ready_s": 120, "promote_s": 120, "proven_s": 0.5, "poll_s": 0.3},
        "step": [{"weight_pct": 5, "samples": 8000, "timeout_s": 120}],
    }
)


@dataclass
class Rig:
    folder: Path
    laptop: Laptop
    live: Live

    def release(self, name: str, version: Version, fault: str = "") -> Release:
        bundle = make_bundle(version, name, self.folder / "bundles")
        values = {"env": {**SETTINGS, "PILOTAGE_OBJECTIVE_MS": "5000"}, **({"fault": fault} if fault else {})}
        return Release(name, bundle={"path": str(bundle)}, values=values)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder, port = tmp_path_factory.mktemp("laptop"), free_port()
    make_requests(folder / "requests.jsonl", 2000)
    with ExitStack() as stack:
        laptop = Laptop(folder / "laptop", port, launcher=launch, end_with_us=True)
        stack.callback(laptop.close)
        rig = Rig(folder, laptop, Live(folder / "live.txt"))
        laptop.serve(rig.release("first", Version()))
        stack.enter_context(live_load(port, 20, folder / "requests.jsonl", folder / "live.txt"))
        yield rig
    assert not [
        process
        for process in psutil.process_iter(["environ"])
        if str(folder) in str(process.info["environ"] or {}) and TOKEN_VARIABLE in process.info["environ"]
    ]


def test_a_good_release_is_promoted_and_a_bad_one_is_not_and_no_user_notices(rig: Rig) -> None:
    good = rig.laptop.roll_out(PLAN, rig.release("good", Version(bits=8)), requests_file=rig.folder / "requests.jsonl")
    assert (good.outcome, rig.laptop.fleet.stable_release().name) == ("promoted", "good"), good.why
    assert {judged.source for judged in good.verdicts} == {"synthetic", "answers"}
    bad = rig.laptop.roll_out(PLAN, rig.release("bad", Version(hash_seed=1), "errors"), requests_file=rig.folder / "requests.jsonl")
    assert (bad.outcome, bad.conclusion) == ("rolled_back", "fail"), bad.why
    assert rig.laptop.fleet.stable_release().name == "good"
    assert rig.laptop.router.read() == Weights()
    assert rig.laptop.fleet.state("canary").wanted == 0
    seen = rig.live.seen()
    promoted = [each for each in seen if each.intended_s < good.ended_s]
    assert {each.arm for each in promoted} == {"stable", "canary"}
    assert failures(promoted) == {}
    write_report(bad, rig.folder / "report")
    assert json.loads((rig.folder / "report" / "report.json").read_text())["outcome"] == "rolled_back"
