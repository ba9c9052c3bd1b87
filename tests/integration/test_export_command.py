"""``pilotage export`` as people type it: their own file in their own folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pilotage.cli import main
from serving.runtime.session import GraphSession

pytest.importorskip("torch")

MODELS = """
import torch

class Branch(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

def build():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(3000, 16), torch.nn.Flatten(), torch.nn.Linear(16 * 8, 1))
    return model, {"input": torch.zeros(2, 8, dtype=torch.int64)}
"""
WRONG_USE = 2


def test_a_module_of_the_users_own_folder_is_exported_and_runs_with_any_batch(tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(MODELS)
    command = [
        sys.executable,
        "-m",
        "pilotage.cli",
        "export",
        "my_models:build",
        "-o",
        "out/model.onnx",
        "--output-name",
        "logit",
        "--json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert [check["sizes"] for check in report["checks"]] == [{"B": 1}, {"B": 3}, {"B": 64}]
    assert {tensor["name"]: tensor["shape"] for tensor in report["tensors"]} == {"input": ["B", 8], "logit": ["B", 1]}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.onnx", "model.weights"]
    (logits,) = GraphSession(tmp_path / "out/model.onnx", threads=1).run({"input": np.arange(40, dtype=np.int64).reshape(5, 8)})
    assert logits.shape == (5, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("my_models_too:Branch --input x:float32:4x3", "my_models_too.py:6 (`if x.sum() > 0:`)"),
        ("my_models_too:Branch", "gives no example inputs"),
        ("my_models_too:Branch --input x:float:4x3", "is not NAME:DTYPE:SHAPE[:IDS]"),
        ("my_models_too:build --dynamic input:1", "is not INPUT:AXIS=SYMBOL"),
        ("my_models_too:biuld", "did you mean build?"),
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_models_too.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models_too", raising=False)
    monkeypatch.setattr(sys, "argv", ["pilotage", "export", *arguments.split(), "--output", "model.onnx"])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    assert (end.value.code, out, err.count("\n")) == (WRONG_USE, "", 1)
    assert err.startswith("error: ")
    assert words in err
    assert not (tmp_path / "model.onnx").exists()
