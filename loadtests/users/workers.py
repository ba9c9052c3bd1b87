"""Several generator processes: a master shares the test out among workers and collects their samples.

Three messages over Locust's own connection. The master draws the schedule and sends each worker its part (`BEGIN`), so that a trace or a
seed need be known to the master alone. Workers hand over samples about once a second (`ROWS`). `HALT` ends the load early.

Times of different machines are not compared: each worker counts from the moment that its `BEGIN` came, plus a lead that is the same for
all. Between workers, times agree to the travel time of that message; latency and lag are each worker's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import numpy as np

from loadtests.samples import Samples, decode_samples, encode_samples
from loadtests.users.collector import Collector
from loadtests.users.dispatch import Share
from loadtests.users.load_run import LoadRun

BEGIN, HALT, ROWS = "pilotage-begin", "pilotage-halt", "pilotage-rows"

LEAD_S = 0.5
"""From `BEGIN` to the start of the schedule: the parts of all workers are on their way before the first request is due."""

LOOK_S = 1.0
"""Between looks whether a worker has gone; Locust itself takes some three seconds to notice."""


class Master:
    """The master's side of one test."""

    def __init__(self, runner: Any, collector_of: Callable[[int], Collector]) -> None:
        self._runner = runner
        self._collector_of = collector_of
        self._expected: dict[str, int] = {}
        self.collector: Collector | None = None
        self.failed: str | None = None
        """What a worker says why it cannot send."""
        runner.register_message(ROWS, self._take, concurrent=True)

    @property
    def senders(self) -> list[str]:
        """Workers that take part, in the order in which they came."""
        clients = [client.id for client in self._runner.clients.all if client.state != "missing"]
        return sorted(clients, key=self._runner.get_worker_index)

    def begin(self, shares: list[Share], senders: list[str]) -> Collector:
        """Send each worker its share."""
        self.failed = None
        self._expected = {}
        self.collector = self._collector_of(len(senders))
        for share, sender in zip(shares, senders, strict=True):
            starts = None if share.starts_s is None else share.starts_s.tobytes()
            self._expected[sender] = 0 if share.starts_s is None else len(share.starts_s)
            told = {"first": share.first, "step": share.step, "starts_s": starts, "count": share.count, "duration_s": share.duration_s}
            self._runner.send_message(BEGIN, told | {"lead_s": LEAD_S}, sender)
        gevent.spawn(self._watch, self.collector)
        return self.collector

    def halt(self) -> None:
        """Let all workers send nothing more."""
        for sender in self._expected:
            if sender in self._runner.clients:
                self._runner.send_message(HALT, None, sender)

    def _take(self, environment: Any, msg: Any, **_: Any) -> None:
        if self.collector is None or msg.node_id not in self._expected:
            return
        if msg.data["failed"]:
            self.failed = msg.data["failed"]
            self._lose(self.collector, msg.node_id)
            return
        samples = decode_samples(msg.data["samples"])
        self._expected[msg.node_id] = max(self._expected[msg.node_id] - len(samples), 0)
        if msg.data["last"]:
            del self._expected[msg.node_id]
        self.collector.add(samples, last=msg.data["last"])

    def _watch(self, collector: Collector) -> None:
        """Give up on workers that have gone."""
        while not collector.done.wait(LOOK_S):
            here = self.senders
            for gone in [sender for sender in self._expected if sender not in here]:
                self._lose(collector, gone)

    def _lose(self, collector: Collector, sender: str) -> None:
        collector.lose(self._expected.pop(sender))


class Worker:
    """A worker's side.

    Parameters
    ----------
    run_of
        Gives the test under way; None when this worker has none.
    """

    def __init__(self, runner: Any, run_of: Callable[[], LoadRun | None]) -> None:
        self._runner, self._run_of = runner, run_of
        self.reason = ""
        """Why there is no test here."""
        runner.register_message(BEGIN, self._begin)
        runner.register_message(HALT, self._halt)

    def _begin(self, environment: Any, msg: Any, **_: Any) -> None:
        run, told = self._run_of(), msg.data
        if run is None:
            self._runner.send_message(ROWS, {"samples": b"", "last": True, "failed": self.reason})
            return
        starts_s = None if told["starts_s"] is None else np.frombuffer(told["starts_s"], dtype=np.float64)
        share = Share(told["first"], told["step"], starts_s, told["count"], told["duration_s"])
        run.begin(share, told["lead_s"], self._deliver)

    def _halt(self, environment: Any, msg: Any, **_: Any) -> None:
        run = self._run_of()
        if run is not None:
            run.halt()

    def _deliver(self, samples: Samples, last: bool) -> None:
        self._runner.send_message(ROWS, {"samples": encode_samples(samples, compressed=False), "last": last, "failed": ""})
