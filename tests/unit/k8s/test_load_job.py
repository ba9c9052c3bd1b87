"""The Job that loads the arms of a step: what is asked of the API, and what is told when it goes wrong."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster.fleet import DeploymentFleet
from k8s.cluster.load_job import INDEX_ANNOTATION, JOB_LABEL, MAX_PACKED_BYTES, QUIET_S, JobTraffic
from k8s.errors import Refused, Unavailable
from k8s.installation import Installation
from k8s.local.traffic import LocalTraffic
from k8s.rollout.arms import Arm
from k8s.rollout.loading import Comparing
from k8s.rollout.plan import Plan
from k8s.rollout.ports import Look
from serving.contract.errors import SettingsError
from tests.api_server import Refuse
from tests.charts.api_schemas import complaints, newest_version, oldest_version
from tests.clusters import NAMES, Clock, Cluster, api_of, cluster
from tests.load_samples import made_up
from tests.rollouts import plan
from tests.unit.k8s.test_load_log import lines_of, wait_for

ARMS: tuple[Arm, ...] = ("canary", "baseline")
STEP = {"weight_pct": 0, "timeout_s": 100}
CHUNKS = [made_up(200, seed=number, arms=ARMS) for number in range(4)]


@pytest.fixture
def here() -> Iterator[Cluster]:
    with cluster() as installation:
        fleet = DeploymentFleet(api_of(installation.server), NAMES)
        fleet.ensure("canary", fleet.releases()[0], 1)
        yield installation


@dataclass
class Loading:
    """What a test has in its hands."""

    here: Cluster
    traffic: JobTraffic
    asked: Plan
    clock: Clock

    def begin(self) -> dict[str, Any]:
        self.traffic.begin(self.asked.steps[0], ARMS)
        (job,) = self.jobs
        return job

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [found for path, found in self.here.server.objects.items() if path.startswith(f"{NAMES.jobs}/")]

    def pod(self, index: int, **status: Any) -> str:
        """Play the Job's controller, and the kubelet."""
        name = self.jobs[0]["metadata"]["name"]
        path = f"{NAMES.pods}/{name}-{index}-x"
        labels = {JOB_LABEL: name, **self.jobs[0]["spec"]["template"]["metadata"]["labels"]}
        metadata = {"name": f"{name}-{index}-x", "labels": labels, "annotations": {INDEX_ANNOTATION: str(index)}}
        self.here.server.put(path, {"metadata": metadata, "status": status})
        return path

    def looks(self) -> dict[Arm, Look]:
        """The next look that sees something; the log is read in a thread of its own."""
        found: dict[Arm, Look] = {}

        def look() -> bool:
            with suppress(Unavailable):
                found.update(self.traffic.look())
            return bool(found)

        wait_for(look)
        return found


def loading(here: Cluster, requests_file: Path | None = None, *, addresses: bool = True, **synthetic: Any) -> Loading:
    asked, clock = plan(synthetic=synthetic, step=[STEP]), Clock()
    own: dict[Arm, str] = {arm: f"http://{NAMES.arm(arm)}.models.svc" for arm in ARMS} if addresses else {}
    host = "http://gateway" if not addresses else "http://ranker-pilotage-stable.models.svc"
    comparing = Comparing(host, None, ())
    traffic = JobTraffic(
        api_of(here.server), NAMES, clock, asked, host=host, addresses=own, comparing=comparing, requests_file=requests_file
    )
    return Loading(here, traffic, asked, clock)


def args(job: dict[str, Any]) -> list[str]:
    return list(job["spec"]["template"]["spec"]["containers"][0]["args"])


