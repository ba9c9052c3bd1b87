"""The gate as a process of its own, with real Locust before two services, asked as Argo Rollouts and as Flagger ask."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.faulty_service import REQUEST, Faults, faulty_service, injected

PATIENCE_S = 90

PROFILE = """
name = "recorded"
description = "What the stand-in answers"
samples = 1000
[[traffic.requests]]
endpoint = "rank"
recorded = "{recorded}"
"""

# p50 alone, with much room: how long the tail of a shared machine is, is not what is tested.
PLAN = """
name = "gate"
baseline = false
[warm_up]
requests = 50
[synthetic]
profile = "{profile}"
rate_per_s = 200
[objectives]
quantile_ratio = {{ quantile = 0.5, tolerated_ratio = 1.2, max_ratio = 2.5 }}
policy = {{ planned_samples = 1000, max_lag_ms = 1000 }}
[[step]]
weight_pct = 0
samples = 20000
timeout_s = 120
"""

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def gate(folder: Path, canary: str, stable: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command, and where it answers; its log is in the folder."""
    (folder / "requests.jsonl").write_text(REQUEST + "\n")
    (folder / "profile.toml").write_text(PROFILE.format(recorded=folder / "requests.jsonl"))
    (folder / "plan.toml").write_text(PLAN.format(profile=folder / "profile.toml"))
    options = ["--canary", canary, "--baseline", stable, "--plan", str(folder / "plan.toml"), "--port", "0"]
    command = [sys.executable, "-c", "from k8s.cli import app; app()", "gate", *options]
    log = folder / "log"
    with log.open("wb") as sink, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink) as child:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while "answering at " not in log.read_text():
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield child, log.read_text().partition("answering at ")[2].split()[0]
        finally:
            child.kill()


def ask(url: str, payload: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, None if payload is None else json.dumps(payload).encode())  # noqa: S310 - our own server
    try:
        with DIRECT.open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def argo(url: str) -> dict[str, Any]:
    """What an AnalysisRun comes to: asks as a `web` metric does, until a measurement is not inconclusive."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        code, found = ask(f"{url}/verdict?release=6c54544bf9&step=1")
        assert code == 200
        if found["status"] != "inconclusive":
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@pytest.mark.parametrize(("slow_ms", "status", "hook"), [(4.0, "pass", 200), (40.0, "fail", 412)])
def test_a_canary_is_judged_as_argo_and_flagger_ask(tmp_path: Path, slow_ms: float, status: str, hook: int) -> None:
    with (
        faulty_service(Faults(latency_ms=4.0, spread=0.2)) as stable,
        faulty_service(Faults(latency_ms=slow_ms, spread=0.2, seed=1)) as canary,
        gate(tmp_path, canary, stable) as (child, url),
    ):
        payload = {"name": "ranker", "namespace": "models", "phase": "Progressing", "checksum": "85d557f47b"}
        assert argo(url)["status"] == status, (tmp_path / "log").read_text()
        first, found = ask(f"{url}/flagger", payload)  # another release: nothing is known of it yet
        assert (first, found["status"]) == (200, "inconclusive")
        assert ask(f"{url}/flagger", payload | {"metadata": {"must": "pass"}})[0] == 412
        deadline = time.monotonic() + PATIENCE_S
        while found["status"] == "inconclusive":
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
            code, found = ask(f"{url}/flagger", payload)
        assert (code, found["status"]) == (hook, status), (tmp_path / "log").read_text()
        assert ask(f"{url}/flagger", payload | {"metadata": {"must": "pass"}})[0] == hook
        assert injected(canary).keys() >= {"slow"}  # it was the canary that was asked
        generators = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0
        assert [each for each in generators if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []


def test_a_canary_that_is_not_there_is_waited_for_and_a_generator_that_is_killed_is_begun_again(tmp_path: Path) -> None:
    with faulty_service(Faults()) as stable, gate(tmp_path, "http://127.0.0.1:9", stable) as (child, url):
        deadline = time.monotonic() + PATIENCE_S
        while "The canary is not ready" not in (found := ask(f"{url}/verdict?release=a")[1])["sentence"]:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        assert found["status"] == "inconclusive"
        assert psutil.Process(child.pid).children() == []
    with faulty_service(Faults()) as stable, faulty_service(Faults()) as canary, gate(tmp_path, canary, stable) as (child, url):
        deadline = time.monotonic() + PATIENCE_S
        while not (generators := psutil.Process(child.pid).children()):
            ask(f"{url}/verdict?release=a")
            assert time.monotonic() < deadline
            time.sleep(0.1)
        generators[0].kill()
        while "attempt 2" not in (tmp_path / "log").read_text():
            assert ask(f"{url}/verdict?release=a")[1]["status"] == "inconclusive"
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--plan", "live"], "does not judge synthetic requests alone"),
        (["--canary", "ranker-canary"], "ranker-canary is no address"),
        (["--listen", "192.0.2.1"], "nothing can be answered at 192.0.2.1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(options: list[str], told: str) -> None:
    given = ["--canary", "http://127.0.0.1:9", "--baseline", "http://127.0.0.1:9", *options]
    command = [sys.executable, "-c", "from k8s.cli import app; app()", "gate", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
