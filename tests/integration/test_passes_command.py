"""``pilotage passes`` on files as people have them: good, damaged, incomplete, and on a full disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.passes.registry import PASSES
from pilotage.cli import main
from serving.runtime.session import GraphSession

WRONG_USE, INFRASTRUCTURE = 2, 3
RNG = np.random.default_rng(0)


def _model(*, ids: bool = False) -> onnx.ModelProto:
    """A layer of 200 kB; with `ids`, numbers that have to be rows of a table of one."""
    weight = numpy_helper.from_array(RNG.normal(size=(128, 400)).astype(np.float32), "weight")
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["h"], name="layer"), helper.make_node("Relu", ["h"], ["y"], name="relu")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 128])]
    if ids:
        nodes[0].input[0] = "row"
        nodes.insert(0, helper.make_node("Gather", ["table", "x"], ["row"], name="look_up"))
        inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])]
    table = [numpy_helper.from_array(np.ones((1, 128), np.float32), "table")] if ids else []
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 400])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight, *table])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save_model(_model(), str(tmp_path / "model.onnx"), save_as_external_data=True, location="model.data")
    return tmp_path


def _run(*arguments: str | Path, capfd: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pilotage", "passes", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return (end.value.code or 0, *capfd.readouterr())


def test_all_passes_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run("list", "--json", capfd=capfd)
    listed = {step["kind"]: step for step in json.loads(out)}
    assert (code, set(listed)) == (0, set(PASSES))
    assert listed["fuse_attention"]["options"] == {"form": "auto"}
    assert "fuse_attention" in _run("list", capfd=capfd)[1]


def test_passes_are_applied_in_a_process_of_its_own_and_measured_on_the_given_inputs(folder: Path) -> None:
    (folder / "runs").mkdir()
    for i in range(2):
        np.savez(folder / f"runs/{i}.npz", x=RNG.normal(size=(5 + i, 128)).astype(np.float32))
    arguments = ["apply", "model.onnx", "fuse_gelu", "int8_dynamic", "-o", "out/small.onnx", "--calibration", "runs", "--skip", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "pilotage.cli", "passes", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["operators"]["before"] == {"MatMul": 1, "Relu": 1}
    assert "MatMul" not in report["operators"]["after"]
    assert "no GELU" in report["skipped"]["fuse_gelu"]
    assert report["inputs"] == "2 calibration run(s)"
    assert report["size_bytes"]["before"] > 200_000 > report["size_bytes"]["after"]
    (moved,) = report["differences"]
    assert 0 < moved["largest"] < 0.05 * moved["magnitude"]
    GraphSession(folder / "out/small.onnx", threads=1)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["small.onnx"], "nothing of 64 KiB is left to lie beside it"


def test_made_up_inputs_take_their_place_where_the_model_runs_on_them(
    tiny_graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _run("apply", tiny_graph, "int8_dynamic", "-o", tmp_path / "small.onnx", capfd=capfd)
    assert code == 0
    assert "output probability: largest difference" in out
    assert "on made-up inputs" in out
    onnx.save_model(_model(ids=True), str(tmp_path / "ids.onnx"))
    code, out, _ = _run("apply", tmp_path / "ids.onnx", "int8_dynamic", "-o", tmp_path / "small.onnx", capfd=capfd)
    assert code == 0
    assert "not compared, as the model does not run on made-up inputs" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("model.onnx int9", "there is no pass 'int9'; there are"),
        ("model.onnx fp16:colour=red", "has no option 'colour=red'"),
        ("model.onnx fuse_gelu", "fuse_gelu does not apply: the model has no GELU"),
        ("absent.onnx fp16", "there is no file"),
        ("torn.onnx fp16", "torn.onnx cannot be read as ONNX"),
        ("text.onnx fp16", "text.onnx cannot be read as ONNX"),
        ("lonely.onnx fp16", "keeps weights in lonely.data, which is not beside it"),
        ("future.onnx fp16", "cannot be loaded by ONNX Runtime"),
        ("model.onnx fp16 --calibration absent.npz", "there is no file or folder"),
        ("model.onnx fp16 --calibration wrong.npz", "lacks x and has z; the model takes x"),
    ],
)
def test_a_mistake_is_one_paragraph_and_nothing_is_written(
    arguments: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    content = _model().SerializeToString()
    Path("torn.onnx").write_bytes(content[: len(content) // 2])
    Path("text.onnx").write_text("this is no model")
    onnx.save_model(_model(), "lonely.onnx", save_as_external_data=True, location="lonely.data")
    Path("lonely.data").unlink()
    future = _model()
    future.opset_import[0].version = 900
    onnx.save_model(future, "future.onnx")
    np.savez("wrong.npz", z=np.ones(3))
    code, out, err = _run("apply", *arguments.split(), "--output", "small.onnx", capfd=capfd)
    assert (code, out, err.count("\n")) == (WRONG_USE, "", 1)
    assert err.startswith("error: ")
    assert words in err
    assert not Path("small.onnx").exists()


def test_passes_that_calibrate_ask_for_inputs_before_any_work(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from optimize.passes.registry import pass_type

    kinds = [kind for kind in sorted(PASSES) if "calibration" in pass_type(kind).needs]
    if not kinds:
        pytest.skip("no pass calibrates")
    code, _, err = _run("apply", folder / "model.onnx", kinds[0], "-o", folder / "small.onnx", capfd=capfd)
    assert code == WRONG_USE
    assert "give them with --calibration" in err


def test_a_full_disk_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (folder / "small.onnx").write_text("the old one")
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("optimize.export.files.onnx.save_model", full)
    code, _, err = _run("apply", folder / "model.onnx", "int8_dynamic", "-o", folder / "small.onnx", capfd=capfd)
    assert code == INFRASTRUCTURE
    assert "No space left on device" in err
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "small.onnx").read_text() == "the old one"


def test_a_strangers_weights_are_left_alone(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "small.weights").write_text("of something else")
    code, _, err = _run("apply", folder / "model.onnx", "fp16", "-o", folder / "small.onnx", capfd=capfd)
    assert code == WRONG_USE
    assert "small.weights is there and not part of small.onnx" in err
    assert (folder / "small.weights").read_text() == "of something else"
    (folder / "small.weights").unlink()
    for step in ("fp16", "fp16", "int8_dynamic"):  # its own it replaces, and takes away
        assert _run("apply", folder / "model.onnx", step, "-o", folder / "small.onnx", capfd=capfd)[0] == 0
        assert (folder / "small.weights").exists() == (step == "fp16")
