"""A step's load by the Job that the chart renders: its pods run as processes here, and what they write comes back through the API alone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from k8s.cluster.fleet import DeploymentFleet
from k8s.cluster.load_job import JobTraffic
from k8s.errors import Unavailable
from k8s.installation import Installation
from k8s.rollout.arms import Arm
from k8s.rollout.clock import SystemClock
from k8s.rollout.jury import Jury
from k8s.rollout.loading import Comparing
from k8s.rollout.plan import Plan
from k8s.rollout.start import begin, held
from tests.clusters import NAMES, Cluster, api_of, cluster
from tests.integration.test_locust_run import MODEL
from tests.kubelet import Kubelet, kubelet
from tests.rollouts import plan

ARMS: tuple[Arm, ...] = ("canary", "baseline")
LIMIT_S = 90


class _Service(BaseHTTPRequestHandler):
    """Ranks as cheaply as can be."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        self._answer({"models": [MODEL]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        ranking = [{"id": candidate["id"], "probability": 0.5} for candidate in body["candidates"][: body.get("top_k")]]
        self._answer({"model": {"name": "ads", "version": "7"}, "request_id": "r", "ranking": ranking})

    def _answer(self, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Service)
        self.bodies: list[Any] = []


@contextmanager
def service() -> Iterator[_Server]:
    server = _Server()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class World:
    """A cluster with both arms, and somebody who runs the pods of Jobs."""

    def __init__(self, here: Cluster, arms: dict[str, _Server], pods: Kubelet) -> None:
        self.here, self.arms, self.pods = here, arms, pods

    def traffic(self, asked: Plan, requests_file: Path | None = None) -> JobTraffic:
        addresses: dict[Arm, str] = {arm: f"http://{NAMES.arm(arm)}.models.svc" for arm in ARMS}
        host = addresses["baseline"]
        return JobTraffic(
            api_of(self.here.server), NAMES, SystemClock(), asked, host=host, addresses=addresses, comparing=Comparing(host, None, ()),
            requests_file=requests_file,
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        here = stack.enter_context(cluster())
        arms = {arm: stack.enter_context(service()) for arm in (*ARMS, "stable")}
        addresses = {f"http://{NAMES.arm(arm)}.models.svc": f"http://127.0.0.1:{server.server_port}" for arm, server in arms.items()}
        fleet = DeploymentFleet(api_of(here.server), NAMES)
        fleet.ensure("canary", fleet.releases()[0], 1)
        pods = stack.enter_context(kubelet(here.server, NAMES, addresses, tmp_path))
        yield World(here, arms, pods)


def wait_for(until: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + LIMIT_S
    while not until():
        assert time.monotonic() < limit_s
        time.sleep(0.1)


def asked(**synthetic: Any) -> Plan:
    return plan(synthetic={"rate_per_s": 80, **synthetic}, step=[{"weight_pct": 0, "samples": 400, "timeout_s": 1000}])


def test_two_workers_and_their_master_give_both_arms_requests_to_the_judge(world: World) -> None:
    wanted = asked(workers=2)
    traffic, jury = world.traffic(wanted), Jury.of_step(wanted, 1)
    world.here.server.logs.cut_after = 20  # and the API server ends the connection all the time
    traffic.begin(wanted.steps[0], ARMS)
    counts = np.zeros(2, dtype=int)
    lags: list[float] = []

    def look() -> bool:
        for seen in traffic.look().values():
            jury.add("synthetic", seen)
            counts[:] += [len(seen.batch.canary), len(seen.batch.baseline)]
            lags.extend(np.asarray(seen.batch.canary.lag_ms if len(seen.batch.canary) else ()).tolist())
            assert (seen.batch.lost_workers, seen.batch.unanswered, seen.batch.unsent) == (0, 0, 0)
        return bool(counts.min() >= 200)

    wait_for(look)
    verdict = jury.verdicts()["synthetic"]
    assert (verdict.canary_samples, verdict.baseline_samples) == tuple(counts)
    assert len(lags) == counts[0]
    sent = {arm: len(server.bodies) for arm, server in world.arms.items()}
    assert sent["canary"] >= counts[0]
    assert sent["baseline"] >= counts[1]
    assert len(world.pods.processes) == 3
    traffic.end()
    wait_for(lambda: all(process.poll() is not None for process in world.pods.processes.values()))


def test_a_worker_that_dies_is_told_and_no_step_passes_by_its_load(world: World) -> None:
    wanted = asked(workers=2)
    traffic, jury = world.traffic(wanted), Jury.of_step(wanted, 1)
    traffic.begin(wanted.steps[0], ARMS)
    told: list[str] = []

    def look() -> bool:
        try:
            for seen in traffic.look().values():
                jury.add("synthetic", seen)
        except Unavailable as error:
            told.append(str(error))
        return jury.verdicts()["synthetic"].canary_samples > 50

    wait_for(look)
    (worker,) = [process for pod, process in world.pods.processes.items() if pod.endswith("-1-x")]
    os.killpg(worker.pid, signal.SIGKILL)
    told.clear()
    wait_for(lambda: look() and any("-1-x ended with exit code" in each for each in told))
    # The master misses it some seconds later, and says so before it ends.
    wait_for(lambda: look() and "the load generator lost" in jury.verdicts()["synthetic"].sentence)
    assert jury.verdicts()["synthetic"].status == "inconclusive"
    traffic.end()


def test_one_pod_sends_recorded_requests(world: World, tmp_path: Path) -> None:
    recorded = [
        {"user": {"user": f"u{number}"}, "candidates": [{"id": number, "brand": "b", "price": 1.0}], "top_k": 1} for number in range(50)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(each) + "\n" for each in recorded))
    wanted = asked()
    traffic = world.traffic(wanted, tmp_path / "mine.jsonl")
    traffic.begin(wanted.steps[0], ARMS)
    count = 0

    def look() -> bool:
        nonlocal count
        with suppress(Unavailable):
            count += sum(len(seen.batch.canary) for seen in traffic.look().values())
        return count > 50

    wait_for(look)
    traffic.end()
    ids = {body["candidates"][0]["id"] for body in world.arms["canary"].bodies}
    assert len(ids) > 10
    assert ids <= set(range(50))
    assert len(world.pods.processes) == 1


def test_a_rollout_is_carried_to_its_end_by_the_load_of_its_jobs(world: World) -> None:
    objectives = {
        "quantile_ratio": {"quantile": 0.5, "tolerated_ratio": 2.0, "max_ratio": 10.0},
        "error_increase": {"max_points": 20.0},
        # A generator on a machine that does much else is late; this is not about the judge.
        "policy": {"min_samples": 200, "planned_samples": 1000, "max_lag_ms": 5000},
    }
    wanted = plan(
        synthetic={"rate_per_s": 120, "workers": 2},
        warm_up={"requests": 50, "timeout_s": LIMIT_S},
        objectives=objectives,
        step=[{"weight_pct": 10, "samples": 5000, "timeout_s": LIMIT_S}],
        times={"proven_s": 0, "poll_s": 0.2},
    )
    installation = Installation(NAMES, api_of(world.here.server))
    made = installation.world(wanted, "engine")
    with held(made.lease, made.clock):
        record = begin(made, NAMES.name, wanted, installation.releases([], []), "engine").run()
    assert record.outcome == "promoted", [record.why, *record.timeline]
    assert [entry.what for entry in record.timeline].count("blind") == 0
    jobs = {pod.rsplit("-", 2)[0] for pod in world.pods.processes}
    assert len(jobs) == 2  # the warm-up's, and the step's
    assert not [path for path in world.here.server.objects if path.startswith(f"{NAMES.jobs}/")]
    assert min(len(world.arms[arm].bodies) for arm in ARMS) > 250
