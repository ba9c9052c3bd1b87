"""Copies of live requests on a stand-in for a cluster: who sends them is the test, as a gateway does while the rollout's route says so."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from k8s.installation import Installation
from k8s.local.processes import free_port
from k8s.rollout.arms import ARMS
from k8s.rollout.clock import SystemClock
from k8s.rollout.collector import Collector
from k8s.rollout.loading import Compared, Comparing
from k8s.rollout.record import Record
from k8s.rollout.start import begin, held
from tests.clusters import NAMES, Cluster, Load, api_of, cluster
from tests.rollouts import plan

AUTHORIZATION = "Bearer 5ad1c0de"
COPYING = plan(
    answers={"mirror_pct": 20, "rate_per_s": 1000},
    warm_up={"requests": 300},
    step=[{"weight_pct": 0, "samples": 10_000_000, "timeout_s": 60}, {"weight_pct": 10, "samples": 10_000_000, "timeout_s": 60}],
    times={"proven_s": 0, "poll_s": 0.05, "api_s": 10},
)


@contextmanager
def ranker(wrong: bool) -> Iterator[str]:
    """All arms behind one address, told by header; a wrong canary has lower scores."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["content-length"])))
            known = self.headers["authorization"] == AUTHORIZATION
            wrongly = wrong and self.headers["x-pilotage-arm"] == "canary"
            scores = {each["id"]: each["id"] ** (4 if wrongly else 1) for each in document["candidates"]}
            ranking = [{"id": each, "probability": score} for each, score in sorted(scores.items(), key=lambda each: -each[1])]
            content = json.dumps({"ranking": ranking}).encode()
            self.send_response(200 if known else 401)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class Gateway:
    """Copies to the engine's Service while the route has the filter.

    Attributes
    ----------
    sent
        Copies that were taken.
    shares
        Each that the route asked for, as it changed.
    """

    def __init__(self, here: Cluster, port: int) -> None:
        self._here, self._port, self._stop = here, port, threading.Event()
        self.sent, self.shares = 0, list[int]()
        here.server.after = self._note
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _mirror(self) -> dict[str, Any] | None:
        route = self._here.server.objects.get(NAMES.route)
        filters = (route["spec"]["rules"][-1].get("filters") or []) if route else []
        return filters[0]["requestMirror"] if filters else None

    def _note(self, method: str, path: str) -> None:
        mirror = self._mirror()
        share = mirror["percent"] if mirror else 0
        if path == NAMES.route and [share] != self.shares[-1:]:
            self.shares.append(share)

    def _run(self) -> None:
        while not self._stop.is_set():
            mirror = self._mirror()
            if mirror is None or mirror["backendRef"]["name"] != f"{NAMES.name}-rollout":
                time.sleep(0.01)
                continue
            body = json.dumps({"candidates": [{"id": random.random()} for _ in range(10)], "top_k": 2})
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("POST", "/v1/rank", body, {"content-type": "application/json", "authorization": AUTHORIZATION})
                self.sent += connection.getresponse().status == 204
            except OSError:  # nobody listens yet, or any more
                time.sleep(0.01)
            finally:
                connection.close()


def carried(wrong: bool) -> tuple[Record, Gateway, dict[str, Any]]:
    """Roll the canary of the chart's values out."""
    with cluster() as here, ranker(wrong) as address:
        port = free_port()
        gateway = Gateway(here, port)
        try:
            installation = Installation(NAMES, api_of(here.server))
            world = installation.world(COPYING, "engine", collect_at=f"127.0.0.1:{port}")
            comparing = Comparing(address, COPYING.answers, (), Collector("127.0.0.1", port), dict.fromkeys(ARMS, address))
            world = replace(world, traffic={"synthetic": Compared(Load(SystemClock(), 1.0), comparing)})
            with held(world.lease, world.clock):
                record = begin(world, NAMES.name, COPYING, installation.releases([], []), "engine").run()
        finally:
            gateway.close()
        return record, gateway, here.server.objects


def test_a_wrong_release_is_stopped_by_copies_at_weight_0() -> None:
    record, gateway, objects = carried(wrong=True)
    assert (record.outcome, record.conclusion, record.step) == ("rolled_back", "fail", 0), record.why
    assert record.why.startswith("Other answers after")
    assert gateway.shares == [20, 0]
    assert gateway.sent > 100
    assert NAMES.route not in objects
    for secret in (AUTHORIZATION, AUTHORIZATION.split()[1]):
        assert secret not in json.dumps(objects)


def test_a_good_release_is_promoted_and_copies_were_taken_in_each_step() -> None:
    record, gateway, objects = carried(wrong=False)
    assert (record.outcome, record.conclusion) == ("promoted", "pass"), record.why
    assert gateway.shares == [20, 0, 20, 0]
    assert [judged.verdict["status"] for judged in record.verdicts if judged.source == "answers"] == ["pass", "pass"]
    assert AUTHORIZATION not in json.dumps(objects)
