"""What each pod of a distributed load test becomes."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtests.node import app, command_of, unpack
from pilotage.cli import STAGES
from pilotage.cli import app as pilotage
from serving.contract.errors import SettingsError

MASTER = "job-0.load.models.svc:5557"


def test_the_first_pod_is_the_master_and_all_others_its_workers() -> None:
    master, worker = (command_of(index, 3, MASTER, ["--host=http://x"]) for index in (0, 2))
    assert master[-3:] == ["--master", "--master-bind-port=5557", "--expect-workers=3"]
    assert worker[-3:] == ["--worker", "--master-host=job-0.load.models.svc", "--master-port=5557"]
    assert master[:-3] == worker[:-3]
    assert "--host=http://x" in worker


def test_one_pod_does_everything() -> None:
    assert not [word for word in command_of(0, 1, "", []) if "master" in word or "worker" in word]


@pytest.mark.parametrize("master", ["", "job-0", "job-0:", ":5557"])
def test_workers_must_know_where_the_master_is(master: str) -> None:
    with pytest.raises(SettingsError, match="must be HOST:PORT"):
        command_of(1, 2, master, [])


def test_recorded_requests_are_unpacked_and_no_others_than_those_that_were_meant(tmp_path: Path) -> None:
    packed = tmp_path / "requests.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"candidates": []}\n'))
    checksum = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert unpack(packed, checksum, tmp_path).read_bytes() == b'{"candidates": []}\n'
    with pytest.raises(SettingsError, match="checksum"):
        unpack(packed, "0" * 64, tmp_path)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(SettingsError, match="cannot be unpacked"):
        unpack(packed, "", tmp_path)
    with pytest.raises(SettingsError, match="cannot be unpacked"):
        unpack(tmp_path / "none", "", tmp_path)


def test_the_command_becomes_locust_with_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: became.append(command))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    packed = tmp_path / "requests.jsonl.gz"
    packed.write_bytes(gzip.compress(b"{}\n"))
    options = [
        f"--requests={packed}",
        f"--folder={tmp_path}",
        "--workers=2",
        f"--master={MASTER}",
        "--",
        "--arm=canary=http://x",
        "--stream=-",
    ]
    assert CliRunner().invoke(app, options).exit_code == 0
    (command,) = became
    assert [word for word in command if word.startswith(("--arm", "--stream", "--requests"))] == [
        "--arm=canary=http://x",
        "--stream=-",
        f"--requests-file={tmp_path / 'requests.jsonl'}",
    ]
    assert "--worker" in command
    refused = CliRunner().invoke(app, ["--requests=/nowhere", "--"])
    assert (refused.exit_code, len(became)) == (2, 1)
    assert "cannot be unpacked" in refused.output


def test_the_front_door_knows_it_and_does_not_show_it() -> None:
    assert "load-node" not in STAGES
    result = CliRunner().invoke(pilotage, ["load-node", "--help"])
    assert (result.exit_code, "--master" in result.output) == (0, True)
