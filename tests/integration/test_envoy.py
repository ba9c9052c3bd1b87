"""A real Envoy in front of tiny services: where requests go, and that none is lost on the way."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from k8s.errors import Refused, Unavailable
from k8s.local.processes import Processes, free_port
from k8s.local.proxy import NAME, ensure_envoy
from k8s.rollout.arms import ARMS, Arm, Weights
from k8s.rollout.collector import Collector
from k8s.rollout.questions import Asked
from k8s.routing.envoy import EnvoyRouter
from tests.upstreams import Caller, Upstream, asking, upstream

pytest.importorskip("envoy", reason="Envoy comes with pilotage[local]")

CHECKED_LIMIT_S = 10


@dataclass
class Rig:
    folder: Path
    port: int
    processes: Processes
    router: EnvoyRouter
    arms: dict[Arm, Upstream]

    def until_healthy(self, arm: Arm, ports: set[int]) -> None:
        deadline = time.monotonic() + CHECKED_LIMIT_S
        while self.router.healthy(arm) != ports:
            assert time.monotonic() < deadline, f"{arm} has {self.router.healthy(arm)}, not {ports}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def one_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder, port = tmp_path_factory.mktemp("envoy"), free_port()
    processes = Processes(folder / "processes")
    with ExitStack() as stack:
        stack.callback(processes.end_all)
        router = ensure_envoy(folder / "envoy", processes, port)
        yield Rig(folder, port, processes, router, {arm: stack.enter_context(upstream(arm)) for arm in ARMS})


@pytest.fixture
def rig(one_rig: Rig) -> Iterator[Rig]:
    for arm, service in one_rig.arms.items():
        service.healthy = True
        one_rig.router.point(arm, [service.port])
    for arm, service in one_rig.arms.items():
        one_rig.until_healthy(arm, {service.port})
    yield one_rig
    one_rig.router.mirror(0)
    one_rig.router.stick(False)
    one_rig.router.write(Weights())


@pytest.fixture
def caller(rig: Rig) -> Iterator[Caller]:
    caller = Caller(rig.port)
    yield caller
    caller.close()


def test_live_requests_are_shared_out_by_weight(rig: Rig, caller: Caller) -> None:
    rig.router.write(Weights(stable=80, baseline=10, canary=10))
    counts = Counter(caller.get().body for _ in range(1000))
    # 1,000 draws: six deviations are 57 for the rare arms.
    assert abs(counts["baseline"] - 100) < 57
    assert abs(counts["canary"] - 100) < 57
    assert sum(counts.values()) == 1000


def test_an_arm_without_weight_gets_no_live_request(rig: Rig, caller: Caller) -> None:
    rig.router.write(Weights(stable=50, baseline=0, canary=50))
    rig.router.write(Weights())
    assert {caller.get().body for _ in range(100)} == {"stable"}


def test_the_header_forces_an_arm_whatever_the_weights_are(rig: Rig, caller: Caller) -> None:
    for arm in ARMS:
        answer = caller.get(x_pilotage_arm=arm)
        assert (answer.body, answer.headers["x-pilotage-arm"]) == (arm, arm)


def test_an_answer_says_which_arm_it_came_from(rig: Rig, caller: Caller) -> None:
    rig.router.write(Weights(stable=20, baseline=20, canary=15, more=(15, 10, 10, 10)))
    answers = [caller.get() for _ in range(200)]  # none is missed but by chance: 3 times 0.9^200, 2e-9
    assert all(answer.headers["x-pilotage-arm"] == answer.body for answer in answers)
    assert {answer.body for answer in answers} == set(ARMS)


def test_mirrored_requests_reach_the_canary_and_their_answers_nobody(rig: Rig, caller: Caller) -> None:
    before = rig.arms["canary"].requests
    rig.router.mirror(100)
    assert {caller.get().body for _ in range(30)} == {"stable"}
    deadline = time.monotonic() + 5
    while rig.arms["canary"].requests < before + 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rig.arms["canary"].requests == before + 30


def test_forced_requests_are_not_mirrored(rig: Rig, caller: Caller) -> None:
    rig.router.mirror(100)
    before = rig.arms["canary"].requests
    for _ in range(20):
        caller.get(x_pilotage_arm="baseline")
    caller.get(x_pilotage_arm="canary")
    assert rig.arms["canary"].requests == before + 1


def test_copies_go_to_the_engine_while_it_listens_and_users_notice_nothing_of_it(rig: Rig, caller: Caller) -> None:
    canary = rig.arms["canary"].requests
    rig.router.mirror(100, "engine")
    assert (rig.router.split().mirror_pct, rig.router.split().mirror_to) == (100, "engine")
    assert {(answer.status, answer.body) for answer in (caller.get() for _ in range(20))} == {(200, "stable")}  # it listens nowhere
    collector = Collector("127.0.0.1", 0, lambda ports: rig.router.point("engine", ports))
    copies = collector.begin()
    try:
        sent = json.dumps({"candidates": [{"id": 1}], "more": "x" * 100_000}).encode()
        for chunked in (False, True):
            rank(rig.port, sent, chunked)
        first, second = copies.draw(2)
        assert first == second == Asked(sent, "Bearer one")
    finally:
        collector.end()
    assert rank(rig.port, sent, False) == (200, "stable")
    assert rig.arms["canary"].requests == canary
    rig.router.mirror(0)
    assert (rig.router.split().mirror_pct, rig.router.split().mirror_to) == (0, "canary")


def test_an_engine_that_was_killed_or_hangs_holds_up_nobody(rig: Rig, caller: Caller) -> None:
    rig.router.mirror(100, "engine")
    gone = free_port()
    rig.router.point("engine", [gone])
    assert {(answer.status, answer.body) for answer in (caller.get() for _ in range(20))} == {(200, "stable")}
    with socket.create_server(("127.0.0.1", gone), backlog=1):  # takes connections, and never answers
        assert {(answer.status, answer.body) for answer in (caller.get() for _ in range(200))} == {(200, "stable")}
    rig.router.point("engine", [])


def rank(port: int, body: bytes, chunked: bool) -> tuple[int, str]:
    """Ask as a user does, with a token."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"content-type": "application/json", "authorization": "Bearer one"}
        connection.request("POST", "/v1/rank", iter([body[:7], body[7:]]) if chunked else body, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_user_of_the_canary_stays_with_it_while_its_weight_grows(rig: Rig, caller: Caller) -> None:
    rig.router.stick(True)
    assert rig.router.keeps_users()
    rig.router.write(Weights(stable=60, baseline=20, canary=20))
    users: dict[str, str] = {}
    while Counter(users.values())["canary"] < 10:
        answer = caller.get()
        users[answer.headers["set-cookie"].split(";")[0]] = answer.body
        assert len(users) < 500
    for weights in (Weights(stable=60, baseline=20, canary=20), Weights(stable=20, baseline=40, canary=40)):
        rig.router.write(weights)
        assert all(caller.get(cookie=user).body == arm for user, arm in users.items() if arm == "canary")
    rig.router.write(Weights())
    assert {caller.get(cookie=user).body for user in users} == {"stable"}


def test_an_arm_whose_processes_are_all_unhealthy_gets_nothing(rig: Rig, caller: Caller) -> None:
    rig.arms["canary"].healthy = False
    rig.until_healthy("canary", set())
    before = rig.arms["canary"].requests
    assert caller.get(x_pilotage_arm="canary").status == 503
    assert rig.arms["canary"].requests == before


def test_a_new_process_takes_over_without_a_failed_request(rig: Rig) -> None:
    stable = rig.arms["stable"]
    with upstream("stable again") as again, asking(rig.port) as counts:
        answered(counts, "stable", 1)
        rig.router.point("stable", [stable.port, again.port])
        rig.until_healthy("stable", {stable.port, again.port})
        rig.router.point("stable", [again.port])
        answered(counts, "stable again", counts[200, "stable again"] + 50)
        old = stable.requests
        time.sleep(0.1)
        assert stable.requests == old  # who was taken out gets no new request
    assert {status for status, _ in counts} == {200}


def answered(counts: Counter[tuple[int, str]], by: str, times: int) -> None:
    deadline = time.monotonic() + 10
    while counts[200, by] < times:
        assert time.monotonic() < deadline, counts
        time.sleep(0.01)


def test_an_envoy_that_died_comes_back_with_the_weights_it_had(rig: Rig) -> None:
    rig.router.write(Weights(stable=75, baseline=0, canary=25))
    rig.router.mirror(5)
    envoy = rig.processes.find(NAME)
    assert envoy is not None
    envoy.kill()
    envoy.wait(5)
    with pytest.raises(Unavailable, match="is Envoy running"):
        rig.router.read()
    router = ensure_envoy(rig.folder / "envoy", rig.processes, rig.port)
    assert (router.read(), router.split().mirror_pct) == (Weights(stable=75, baseline=0, canary=25), 5)
    rig.until_healthy("stable", {rig.arms["stable"].port})


def test_an_envoy_that_runs_is_kept(rig: Rig) -> None:
    before = rig.processes.find(NAME)
    ensure_envoy(rig.folder / "envoy", Processes(rig.folder / "processes"), rig.port)
    assert rig.processes.find(NAME) == before


def test_a_port_that_is_taken_is_told_with_the_log(tmp_path: Path) -> None:
    processes = Processes(tmp_path / "processes")
    with upstream("somebody else") as other:
        try:
            with pytest.raises(Refused, match=r"Envoy ended with 1.*(?i:address already in use)"):
                ensure_envoy(tmp_path / "envoy", processes, other.port)
        finally:
            processes.end_all()
