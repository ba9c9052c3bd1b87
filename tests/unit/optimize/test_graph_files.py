"""Large weights lie beside the graph, where processes can share them; the pair is bundled, pinned and refused as one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.bundling import digest_of
from optimize.export.files import LARGE_BYTES, PAGE_BYTES, bundled, files_of, save_graph
from serving.contract.bundle import Bundle, open_bundle, write_bundle
from serving.contract.errors import BundleError
from serving.runtime.session import GraphSession

ROWS = np.array([0, 70_000, 3])


def _model(*, large: bool = True, fill: float = 0.0) -> onnx.ModelProto:
    """Look rows up in a table of 16 bytes a row, and add a constant of one page."""
    rows = 70_001 if large else 4
    table = (np.arange(rows * 4, dtype=np.float32) + fill).reshape(rows, 4)
    shift = np.full(LARGE_BYTES // 4 if large else 4, 2.0, np.float32)
    constants = [
        numpy_helper.from_array(shift, "shift"),
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array(0), "at"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "row"], ["found"]),
        helper.make_node("Gather", ["shift", "at"], ["two"]),
        helper.make_node("Add", ["found", "two"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("row", TensorProto.INT64, ["N"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])]
    graph = helper.make_graph(nodes, "lookup", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def _answer(path: Path) -> list[list[float]]:
    (found,) = GraphSession(path, threads=1).run({"row": ROWS % 4 if len(files_of(path)) == 1 else ROWS})
    return found.tolist()


def test_large_constants_move_out_to_whole_pages_and_the_callers_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = _model()
    before = model.SerializeToString()
    save_graph(model, tmp_path / "fp32.onnx")
    assert model.SerializeToString() == before
    assert {file.name for file in tmp_path.iterdir()} == {"fp32.onnx", "fp32.weights"}
    assert (tmp_path / "fp32.onnx").stat().st_size < 1000
    stored = onnx.load(str(tmp_path / "fp32.onnx"), load_external_data=False).graph.initializer
    places = {t.name: {entry.key: entry.value for entry in t.external_data} for t in stored if t.data_location == TensorProto.EXTERNAL}
    assert places.keys() == {"shift", "table"}
    assert all(place["location"] == "fp32.weights" and int(place["offset"]) % PAGE_BYTES == 0 for place in places.values())
    assert _answer(tmp_path / "fp32.onnx") == [[2, 3, 4, 5], [280_002, 280_003, 280_004, 280_005], [14, 15, 16, 17]]


def test_a_small_graph_is_one_file_and_takes_old_weights_away(tmp_path: Path) -> None:
    path = tmp_path / "fp32.onnx"
    save_graph(_model(), path)
    save_graph(_model(large=False), path)
    assert files_of(path) == [path] == [*tmp_path.iterdir()]
    assert _answer(path)[0] == [2, 3, 4, 5]


def test_a_write_that_fails_leaves_no_half_and_no_changed_model(tmp_path: Path) -> None:
    model = _model()
    before = model.SerializeToString()
    (tmp_path / "fp32.weights").mkdir()  # so that the rename fails
    with pytest.raises(OSError, match="weights"):
        save_graph(model, tmp_path / "fp32.onnx")
    assert model.SerializeToString() == before
    assert [file.name for file in tmp_path.iterdir()] == ["fp32.weights"]


def test_a_bundle_pins_the_weights_and_its_version_follows_them(tiny_bundle: Bundle, tmp_path: Path) -> None:
    digests = []
    for fill in (0.0, 1.0):
        save_graph(_model(fill=fill), tmp_path / "fp32.onnx")
        digests.append(digest_of(files_of(tmp_path / "fp32.onnx")))
    assert digests[0] != digests[1]
    bundle = write_bundle(tmp_path / "bundle", tiny_bundle.manifest, bundled(tmp_path / "fp32.onnx", "model.onnx"))
    assert bundle.manifest.files.keys() == {"model.onnx", "fp32.weights"}
    assert _answer(bundle.graph_path)[0] == [3, 4, 5, 6]
    weights = bundle.path / "fp32.weights"
    with weights.open("r+b") as file:
        file.seek(PAGE_BYTES * 20)
        file.write(b"\x7f")
    with pytest.raises(BundleError, match=r"'fp32\.weights' was altered"):
        open_bundle(bundle.path)
    weights.unlink()
    with pytest.raises(BundleError, match=r"'fp32\.weights' is missing"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("where", ["absent.weights", "../outside.weights", "ABSOLUTE", "link.weights", "/etc/hostname"])
def test_weights_outside_the_bundle_are_not_read(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    save_graph(_model(), folder / "fp32.onnx")
    outside = tmp_path / "outside.weights"
    (folder / "fp32.weights").rename(outside)
    os.symlink(outside, folder / "link.weights")
    model = onnx.load(str(folder / "fp32.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(outside) if where == "ABSOLUTE" else where
    onnx.save_model(model, str(folder / "fp32.onnx"))
    with pytest.raises(BundleError, match=r"fp32\.onnx cannot be loaded"):
        GraphSession(folder / "fp32.onnx", threads=1)


def test_a_truncated_weights_file_is_refused(tmp_path: Path) -> None:
    save_graph(_model(), tmp_path / "fp32.onnx")
    os.truncate(tmp_path / "fp32.weights", PAGE_BYTES)
    with pytest.raises(BundleError, match=r"fp32\.onnx cannot be loaded"):
        GraphSession(tmp_path / "fp32.onnx", threads=1)