def test_one_pod_does_everything_where_nobody_asks_for_more(here: Cluster) -> None:
    job = loading(here).begin()
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (1, 1)
    assert job["spec"]["activeDeadlineSeconds"] == 100 * 2 + 600
    assert job["metadata"]["ownerReferences"][0]["name"] == NAMES.arm("canary")
    assert job["metadata"]["ownerReferences"][0]["uid"] == here.server.objects[NAMES.deployment("canary")]["metadata"]["uid"]
    ours, locusts = args(job)[:2], args(job)[3:]
    assert ours[0] == "--workers=1"
    assert args(job)[2] == "--"
    assert {
        "--arm=canary=http://ranker-pilotage-canary.models.svc",
        "--arm=baseline=http://ranker-pilotage-baseline.models.svc",
        "--host=http://ranker-pilotage-stable.models.svc",
        "--arrivals=poisson:200",
        "--duration-s=200",
        "--stream=-",
        "--load-profile=canary",
    } < set(locusts)


def test_several_workers_find_their_own_master(here: Cluster) -> None:
    load = loading(here, workers=5, rate_per_s=3000)
    first = load.begin()
    assert (first["spec"]["completions"], first["spec"]["parallelism"]) == (6, 6)
    name = first["metadata"]["name"]
    assert args(first)[:2] == ["--workers=5", f"--master={name}-0.ranker-pilotage-rollout-load.models.svc:5557"]
    second = load.begin()
    assert second["metadata"]["name"] != name
    assert args(first) != args(second)  # another schedule
    assert "--arrivals=poisson:3000" in args(second)


@pytest.mark.parametrize("workers", [None, 3])
def test_the_job_is_one_that_every_supported_kubernetes_takes(workers: int | None, here: Cluster, tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_text("{}\n")
    load = loading(here, tmp_path / "requests.jsonl", workers=workers)
    job = load.begin()
    kept = here.server.objects[NAMES.config_map(NAMES.requests)]
    for thing, kind in ((job, {}), (kept, {"apiVersion": "v1", "kind": "ConfigMap"})):
        plain = kind | thing
        plain["metadata"] = {key: value for key, value in plain["metadata"].items() if key != "owners"}
        for version in (oldest_version(), newest_version()):
            assert complaints(plain, version) == []


def test_through_a_gateway_arms_are_told_by_header(here: Cluster) -> None:
    words = args(loading(here, addresses=False).begin())
    assert {"--arm=canary=header:canary", "--arm=baseline=header:baseline", "--host=http://gateway"} < set(words)


def test_what_an_earlier_engine_left_is_ended_first_and_other_jobs_are_not(here: Cluster) -> None:
    dead = loading(here).begin()["metadata"]["name"]
    here.server.put(f"{NAMES.jobs}/nightly", {"metadata": {"name": "nightly", "labels": {"app.kubernetes.io/component": "batch"}}})
    load = loading(here)
    load.traffic.begin(load.asked.steps[0], ARMS)
    names = {job["metadata"]["name"] for job in load.jobs}
    assert dead not in names
    assert len(names) == 2
    load.traffic.end()
    load.traffic.end()
    assert [job["metadata"]["name"] for job in load.jobs] == ["nightly"]
    assert load.traffic.look() == {}


def test_beginning_again_after_an_answer_that_was_lost_leaves_one_job(here: Cluster) -> None:
    load = loading(here)

    def lose(method: str, path: str) -> None:
        if method == "POST" and path == NAMES.jobs:
            here.server.after = lambda method, path: None
            raise Refuse(504, "gateway timeout")

    here.server.after = lose
    with pytest.raises(Unavailable):
        load.traffic.begin(load.asked.steps[0], ARMS)
    lost = load.jobs[0]["metadata"]["name"]
    assert load.begin()["metadata"]["name"] != lost


def test_samples_of_the_log_are_looks_of_the_arms(here: Cluster) -> None:
    load = loading(here)
    load.begin()
    pod = load.pod(0, phase="Running")
    for line in lines_of(*CHUNKS, ended=False):
        here.server.logs.write(pod, line)
    canary = baseline = 0
    while canary + baseline < 800:
        look = load.looks()["canary"]
        canary, baseline = canary + len(look.batch.canary), baseline + len(look.batch.baseline)
    assert min(canary, baseline) > 300
    load.traffic.end()


def test_a_worker_that_was_lost_is_in_the_look(here: Cluster) -> None:
    load = loading(here, workers=2)
    load.begin()
    pod = load.pod(0, phase="Running")
    for line in lines_of(replace(CHUNKS[0], lost_workers=1, unanswered=70), ended=False):
        here.server.logs.write(pod, line)
    batch = load.looks()["canary"].batch
    assert (batch.lost_workers, batch.unanswered) == (1, 70)
    load.traffic.end()


def test_a_gap_is_told_once_and_then_it_goes_on(here: Cluster) -> None:
    load = loading(here)
    load.begin()
    pod = load.pod(0, phase="Running")
    for line in lines_of(*CHUNKS, ended=False):
        if not line.startswith(b"pilotage-chunk 2 "):
            here.server.logs.write(pod, line)
    told: list[str] = []
    seen: list[Look] = []

    def look() -> bool:
        try:
            seen.extend(load.traffic.look().values())
        except Unavailable as error:
            told.append(str(error))
        return sum(len(each.batch.canary) + len(each.batch.baseline) for each in seen) == 600

    wait_for(look)
    assert told == ["1 chunks of samples, 200 requests, are missing in the log of the load generator"]
    assert sum(each.batch.unanswered for each in seen) == 200
    load.traffic.end()


FAILED = {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]}


