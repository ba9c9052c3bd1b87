"""Real Locust against a service that fails as it is told: each injected fault is found, and a healthy run passes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.faulty_service import REQUEST, Faults, faulty_service, injected
from k8s.local.processes import free_port
from loadtests.report import read_report
from loadtests.samples import Samples, joined, read_samples
from loadtests.stream import StreamEnd, StreamReader

LOCUSTFILE = Path(__file__).parents[2] / "loadtests" / "users" / "locustfile.py"
PATIENCE_S = 60


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text(REQUEST + "\n")
    return path


@contextmanager
def _locust(url: str, recorded: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Locust, streaming into a folder beside the requests: drawing a report would cost each test a second more."""
    given = ["--host", url, "--requests-file", str(recorded), "--stream", str(recorded.parent / "stream"), "--exit-code-on-error", "0"]
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--only-summary", *given, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True) as child:
        try:
            yield child
        finally:
            for process in (*psutil.Process(child.pid).children(), child) if child.poll() is None else ():
                process.kill()


def _measured(recorded: Path) -> tuple[Samples, StreamEnd]:
    reader = StreamReader(recorded.parent / "stream")
    end, samples = reader.end(), joined(reader.new())
    assert end is not None
    assert end.requests == len(samples)
    return samples, end


def _run(url: str, recorded: Path, *options: str) -> tuple[Samples, StreamEnd]:
    with _locust(url, recorded, "--headless", *options) as child:
        output, _ = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0, output
    return _measured(recorded)


