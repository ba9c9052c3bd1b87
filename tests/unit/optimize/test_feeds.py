"""Inputs for calibration come from NPZ files that fit the model, and never from a pickle; others are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.passes.base import CalibrationError
from optimize.passes.feeds import MADE_UP_LENGTH, MADE_UP_ROWS, made_up_feeds, read_feeds, slots

GOOD: dict[str, Any] = {
    "ids": np.array([["a", "bc"], ["d", "é"]]),
    "x": np.ones((2, 4), np.float32),
    "flag": np.array(True),
}


def _model() -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.STRING, ["N", "L"]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4]),
    ]
    weight = numpy_helper.from_array(np.ones(4, np.float32), "weight")
    nodes = [helper.make_node("Mul", ["x", "weight"], ["y"])]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])], [weight])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def test_a_folder_is_read_in_order_and_strings_become_what_onnx_runtime_takes(tmp_path: Path) -> None:
    for name, fill in (("b", 2), ("a", 1)):
        np.savez(tmp_path / f"{name}.npz", **{**GOOD, "x": np.full((2, 4), fill, np.float32)})
    (tmp_path / "notes.txt").write_text("not a run")
    first, second = read_feeds(tmp_path, _model())
    assert (first["x"][0, 0], second["x"][0, 0]) == (1, 2)
    assert first["ids"].dtype == object
    assert first["ids"].tolist() == GOOD["ids"].tolist()
    (one,) = read_feeds(tmp_path / "a.npz", _model())
    assert one["flag"].shape == ()


def test_bytes_are_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{**GOOD, "ids": np.char.encode(GOOD["ids"], "utf-8")})
    assert read_feeds(tmp_path, _model())[0]["ids"].tolist() == GOOD["ids"].tolist()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": np.ones((2, 4))}, "input 'x' takes float32, not float64"),
        ({"x": np.ones((2, 5), np.float32)}, "input 'x' has size 4 on axis 1, not 5"),
        ({"x": np.ones(4, np.float32)}, "input 'x' has 2 axes, not 1"),
        ({"ids": np.ones((2, 2), np.int64)}, "input 'ids' takes strings, not int64"),
        ({"ids": np.array([["a", None]], object)}, "'ids' holds Python objects, which are not read"),
        ({"z": np.ones(1)}, "has z; the model takes ids, x, flag"),
        ({"x": None}, "lacks x; the model takes ids, x, flag"),
    ],
)
def test_a_run_that_does_not_fit_is_named(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "run.npz", **{name: value for name, value in {**GOOD, **changed}.items() if value is not None})
    with pytest.raises(CalibrationError, match=rf"run\.npz.*{words}"):
        read_feeds(tmp_path / "run.npz", _model())


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no file or folder"):
        read_feeds(tmp_path / "absent", _model())
    with pytest.raises(CalibrationError, match=r"has no \.npz file"):
        read_feeds(tmp_path, _model())
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(CalibrationError, match=r"bad\.npz cannot be read"):
        read_feeds(tmp_path / "bad.npz", _model())
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(CalibrationError, match="is one array"):
        read_feeds(tmp_path / "one.npy", _model())


def test_made_up_inputs_agree_on_the_sizes_of_a_symbol_and_fit() -> None:
    feeds = made_up_feeds(_model())
    assert {name: feed.shape for name, feed in feeds.items()} == {
        "ids": (MADE_UP_ROWS, MADE_UP_LENGTH),
        "x": (MADE_UP_ROWS, 4),
        "flag": (),
    }
    assert not any(slot.gap(feeds[slot.name]) for slot in slots(_model()))
    assert set(feeds["ids"].ravel()) == {"0", "1"}