def test_a_pod_that_failed_is_told_with_the_end_of_its_log(here: Cluster) -> None:
    load = loading(here, workers=2)
    load.begin()
    load.pod(0, phase="Running")
    worker = load.pod(1, **FAILED)
    for line in (b"[2026] starting", b"no profile is called 'x'"):
        here.server.logs.write(worker, line)
    here.server.logs.end(worker)
    with pytest.raises(Unavailable, match=r"-1-x ended with exit code 2 \(Error\): \[2026\] starting \| no profile is called 'x'"):
        load.traffic.look()
    load.traffic.end()


def test_a_job_that_failed_as_a_whole_and_one_that_is_gone_are_told(here: Cluster) -> None:
    load = loading(here)
    job = load.begin()
    path = f"{NAMES.jobs}/{job['metadata']['name']}"
    late = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "Job was active longer than specified deadline"}
    here.server.objects[path]["status"] = {"conditions": [{"type": "Suspended", "status": "False"}, late]}
    with pytest.raises(Unavailable, match="longer than specified deadline"):
        load.traffic.look()
    del here.server.objects[path]
    with pytest.raises(Unavailable, match="was deleted by somebody"):
        load.traffic.look()
    load.traffic.end()


def test_pods_that_do_not_begin_are_waited_for_a_while_and_then_why_is_told(here: Cluster) -> None:
    load = loading(here, workers=2)
    load.begin()
    assert load.traffic.look() == {}
    load.clock.sleep(QUIET_S + 1)
    with pytest.raises(Unavailable, match="for 61 s: it has no pods"):
        load.traffic.look()
    waiting = {"containerStatuses": [{"ready": False, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
    pod = load.pod(0, phase="Pending", **waiting)
    with pytest.raises(Unavailable, match="ImagePullBackOff"):
        load.traffic.look()
    load.pod(0, phase="Running")
    for line in lines_of(CHUNKS[0], ended=False):
        here.server.logs.write(pod, line)
    assert len(load.looks()["canary"].batch.canary)
    assert load.traffic.look() == {}  # it was heard of just now
    load.traffic.end()


def test_a_role_that_may_not_read_logs_is_told(here: Cluster) -> None:
    load = loading(here)

    def refuse(method: str, path: str) -> None:
        if path.endswith("/log"):
            raise Refuse(403, "pods/log is forbidden")

    here.server.fault = refuse
    load.begin()
    load.pod(0, phase="Running")
    assert load.traffic._log is not None
    log = load.traffic._log
    wait_for(lambda: "pods/log is forbidden" in log.trouble)
    load.clock.sleep(QUIET_S + 1)
    with pytest.raises(Unavailable, match="pods/log is forbidden"):
        load.traffic.look()
    load.traffic.end()


def test_a_schedule_that_is_through_is_no_failure(here: Cluster) -> None:
    load = loading(here)
    load.begin()
    pod = load.pod(0, phase="Running")
    for line in lines_of(*CHUNKS):
        here.server.logs.write(pod, line)
    here.server.logs.end(pod)
    log = load.traffic._log
    assert log is not None
    wait_for(lambda: log.is_over)
    load.looks()
    load.clock.sleep(10 * QUIET_S)
    assert load.traffic.look() == {}
    load.traffic.end()


def test_recorded_requests_travel_in_a_config_map(here: Cluster, tmp_path: Path) -> None:
    text = b'{"candidates": [{"id": 1}]}\n' * 1000
    (tmp_path / "requests.jsonl").write_bytes(text)
    job = loading(here, tmp_path / "requests.jsonl").begin()
    kept = here.server.objects[NAMES.config_map(NAMES.requests)]
    content = base64.b64decode(kept["binaryData"]["requests.jsonl.gz"])
    assert gzip.decompress(content) == text
    assert kept["metadata"]["ownerReferences"][0]["uid"] == here.stable["metadata"]["uid"]
    assert f"--requests-sha256={hashlib.sha256(content).hexdigest()}" in args(job)
    assert "--requests=/requests/requests.jsonl.gz" in args(job)


def test_too_many_recorded_requests_are_refused_before_anything_begins(here: Cluster, tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_bytes(os.urandom(MAX_PACKED_BYTES))
    with pytest.raises(SettingsError, match=r"a ConfigMap may have 900,000: take fewer, .* \(workers = 0"):
        loading(here, tmp_path / "requests.jsonl")
    with pytest.raises(SettingsError, match="cannot be read"):
        loading(here, tmp_path / "none")


def test_an_installation_without_the_job_says_what_to_do(here: Cluster) -> None:
    config = here.server.objects[NAMES.config_map(NAMES.rollout)]
    assert json.loads(config["data"]["load.json"])["kind"] == "Job"
    del config["data"]["load.json"]
    with pytest.raises(Refused, match=r"has no load\.json: install the chart with .* \(workers = 0"):
        loading(here).traffic.prepared()


def test_a_plan_says_who_sends(here: Cluster) -> None:
    installation = Installation(NAMES, api_of(here.server))
    assert isinstance(installation.world(plan(), "engine").traffic["synthetic"], JobTraffic)
    assert isinstance(installation.world(plan(synthetic={"workers": 0}), "engine").traffic["synthetic"], LocalTraffic)
    del here.server.objects[NAMES.config_map(NAMES.rollout)]["data"]["load.json"]
    assert isinstance(installation.world(plan(synthetic={"workers": 0}), "engine").traffic["synthetic"], LocalTraffic)
    with pytest.raises(Refused, match=r"workers = 0"):
        installation.world(plan(synthetic={"workers": 3}), "engine")


def test_several_canaries_own_the_load_together(here: Cluster) -> None:
    load = loading(here)
    found = here.server.objects[NAMES.deployment("canary")]
    second = json.loads(json.dumps(found))
    second["metadata"] |= {"name": NAMES.arm("canary-2"), "uid": "another"}
    here.server.put(NAMES.deployment("canary-2"), second)
    load.traffic.begin(load.asked.steps[0], ("canary", "canary-2", "baseline"))
    (job,) = load.jobs
    assert [owner["name"] for owner in job["metadata"]["ownerReferences"]] == [NAMES.arm("canary"), NAMES.arm("canary-2")]
    assert "--arm=canary-2=header:canary-2" in args(job)  # this test gave no address for it