def test_a_healthy_run_passes(recorded: Path, tmp_path: Path) -> None:
    with faulty_service(Faults(latency_ms=2)) as url:
        options = [
            "--host",
            url,
            "--requests-file",
            str(recorded),
            "--arrivals",
            "constant:100",
            "--samples",
            "120",
            "--out",
            str(tmp_path),
        ]
        command = [sys.executable, "-c", "from loadtests.cli import app; app()", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    samples, report = read_samples(tmp_path / "samples.npz"), read_report(tmp_path / "report.json")
    assert (len(samples), report.requests, report.failures, samples.open_loop) == (120, 120, 0, True)
    np.testing.assert_allclose(np.sort(samples.intended_s), np.arange(120) / 100)
    assert (samples.lag_ms >= 0).all()
    assert (samples.latency_ms - samples.lag_ms >= 2).all()
    # Exit code 4 where this machine was too busy to keep a schedule, which must then be said.
    assert done.returncode == (4 if "INVALID" in done.stderr else 0), done.stderr


def test_failures_of_every_kind_are_found(recorded: Path) -> None:
    faults = Faults(latency_ms=1, error_every=9, reset_every=20, unusable_every=14, slow_every=10, slow_ms=300)
    with faulty_service(faults) as url:
        samples, end = _run(url, recorded, "--arrivals", "poisson:200", "--samples", "300")
        made = injected(url)
    resets = sum(count for kind, count in samples.errors.items() if kind.startswith("no answer: "))
    assert (made["reset"], made["error"]) == (15, 32)
    assert resets == made["reset"]
    assert samples.errors["HTTP 503 overloaded"] == made["error"]
    assert samples.errors["answer without a usable ranking"] == made["unusable"]
    assert sum(samples.errors.values()) == made["reset"] + made["error"] + made["unusable"]
    assert sorted(set(samples.status.tolist())) == [0, 200, 503]
    assert (samples.latency_ms >= 300).sum() >= made["slow"] > 0
    assert end.unanswered == 0


def test_a_stall_is_charged_with_all_that_was_due_meanwhile(recorded: Path) -> None:
    faults = Faults(latency_ms=1, stall_after=50, stall_s=1)
    with faulty_service(faults) as url:
        opened, _ = _run(url, recorded, "--arrivals", "constant:100", "--samples", "200")
    with faulty_service(faults) as url:
        closed, _ = _run(url, recorded, "--arrivals", "closed:1", "--samples", "200")
    # Of the requests that were due within the second, the first half waited for at least half of it.
    assert int((opened.latency_ms >= 500).sum()) >= 45
    # The only user waited once; a few more would be this machine's own stalls.
    assert 1 <= (closed.latency_ms >= 500).sum() < 10


def test_a_slow_start_is_seen_at_the_start(recorded: Path) -> None:
    with faulty_service(Faults(latency_ms=1, cold_requests=20, cold_ms=200)) as url:
        samples, _ = _run(url, recorded, "--arrivals", "poisson:100", "--samples", "150")
    by_start = samples.latency_ms[np.argsort(samples.started_s)]
    assert (by_start[:20] >= 200).all()
    assert np.median(by_start[20:]) < 200


def test_workers_share_a_schedule_and_its_arms(recorded: Path) -> None:
    arms = ("--arm", "stable=header:stable", "--arm", "canary=header:canary")
    with faulty_service(Faults(latency_ms=1, arm_ms={"canary": 250})) as url:
        samples, end = _run(url, recorded, "--arrivals", "constant:100", "--samples", "200", "--processes", "2", *arms)
    np.testing.assert_allclose(np.sort(samples.intended_s), np.arange(200) / 100)
    assert (len(samples.of_arm("stable")), len(samples.of_arm("canary"))) == (100, 100)
    assert (samples.of_arm("canary").latency_ms >= 250).all()
    assert np.median(samples.of_arm("stable").latency_ms) < 250
    assert end.generator.lost_workers == 0


def test_arms_can_be_addresses_of_their_own(recorded: Path) -> None:
    with faulty_service(Faults(latency_ms=1)) as stable, faulty_service(Faults(latency_ms=1, error_every=1)) as canary:
        samples, _ = _run(stable, recorded, "--arrivals", "closed:2", "--samples", "40", "--arm", f"a={stable}", "--arm", f"b={canary}")
    assert samples.of_arm("a").ok.all()
    assert not samples.of_arm("b").ok.any()
    assert len(samples.of_arm("b")) == 20


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there to sign a certificate")
def test_certificates_are_verified_while_the_load_runs(recorded: Path, tmp_path: Path) -> None:
    faults = Faults(latency_ms=1, certificate=str(tmp_path / "own.pem"), key=str(tmp_path / "own.key"))
    make = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=loopback -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", faults.key, "-out", faults.certificate]
    subprocess.run(["openssl", *make.split(), *files], check=True, capture_output=True, timeout=PATIENCE_S)
    profile = tmp_path / "profile.toml"
    profile.write_text(
        'name = "tls"\ndescription = ""\nsamples = 20\narrivals = {kind = "poisson", rate_rps = 100}\n'
        f"[traffic]\nca_file = '{faults.certificate}'\n"
    )
    with faulty_service(faults) as url:
        samples, _ = _run(url, recorded, "--load-profile", str(profile))
        assert (len(samples), samples.errors) == (20, {})
        # A certificate holds for its name alone: an arm by another name of the same service is not trusted.
        with _locust(
            url, recorded, "--headless", "--load-profile", str(profile), "--arm", f"a={url.replace('127.0.0.1', 'localhost')}"
        ) as child:
            output, _ = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 2
    assert "certificate does not hold" in output


def test_a_generator_without_free_users_declares_its_run_invalid(recorded: Path) -> None:
    with faulty_service(Faults(latency_ms=100)) as url:
        samples, end = _run(url, recorded, "--arrivals", "constant:100", "--samples", "40", "-u", "2")
    assert samples.starved >= 30
    assert not end.generator.valid
    assert "found all users busy" in end.generator.reasons[0]
    # They waited for a user, and that is in their latency: the last of 40 for 19 others of 100 ms, less the 0.4 s of the schedule.
    assert samples.latency_ms.max() >= 1500


def test_an_ended_test_tells_what_it_measured(recorded: Path) -> None:
    with (
        faulty_service(Faults(latency_ms=1)) as url,
        _locust(url, recorded, "--headless", "--arrivals", "poisson:100", "-t", "600s") as child,
    ):
        _await_chunk(recorded, child)
        child.send_signal(signal.SIGTERM)
        output, _ = child.communicate(timeout=PATIENCE_S)
    samples, end = _measured(recorded)
    assert end.cut_short, output
    assert len(samples) >= 10


def test_a_lost_worker_makes_the_run_invalid(recorded: Path) -> None:
    options = ("--headless", "--arrivals", "poisson:100", "-t", "2s", "--processes", "2")
    with faulty_service(Faults(latency_ms=1)) as url, _locust(url, recorded, *options) as child:
        _await_chunk(recorded, child)
        psutil.Process(child.pid).children()[0].kill()
        child.communicate(timeout=PATIENCE_S)
    _, end = _measured(recorded)
    assert (end.generator.lost_workers, end.generator.valid) == (1, False)
    assert end.unanswered > 0


def test_locusts_web_page_starts_and_stops_a_test(recorded: Path) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    options = ("--web-host", "127.0.0.1", "--web-port", str(port), "--arrivals", "poisson:100", "--samples", "50")
    with faulty_service(Faults(latency_ms=1)) as url, _locust(url, recorded, *options) as child:
        form = urllib.parse.urlencode({"user_count": 20, "spawn_rate": 20, "host": url}).encode()
        started = _ask(f"{page}/swarm", child, form)
        assert started["success"]
        while _ask(f"{page}/stats/requests", child)["state"] != "stopped":
            time.sleep(0.1)
        shown = _ask(f"{page}/stats/requests", child)["stats"]
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=PATIENCE_S)
    samples, end = _measured(recorded)
    assert (len(samples), end.cut_short) == (50, False)
    (rank,) = [entry for entry in shown if entry["name"] == "rank"]
    # Locust's own page tells latencies from the intended start, too: its maximum is ours.
    assert rank["max_response_time"] == pytest.approx(samples.latency_ms.max(), abs=1)


def _await_chunk(recorded: Path, child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not (recorded.parent / "stream" / "chunk-000001.npz").exists():
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


def _ask(address: str, child: subprocess.Popen[str], form: bytes | None = None) -> dict[str, object]:
    """Ask Locust's page, which takes a moment to be there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + PATIENCE_S
    while True:
        assert child.poll() is None
        try:
            with opener.open(address, form, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)
