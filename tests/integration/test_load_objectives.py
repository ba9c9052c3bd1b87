"""The real command against a service that does as it is told: it ends once the outcome is known, and its exit code says what that is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from benchmarks.faulty_service import REQUEST, Faults, faulty_service
from loadtests.cli import app
from loadtests.report import read_report
from loadtests.saturation import Saturation

PATIENCE_S = 100

INCONCLUSIVE, TRIES = 4, 4
"""A generator that other tests kept from sending in time judges nothing, rightly: what is tested here is what it says when it could send."""


def _loadtest(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "requests.jsonl").write_text(REQUEST + "\n")
    given = ["--host", url, "--requests-file", str(folder / "requests.jsonl"), "--out", str(folder), *options]
    command = [sys.executable, "-c", "from loadtests.cli import app; app()", *given]
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
        if done.returncode != INCONCLUSIVE:
            break
    return done


def test_a_run_ends_early_once_its_p99_is_known(tmp_path: Path) -> None:
    with faulty_service(Faults(latency_ms=2)) as url:
        done = _loadtest(url, tmp_path, "--profile", "server", "--arrivals", "constant:250", "--samples", "5000")
    assert done.returncode == 0, done.stderr
    report = read_report(tmp_path / "report.json")
    assert (report.status, report.cut_short) == ("pass", True)
    assert report.early_stopping is not None
    # The first of five looks.
    assert report.early_stopping.requests == 1000
    assert 1000 <= report.requests < 5000
    assert report.server.missing
    assert "Passed: p99 within 100 ms is shown after 1,000 requests" in done.stderr


def test_a_search_on_a_service_that_is_too_slow_at_any_rate_fails(tmp_path: Path) -> None:
    profile = tmp_path / "slow.toml"
    profile.write_text(
        'name = "slow"\ndescription = "At one rate."\nobjective = [{p99_ms = 20}]\n[saturation]\nstart_rps = 200\nmin_rps = 200\nfewest = 1000\n'
    )
    with faulty_service(Faults(latency_ms=60)) as url:
        done = _loadtest(url, tmp_path, "--profile", str(profile), "--json")
    assert done.returncode == 1, done.stderr
    found = Saturation.model_validate(json.loads(done.stdout))
    assert (found.keeps_rps, found.fails_rps, found.ended) == (None, 200, "min_rps")
    # Three thousand were planned; it was known sooner, in the last trial: one whose generator was late is made again.
    assert found.trials[-1].requests < 3000
    assert (tmp_path / "trial-01/report.html").exists()
    assert 'href="trial-01/report.html"' in (tmp_path / "saturation.html").read_text()


def test_arms_that_are_to_be_compared_must_be_given(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--profile", "canary", "--out", str(tmp_path), "--arm", "canary=header:canary"])
    assert done.exit_code == 2
    assert "--arm baseline=header:baseline" in done.output


def test_the_schema_is_printed() -> None:
    done = CliRunner().invoke(app, ["schema"])
    assert done.exit_code == 0
    assert "goodput" in json.loads(done.stdout)["properties"]
