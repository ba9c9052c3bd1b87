"""Patch embeddings as products."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optimize.passes.base import PassNotApplicable
from optimize.passes.conv_to_matmul import ConvToMatMul
from tests.graphs import drawn, graph, kinds, same_answers

FEEDS = {"x": drawn(2, 3, 8, 6)}
CONSTANTS = {"w": drawn(5, 3, 4, 2, seed=1), "b": drawn(5, seed=2), "rows": np.array([0, 5, -1])}
PATCHES = "strides = [4, 2]"


def _model(body: str, picture: str = "float[B, 3, 8, 6] x", **constants: np.ndarray) -> onnx.ModelProto:
    return graph(f"({picture}) => (y) {{ {body} }}", **(CONSTANTS | constants))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"y = Conv <{PATCHES}> (x, w)", {"Reshape": 3, "Transpose": 2, "MatMul": 1}),
        (
            f"y = Conv <{PATCHES}, pads = [0, 0, 0, 0], kernel_shape = [4, 2]> (x, w, b)",
            {"Reshape": 3, "Transpose": 2, "MatMul": 1, "Add": 1},
        ),
        (f'y = Conv <{PATCHES}, auto_pad = "VALID"> (x, w)', {"Reshape": 3, "Transpose": 2, "MatMul": 1}),
        (
            f"c = Conv <{PATCHES}> (x, w, b) r = Reshape(c, rows) y = Transpose <perm = [0, 2, 1]> (r)",
            {"Reshape": 2, "Transpose": 1, "MatMul": 1, "Add": 1},
        ),
    ],
)
def test_patches_are_multiplied_by_the_kernel(body: str, expected: dict[str, int]) -> None:
    assert same_answers(ConvToMatMul(), _model(body), FEEDS) == expected


def test_rows_that_others_read_as_a_picture_stay_one() -> None:
    body = (
        f"c = Conv <{PATCHES}> (x, w) n = Neg(c) r = Reshape(c, rows) t = Transpose <perm = [0, 2, 1]> (r) s = ReduceSum(n) y = Mul(s, t)"
    )
    assert same_answers(ConvToMatMul(), _model(body), FEEDS)["Transpose"] == 3


def test_positions_beyond_the_last_whole_patch_are_not_read() -> None:
    model = _model(f"y = Conv <{PATCHES}> (x, w)", "float[B, 3, 11, 7] x")
    assert same_answers(ConvToMatMul(), model, {"x": drawn(2, 3, 11, 7)})["Slice"] == 1


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_videos_are_cut_too(axes: int) -> None:
    sizes = ", ".join("6" for _ in range(axes))
    model = _model(f"y = Conv <strides = {[3] * axes}> (x, k)", f"float[B, 3, {sizes}] x", k=drawn(5, 3, *[3] * axes))
    assert same_answers(ConvToMatMul(), model, {"x": drawn(2, 3, *[6] * axes)})["MatMul"] == 1


def test_the_batch_stays_free() -> None:
    model = _model(f"y = Conv <{PATCHES}> (x, w)")
    for batch in (1, 5):
        same_answers(ConvToMatMul(), model, {"x": drawn(batch, 3, 8, 6)})
    assert "Conv" not in kinds(ConvToMatMul().apply(model))


@pytest.mark.parametrize(
    ("body", "picture"),
    [
        ("y = Conv <strides = [2, 2]> (x, w)", "float[B, 3, 8, 6] x"),  # patches overlap
        (f"y = Conv <{PATCHES}, pads = [1, 0, 1, 0]> (x, w)", "float[B, 3, 8, 6] x"),
        (f'y = Conv <{PATCHES}, auto_pad = "SAME_UPPER"> (x, w)', "float[B, 3, 8, 6] x"),
        ("y = Conv <strides = [4, 2], dilations = [2, 2]> (x, w)", "float[B, 3, 8, 6] x"),
        (f"y = Conv <{PATCHES}, group = 2> (x, w)", "float[B, 6, 8, 6] x"),
        (f"y = Conv <{PATCHES}> (x, w)", "float[B, 3, H, 6] x"),  # of unknown height
        (f"y = Conv <{PATCHES}> (x, v)", "float[B, 3, 8, 6] x, float[5, 3, 4, 2] v"),  # a kernel that is computed
        (f"y = Conv <{PATCHES}> (x, w, v)", "float[B, 3, 8, 6] x, float[5] v"),
        ("y = Conv (x, one)", "float[B, 3, 8, 6] x"),  # one position
    ],
)
def test_other_convolutions_are_left_alone(body: str, picture: str) -> None:
    with pytest.raises(PassNotApplicable, match="no convolution over patches"):
        ConvToMatMul().apply(_model(body, picture, one=drawn(5, 3, 1, 1)))
