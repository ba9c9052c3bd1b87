"""A provider that is not there is refused by name; the arena's bound holds and does no lasting harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from serving.contract.errors import SettingsError
from serving.runtime.session import GraphSession

OVERRUN = """
import sys, numpy as np
from pathlib import Path
from serving.contract.errors import ModelOutputError
from serving.runtime.session import GraphSession
session = GraphSession(Path(sys.argv[1]), threads=1, arena_mib=16)
run = lambda size: session.run({"x": np.ones((size, 1), np.float32)})[0].sum()
assert run(10) == 100.0
try:
    run(4096)  # 64 MiB
except ModelOutputError as error:
    print("refused", "arena" in str(error).lower() or "memory" in str(error).lower())
assert run(10) == 100.0
"""


def test_cuda_is_refused_where_onnxruntime_has_none(tiny_graph: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(SettingsError, match=r"PILOTAGE_PROVIDER=cuda is not available .*onnxruntime-gpu"):
        GraphSession(tiny_graph, threads=1, provider="cuda")


def test_openvino_is_refused_where_its_plugin_is_not_installed(tiny_graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    with pytest.raises(SettingsError, match=r"PILOTAGE_PROVIDER=openvino is not available .*onnxruntime-ep-openvino"):
        GraphSession(tiny_graph, threads=1, provider="openvino")


def test_a_run_beyond_the_arena_fails_and_the_next_one_does_not(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
            helper.make_node("Mul", ["x", "t"], ["m"]),
            helper.make_node("Neg", ["m"], ["n"]),
            helper.make_node("Neg", ["n"], ["y"]),
        ],
        "square",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "n"])],
    )
    onnx.save_model(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "square.onnx")
    command = [sys.executable, "-c", OVERRUN, str(tmp_path / "square.onnx")]  # a process of its own: the arena is the process'
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3])
    assert done.stdout == "refused True\n", done.stderr[-2000:]
