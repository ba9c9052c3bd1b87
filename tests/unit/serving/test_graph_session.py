"""A session holds callers to the signature, and bundles to what can be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save_model

from serving.contract.bundle import Bundle
from serving.contract.errors import BundleError, ModelOutputError
from serving.contract.fields import FeatureSpec
from serving.contract.manifest import Signature, ranking_signature
from serving.features.columns import Encoded
from serving.ranking.ranker import Ranker, blank_feeds
from serving.runtime.session import GraphSession


def _save(path: Path, op: str, dtype: int = TensorProto.FLOAT, axes: tuple[Any, ...] = ("N",), **attributes: Any) -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["probability"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", dtype, axes)],
        [helper.make_tensor_value_info("probability", dtype, axes)],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


@pytest.fixture(scope="module")
def session(tiny_graph: Path) -> GraphSession:
    return GraphSession(tiny_graph, threads=1)


@pytest.mark.parametrize("content", [b"", b"garbage" * 50, b"\x08\x0a"], ids=["empty", "garbage", "no-graph"])
def test_a_file_that_is_no_graph_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"bad\.onnx"):
        GraphSession(tmp_path / "bad.onnx", threads=1)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"absent\.onnx"):
        GraphSession(tmp_path / "absent.onnx", threads=1)


def test_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be loaded"):
        GraphSession(_save(tmp_path / "odd.onnx", "NoSuchOperator"), threads=1)


def test_a_type_that_is_not_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'x' has type tensor\(double\)"):
        GraphSession(_save(tmp_path / "double.onnx", "Identity", TensorProto.DOUBLE), threads=1)


def test_the_signature_is_the_one_that_follows_from_the_specification(session: GraphSession, tiny_spec: FeatureSpec) -> None:
    session.require(ranking_signature(tiny_spec))
    assert {tensor.name for tensor in session.signature.inputs} == {field.name for field in tiny_spec.fields} | {"request_index"}
    assert session.threads == 1


def test_another_signature_is_refused_with_the_first_tensor_that_does_not_fit(session: GraphSession, tiny_spec: FeatureSpec) -> None:
    wanted = ranking_signature(tiny_spec)
    fewer = Signature(inputs=wanted.inputs[1:], outputs=wanted.outputs)
    retyped = Signature(inputs=(wanted.inputs[0].model_copy(update={"dtype": "int64"}), *wanted.inputs[1:]), outputs=wanted.outputs)
    reshaped = Signature(inputs=wanted.inputs, outputs=(wanted.outputs[0].model_copy(update={"shape": ("N", 1)}),))
    for expected, message in (
        (fewer, "input 'user_id' is not expected"),
        (retyped, "input 'user_id' is string, expected int64"),
        (reshaped, "output 'probability' has 1 axes, expected 2"),
    ):
        with pytest.raises(BundleError, match=message):
            session.require(expected)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("age", np.zeros(1, np.float64)),
        ("age", np.zeros((1, 1), np.float32)),
        ("age", np.zeros((), np.float32)),
        ("segment", np.zeros(1, np.int32)),
        ("segment", np.array(["1"], object)),
        ("user_id", np.array(["u"])),
        ("user_id", np.zeros(1, np.int64)),
        ("history", np.array(["a"], object)),
    ],
    ids=str,
)
def test_a_feed_of_the_wrong_type_or_rank_is_our_mistake_and_never_cast(
    session: GraphSession, tiny_spec: FeatureSpec, name: str, wrong: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(TypeError, match=f"'{name}'"):
        session.run({**blank_feeds(tiny_spec, 2), name: wrong})


def test_a_run_that_fails_inside_the_graph_is_a_model_error(session: GraphSession, tiny_spec: FeatureSpec) -> None:
    feeds = blank_feeds(tiny_spec, 2)
    feeds["request_index"] = np.array([0, 7], np.int64)  # there is one request only
    with pytest.raises(ModelOutputError, match=r"model\.onnx"):
        session.run(feeds)


def test_a_probability_that_is_not_finite_is_a_model_error(tiny_bundle: Bundle, tiny_spec: FeatureSpec, tmp_path: Path) -> None:
    ranker = Ranker(tiny_bundle, threads=1, max_candidates=5)
    ranker.session = GraphSession(_save(tmp_path / "log.onnx", "Log"), threads=1)
    good, bad = (Encoded({"x": np.array(x, np.float32)}, 1, 2) for x in ([1.0, 2.0], [1.0, 0.0]))
    first, second, third = ranker.score([good, bad, good])  # one of a stack does not take its neighbours with it
    assert isinstance(second, ModelOutputError)
    assert "tiny 1 gave a probability that is not finite" in str(second)
    for probabilities in (first, third):
        assert np.allclose(probabilities, np.log([1.0, 2.0]))  # type: ignore[arg-type]
