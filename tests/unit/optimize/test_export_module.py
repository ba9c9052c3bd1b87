"""Any module becomes a graph under the names asked for, or an error that names the operator and the line."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from serving.runtime.session import open_session

torch = pytest.importorskip("torch")

from optimize.export.factory import load_factory  # noqa: E402  (they import torch)
from optimize.export.files import files_of, save_graph, staged_graph  # noqa: E402
from optimize.export.inputs import example_of  # noqa: E402
from optimize.export.module import MAX_OPSET, MIN_OPSET, export_module  # noqa: E402
from optimize.export.module_parity import check_module  # noqa: E402
from optimize.export.to_onnx import ExportError  # noqa: E402

nn = torch.nn
ROWS = torch.arange(12, dtype=torch.float32).reshape(4, 3)


class Names(nn.Module):
    """Outputs called like inner values, an input handed through, a constant, one tensor twice, and None."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Any) -> Any:
        y = x + self.weight
        return {"weight": y, "add": y, "nothing": None, "deep": [x, torch.ones(2)]}


class Branch(nn.Module):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0:  # the line of Branch
            return x * 2
        return x


class Sized(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.ones(int(x.max().item()))  # the line of Sized


class NoOperator(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.linalg.eigvals(x @ x.T).real  # the line of NoOperator


class FixedWeight(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + torch.ones(4, 3)  # the line of FixedWeight


class FixedLoop(nn.Module):
    def forward(self, x: Any) -> Any:
        for _ in range(x.shape[0]):  # the line of FixedLoop
            x = x + 1
        return x


class Fails(nn.Module):
    def forward(self, x: Any) -> Any:
        return x @ torch.ones(7, 7)  # the line of Fails


class NotATensor(nn.Module):
    def forward(self, x: Any) -> Any:
        return {"a": x, "b": [x, 3]}


class OneRowOtherwise(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.shape[0] > 1 else x * 1.5


class Random(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + torch.rand_like(x)


class Root(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.sqrt()


class Lookup(nn.Module):
    """Positions up to 7; a table that is large enough to lie beside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(3000, 8), nn.Embedding(7, 8)

    def forward(self, ids: Any, mask: Any) -> Any:
        return ((self.words(ids) + self.places.weight[: ids.shape[1]]) * mask[..., None]).sum(1)


def _line(module: type) -> str:
    lines = linecache.getlines(__file__)
    number = next(i for i, line in enumerate(lines, 1) if line.rstrip().endswith(f"# the line of {module.__name__}"))
    return f"{__file__}:{number}"


def _export(module: Any, inputs: Any = (ROWS,), **options: Any) -> onnx.ModelProto:
    return export_module(module, example_of(module, inputs), **options)


def test_values_are_called_as_the_module_calls_them_and_inner_ones_give_way(tmp_path: Path) -> None:
    graph = _export(Names())
    assert [value.name for value in graph.graph.input] == ["x"]
    assert [value.name for value in graph.graph.output] == ["weight", "add", "deep_0", "deep_1"]
    save_graph(graph, tmp_path / "names.onnx")
    example = example_of(Names(), (ROWS,))
    assert [check.sizes["B"] for check in check_module(Names(), example, tmp_path / "names.onnx")] == [1, 3, 64]
    assert __file__.encode() not in graph.SerializeToString(), "no path of this machine leaves it"


def test_names_can_be_given_and_are_counted() -> None:
    graph = _export(OneRowOtherwise(), outputs=["logit"], opset=22)
    assert ([value.name for value in graph.graph.output], graph.opset_import[0].version) == (["logit"], 22)
    with pytest.raises(ExportError, match=r"2 output names are given \(a, b\), but OneRowOtherwise gives 1"):
        _export(OneRowOtherwise(), outputs=["a", "b"])
    with pytest.raises(ExportError, match="output name 'x' is taken"):
        _export(OneRowOtherwise(), outputs=["x"])
    for opset in (MIN_OPSET - 1, MAX_OPSET + 1):
        with pytest.raises(ExportError, match=f"opset {opset} is not between"):
            _export(OneRowOtherwise(), opset=opset)


def test_axes_vary_as_asked_and_large_weights_lie_beside_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Lookup()
    inputs = {"mask": torch.ones(1, 6, dtype=torch.bool), "ids": torch.arange(6)[None]}
    example = example_of(module, inputs, {"ids": {1: "S"}, "mask": {1: "S"}})
    with staged_graph(export_module(module, example), tmp_path / "model.onnx") as staged:
        checks = check_module(module, example, staged)
        assert not (tmp_path / "model.onnx").exists()
    assert [tuple(check.sizes.values()) for check in checks] == [(1, 6), (3, 6), (64, 6), (1, 5), (1, 7)]
    assert max(check.difference for check in checks) < 1e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.weights"]
    shapes = {value.name: value.shape for value in open_session(tmp_path / "model.onnx", threads=1).get_inputs()}
    assert shapes == {"mask": ["B", "S"], "ids": ["B", "S"]}


def test_what_fails_before_the_rename_leaves_the_old_graph(tmp_path: Path) -> None:
    graph = _export(OneRowOtherwise())
    (tmp_path / "model.onnx").write_text("the old one")
    with pytest.raises(OSError, match="disk is full"), staged_graph(graph, tmp_path / "model.onnx"):
        raise OSError("disk is full")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old one"]
    with staged_graph(graph, tmp_path / "model.onnx"):
        pass
    assert files_of(tmp_path / "model.onnx") == [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Branch, "control flow depends on the values of a tensor"),
        (Sized, "control flow depends on the values of a tensor"),
        (NoOperator, "operator aten.linalg_eig has no ONNX counterpart"),
        (FixedWeight, "axis 0 of input 'x' is to vary, but the model fixes it at 4"),
        (FixedLoop, "axis 0 of input 'x' is to vary, but the model fixes it at 4"),
        (Fails, r"Fails itself fails on inputs of the shapes x \(4, 3\): RuntimeError: mat1 and mat2"),
    ],
)
def test_what_cannot_be_exported_is_explained_with_its_line(module: Any, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=words) as caught:
        _export(module())
    assert _line(module) in str(caught.value)
    assert "\n" not in str(caught.value), "one paragraph"
    assert capfd.readouterr() == ("", ""), "torch keeps its remarks to itself"


def test_what_is_fixed_can_be_declared_so() -> None:
    module = FixedWeight()
    graph = export_module(module, example_of(module, (ROWS,), static=[("x", None)]))
    assert [axis.dim_value for axis in graph.graph.input[0].type.tensor_type.shape.dim] == [4, 3]


def test_outputs_that_are_no_tensors_are_named() -> None:
    with pytest.raises(ExportError, match=r"gives a int at output\['b'\]\[1\]"):
        _export(NotATensor())


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": ROWS, "y": ROWS}, "does not take the example inputs"),
        ({"x": 3}, "'x' is a int, not a tensor"),
        ((ROWS.to(torch.bfloat16),), "'x' is torch.bfloat16"),
        ((ROWS[:0],), "empty along B"),
        ("rows", "a dict of name → tensor or a tuple of tensors, got str"),
    ],
)
def test_example_inputs_that_do_not_do_are_named(inputs: Any, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        example_of(Branch(), inputs)


def test_axes_that_cannot_be_are_named() -> None:
    two = {"ids": torch.ones(2, 3), "mask": torch.ones(4, 3)}
    with pytest.raises(ExportError, match="'ids' and axis 0 of 'mask' are both called B, but their examples have sizes 2 and 4"):
        example_of(Lookup(), two)
    assert example_of(Lookup(), two, {"mask": {0: "N"}}).sizes() == {"B": 2, "N": 4}
    with pytest.raises(ExportError, match="no axis 2"):
        example_of(Lookup(), two, {"mask": {0: "N", 2: "S"}})
    with pytest.raises(ExportError, match="no input 'idx'; there are ids, mask"):
        example_of(Lookup(), two, static=[("idx", None)])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (OneRowOtherwise, r"output 'output_0' at B=1: element \[0, 2\] differs most: the module gives 3, the graph 2"),
        (Random, "answers differently when it is called twice"),
    ],
)
def test_a_graph_that_answers_otherwise_is_refused(module: Any, words: str, tmp_path: Path) -> None:
    example = example_of(module(), (ROWS,))
    save_graph(export_module(module(), example), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=words):
        check_module(module(), example, tmp_path / "m.onnx")


def test_a_check_on_nan_alone_is_no_check(tmp_path: Path) -> None:
    root = export_module(Root(), example_of(Root(), (torch.ones(2, 3),)))
    save_graph(root, tmp_path / "m.onnx")
    assert check_module(Root(), example_of(Root(), (torch.tensor([[4.0, 1.0, -1.0]]),)), tmp_path / "m.onnx")[0].difference == 0
    with pytest.raises(ExportError, match="NaN alone, which proves nothing"):
        check_module(Root(), example_of(Root(), (-torch.ones(2, 3),)), tmp_path / "m.onnx")


def test_a_size_that_the_module_refuses_is_told_from_one_that_the_graph_refuses(tmp_path: Path) -> None:
    pairs = torch.nn.Unflatten(0, (-1, 2))
    example = example_of(pairs, (ROWS,))
    save_graph(export_module(pairs, example), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"Unflatten itself fails .* with --batch-size"):
        check_module(pairs, example, tmp_path / "m.onnx")
    assert len(check_module(pairs, example, tmp_path / "m.onnx", sizes=[2, 64])) == 2


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("no_such_module:build", None, "there is no module 'no_such_module'"),
        ("no_colon", None, "is package.module:factory"),
        ("fm_needs:build", "import no_such_package", r"needs 'no_such_package', which is not installed, at .*fm_needs\.py:1"),
        ("fm_syntax:build", "def build(:", "cannot be imported: SyntaxError"),
        ("fm_typo:biuld", "def build(): pass", "has no 'biuld'; did you mean build"),
        ("fm_raises:build", "def build():\n    return [][1]", r"fails: IndexError: list index out of range, at .*fm_raises\.py:2"),
        ("fm_number:build", "build = 3", "is a int, it cannot be called"),
        ("fm_other:build", "def build(): return 3", "gives a int; it has to give a torch.nn.Module, or a pair"),
        ("fm_pair:build", "import torch\ndef build(): return torch.nn.ReLU(), 3", "example inputs of type int"),
    ],
)
def test_a_factory_that_does_not_do_is_explained(
    name: str, body: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    if body:
        (tmp_path / f"{name.partition(':')[0]}.py").write_text(body)
    with pytest.raises(ExportError, match=words):
        load_factory(name)


def test_a_factory_gives_a_module_alone_or_with_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fm_good.py").write_text("import torch\nrelu = torch.nn.ReLU()\ndef pair(): return relu, {'input': torch.ones(2)}\n")
    assert [load_factory(f"fm_good:{name}")[1] for name in ("relu", "torch.nn.ReLU")] == [None, None]
    module, inputs = load_factory("fm_good:pair")
    assert re.match("ReLU", str(module))
    assert isinstance(inputs, dict)
    assert np.array_equal(inputs["input"], np.ones(2))
