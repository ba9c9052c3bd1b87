"""A step of several releases is loaded by one Job: each arm at its own Service, each canary beside the same requests of the baseline."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from k8s.cluster.fleet import DeploymentFleet
from k8s.cluster.load_job import JobTraffic
from k8s.installation import address
from k8s.rollout.arms import Arm
from k8s.rollout.clock import SystemClock
from k8s.rollout.loading import Comparing
from tests.charts.rendering import CHART
from tests.clusters import NAMES, api_of, cluster
from tests.integration.test_load_job_pods import asked, service, wait_for
from tests.kubelet import kubelet

EXAMPLE: dict[str, Any] = yaml.safe_load((CHART / "ci" / "variants-values.yaml").read_text())
TRIED: tuple[Arm, ...] = ("canary", "canary-2", "canary-3")


def test_every_arm_gets_requests_of_its_own_from_one_job(tmp_path: Path) -> None:
    arms: tuple[Arm, ...] = (*TRIED, "baseline")
    own: dict[Arm, str] = {arm: address(NAMES, arm) for arm in arms}
    counts: Counter[Arm] = Counter()
    with ExitStack() as stack:
        here = stack.enter_context(cluster(EXAMPLE))
        servers = {arm: stack.enter_context(service()) for arm in arms}
        fleet = DeploymentFleet(api_of(here.server), NAMES)
        for arm, release in zip(TRIED, fleet.releases(), strict=True):
            fleet.ensure(arm, release, 1)
        reached = {own[arm]: f"http://127.0.0.1:{server.server_port}" for arm, server in servers.items()}
        pods = stack.enter_context(kubelet(here.server, NAMES, reached, tmp_path))
        plan, comparing = asked(), Comparing(own["baseline"], None, ())
        traffic = JobTraffic(api_of(here.server), NAMES, SystemClock(), plan, host=own["baseline"], addresses=own, comparing=comparing)
        stack.callback(traffic.end)
        traffic.begin(plan.steps[0], arms)

        def look() -> bool:
            seen = traffic.look()
            assert set(seen) in (set(), set(TRIED))
            assert len({len(each.batch.baseline) for each in seen.values()}) <= 1
            counts.update({arm: len(each.batch.canary) for arm, each in seen.items()})
            counts["baseline"] += len(seen["canary"].batch.baseline) if seen else 0
            return min(counts[arm] for arm in arms) >= 50

        wait_for(look)
        assert len(pods.processes) == 1
        assert all(len(servers[arm].bodies) >= counts[arm] for arm in arms)
