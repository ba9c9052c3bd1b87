"""The network against the truth that the synthetic clicks are drawn from; in a file of its own, so that it trains beside the demo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from optimize.training.records import RunRecord

PILOTAGE = [sys.executable, "-m", "pilotage.cli"]
LIMIT_S = 900

pytestmark = pytest.mark.timeout(LIMIT_S)


def test_network_comes_within_one_percent_of_the_best_possible_log_loss(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PILOTAGE, "train", "--data", "clicks", "--out", str(tmp_path / "run"), "--json"], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = RunRecord.model_validate_json(done.stdout)
    assert record.best_possible_log_loss is not None
    network, *rivals = record.contenders
    assert record.best_possible_log_loss < network.metrics["log_loss"] <= 1.01 * record.best_possible_log_loss
    assert all(network.metrics["log_loss"] < rival.metrics["log_loss"] for rival in rivals)
