from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.services import HOST, ServiceCommand, ServiceFailed, running, stop
from k8s.local.processes import free_port

FAMILY = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); time.sleep(60)"


def test_free_port_can_be_listened_on() -> None:
    with socket.create_server((HOST, free_port())):
        pass


def test_stop_ends_workers_that_have_a_session_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.services.STOP_TIMEOUT_S", 0.2)
    process = subprocess.Popen([sys.executable, "-c", FAMILY])
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 20
    while not children and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.02)
    stop(process)
    assert process.returncode is not None
    assert children
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_service_that_exits_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceFailed, match=r"'broken' exited with \d+; the end of its log:"),
        running([ServiceCommand("broken", "benchmarks.no_such_module:Service", {})], tmp_path),
    ):
        pytest.fail("it cannot be ready")
