"""Master and workers without a network: shares go out, samples come in, and whoever is gone is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import gevent
import numpy as np

from loadtests.arms import Arm
from loadtests.calls import Call
from loadtests.lag import assess
from loadtests.recorder import Recorder
from loadtests.samples import decode_samples, encode_samples
from loadtests.users.collector import Collector
from loadtests.users.dispatch import Share
from loadtests.users.load_run import LoadRun
from loadtests.users.workers import BEGIN, HALT, ROWS, Master, Worker


@dataclass
class _Runner:
    """What of Locust's runners is used."""

    workers: dict[str, str] = field(default_factory=dict)
    heard: dict[str, Callable[..., None]] = field(default_factory=dict)
    sent: list[tuple[str, Any, str | None]] = field(default_factory=list)

    @property
    def clients(self) -> Any:
        nodes = [SimpleNamespace(id=name, state=state) for name, state in self.workers.items()]
        return type("Clients", (), {"all": nodes, "__contains__": lambda _, name: name in self.workers})()

    def get_worker_index(self, name: str) -> int:
        return list(self.workers).index(name)

    def register_message(self, kind: str, listener: Callable[..., None], concurrent: bool = False) -> None:
        self.heard[kind] = listener

    def send_message(self, kind: str, data: Any = None, client_id: str | None = None) -> None:
        self.sent.append((kind, data, client_id))

    def hear(self, kind: str, data: Any, sender: str = "") -> None:
        self.heard[kind](environment=None, msg=SimpleNamespace(data=data, node_id=sender))


def _rows(count: int, *, last: bool, failed: str = "") -> dict[str, Any]:
    recorder = Recorder(open_loop=True)
    for number in range(count):
        recorder.sent += 1
        recorder.add(number, number, 1.0, None, 200, "rank", 0, 1, 1)
    return {"samples": encode_samples(recorder.samples()), "last": last, "failed": failed}


def _master(*workers: str) -> tuple[_Runner, Master, Collector]:
    runner = _Runner(dict.fromkeys(workers, "running"))
    master = Master(runner, lambda senders: Collector(None, senders))
    starts_s = np.arange(5, dtype=np.float64)
    shares = [Share(first, len(workers), starts_s[first :: len(workers)]) for first in range(len(workers))]
    return runner, master, master.begin(shares, master.senders)


def test_every_worker_gets_its_own_share() -> None:
    runner, _, _ = _master("one", "two")
    told = {client: (data["first"], data["step"], np.frombuffer(data["starts_s"]).tolist()) for _, data, client in runner.sent}
    assert told == {"one": (0, 2, [0.0, 2.0, 4.0]), "two": (1, 2, [1.0, 3.0])}


def test_samples_of_all_workers_come_together() -> None:
    runner, _, collector = _master("one", "two")
    runner.hear(ROWS, _rows(2, last=False), "one")
    runner.hear(ROWS, _rows(2, last=True), "two")
    assert not collector.done.is_set()
    runner.hear(ROWS, _rows(1, last=True), "one")
    runner.hear(ROWS, _rows(9, last=True), "a stranger")
    assert collector.done.is_set()
    assert (len(collector.samples()), assess(collector.samples()).valid) == (5, True)


def test_a_worker_that_cannot_send_says_why_and_its_share_is_missing() -> None:
    runner, master, collector = _master("one", "two")
    runner.hear(ROWS, _rows(3, last=True), "one")
    runner.hear(ROWS, _rows(0, last=True, failed="no service there"), "two")
    assert (master.failed, collector.done.is_set()) == ("no service there", True)
    samples = collector.samples()
    assert (samples.lost_workers, samples.unanswered, assess(samples).valid) == (1, 2, False)


def test_a_worker_that_went_missing_is_given_up() -> None:
    runner, _, collector = _master("one", "two")
    runner.hear(ROWS, _rows(3, last=True), "one")
    runner.workers["two"] = "missing"
    assert collector.done.wait(30)
    assert collector.samples().lost_workers == 1


def test_a_master_that_halts_tells_the_workers_that_are_left() -> None:
    runner, master, _ = _master("one", "two")
    runner.hear(ROWS, _rows(3, last=True), "one")
    runner.sent.clear()
    master.halt()
    assert runner.sent == [(HALT, None, "two")]


class _Source:
    def call(self, index: int) -> Call:
        raise NotImplementedError

    def failure(self, *_: object) -> str | None:
        raise NotImplementedError


def test_a_worker_without_a_test_answers_with_its_reason() -> None:
    runner = _Runner()
    Worker(runner, lambda: None).reason = "the service is gone"
    runner.hear(BEGIN, {})
    assert runner.sent == [(ROWS, {"samples": b"", "last": True, "failed": "the service is gone"}, None)]


def test_a_halted_worker_tells_what_it_did_not_send() -> None:
    runner = _Runner()
    run = LoadRun("http://127.0.0.1:1", _Source(), [Arm("service")], 0, open_loop=True)
    Worker(runner, lambda: run)
    starts_s = np.array([0.0, 3600.0])
    runner.hear(BEGIN, {"first": 0, "step": 1, "starts_s": starts_s.tobytes(), "count": None, "duration_s": None, "lead_s": 0.0})
    while run.dispatcher.given == 0:
        gevent.sleep(0.001)
    runner.hear(HALT, None)
    assert run.handed_over.wait(30)
    ((kind, data, _),) = [sent for sent in runner.sent if sent[1]["last"]]
    samples = decode_samples(data["samples"])
    # There was no user: the first request was due, found none and was never sent.
    assert (kind, samples.cut_short, samples.unsent, samples.starved, len(samples)) == (ROWS, True, 1, 1, 0)
