"""Samples out of a pod's log: through connections that end, servers that refuse, and logs that are rotated away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from k8s.cluster.load_log import PodLog
from loadtests.log_lines import LogWriter
from loadtests.samples import Samples, joined
from tests.api_server import ApiServer, Refuse, api_server
from tests.clusters import NAMES, api_of
from tests.load_samples import made_up

POD = f"{NAMES.pods}/load-0-x"
LIMIT_S = 30
BEGUN = datetime(2026, 11, 26, 5, 0, tzinfo=UTC)
CHUNKS = [made_up(100 + number, seed=number, arms=("canary", "baseline")) for number in range(12)]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as found:
        found.put(POD, {"metadata": {"name": "load-0-x"}})
        yield found


def lines_of(*chunks: Samples, ended: bool = True) -> list[bytes]:
    with tempfile.TemporaryFile() as file:
        writer = LogWriter(file.fileno())
        for chunk in chunks:
            writer.add(chunk)
        if ended:
            writer.end(joined(chunks))
        file.seek(0)
        return file.readlines()


def write(server: ApiServer, lines: list[bytes]) -> None:
    """As a generator does in a second each, with what else it has to say."""
    for number, line in enumerate(lines):
        at = BEGUN + timedelta(seconds=number / 3)
        server.logs.write(POD, b"[2026] locust: running\n", at)
        server.logs.write(POD, line, at)


@contextmanager
def following(server: ApiServer) -> Iterator[PodLog]:
    with closing(PodLog(api_of(server), lambda: POD, "tools")) as log:
        yield log


def wait_for(until: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + LIMIT_S
    while not until():
        assert time.monotonic() < limit_s
        time.sleep(0.02)


def rows(log: PodLog) -> list[int]:
    """Rows of the chunks, once all have come."""
    wait_for(lambda: log.is_over)
    return [len(chunk) for chunk in log.take()]


ALL = [len(chunk) for chunk in CHUNKS]


def test_chunks_come_while_the_log_is_written(server: ApiServer) -> None:
    *lines, last = lines_of(*CHUNKS)
    write(server, lines)
    with following(server) as log:
        found: list[Samples] = []
        wait_for(lambda: bool(found.extend(log.take()) or len(found) == len(CHUNKS)))
        assert (log.is_over, log.gap(), log.tail.count("locust: running")) == (False, None, 5)
        server.logs.write(POD, last, BEGUN + timedelta(hours=1))
        assert rows(log) == []
    assert [len(chunk) for chunk in found] == ALL
    np.testing.assert_allclose(found[0].latency_ms, CHUNKS[0].latency_ms, atol=1e-3)


def test_connections_that_end_are_made_again_and_no_chunk_counts_twice(server: ApiServer) -> None:
    server.logs.cut_after = 7
    write(server, lines_of(*CHUNKS))
    with following(server) as log:
        assert rows(log) == ALL
        assert log.gap() is None
    since = [query.get("sinceTime") for query in server.logs.asked]
    assert len(since) > 3
    assert since[0] is None
    assert all(each.endswith("Z") and "." not in each for each in since[1:])


@pytest.mark.parametrize(
    "refusal",
    [
        Refuse(401, "Unauthorized"),
        Refuse(429, "slow down", retry_after=0),
        Refuse(500, "etcd is away"),
        Refuse(403, "forbidden"),
        Refuse(404, "gone"),
    ],
    ids=lambda refusal: str(refusal.status),
)
def test_a_server_that_refuses_is_asked_again(server: ApiServer, refusal: Refuse) -> None:
    server.logs.cut_after = 15
    write(server, lines_of(*CHUNKS))
    asked = 0

    def fault(method: str, path: str) -> None:
        nonlocal asked
        asked += path.endswith("/log")
        if asked in (1, 3):
            raise refusal

    server.fault = fault
    with following(server) as log:
        assert rows(log) == ALL
        assert (log.gap(), log.trouble) == (None, "")


def test_a_pod_that_has_not_begun_is_waited_for_and_why_is_told(server: ApiServer) -> None:
    with following(server) as log:
        wait_for(lambda: "ContainerCreating" in log.trouble)
        assert log.take() == []
        write(server, lines_of(*CHUNKS))
        assert rows(log) == ALL


def test_what_was_rotated_away_is_told_once_and_counts_as_unanswered(server: ApiServer) -> None:
    lines = lines_of(*CHUNKS)
    write(server, [line for line in lines if not line.startswith((b"pilotage-chunk 4 ", b"pilotage-chunk 5 "))])
    with following(server) as log:
        wait_for(lambda: log.is_over)
        assert log.gap() == f"2 chunks of samples, {103 + 104} requests, are missing in the log of the load generator"
        assert log.gap() is None
        found = log.take()
    assert [len(chunk) for chunk in found] == ALL[:3] + ALL[5:]
    assert sum(chunk.unanswered for chunk in found) == 103 + 104


def test_a_server_that_ends_in_the_midst_is_no_error_of_who_looks() -> None:
    with api_server() as dying:
        dying.put(POD, {"metadata": {"name": "load-0-x"}})
        write(dying, lines_of(*CHUNKS[:3], ended=False))
        log = PodLog(api_of(dying), lambda: POD, "tools")
        wait_for(lambda: len(log._chunks) == 3)
    wait_for(lambda: "does not answer" in log.trouble)
    assert [len(chunk) for chunk in log.take()] == ALL[:3]
    log.close()
