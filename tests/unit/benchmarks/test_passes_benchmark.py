from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import passes
from benchmarks.passes import OPTIONS, SLOW, Effort, change_of, compositions, run
from optimize.passes.registry import PASSES, parse_pass
from optimize.search.subject import Part
from tests.graphs import drawn, graph


def test_every_pass_is_measured_and_every_composition_can_be_read() -> None:
    assert set(compositions(is_whole=False)) == PASSES.keys() - SLOW
    assert set(compositions(is_whole=True)) == {*PASSES, *OPTIONS}
    for composition in OPTIONS:
        for text in composition.split("+"):
            parse_pass(text)


def test_the_change_is_a_share_of_the_answers_norm() -> None:
    answers = [np.array([3.0, 0.0]), np.array([[4.0]])]
    assert change_of(answers, answers) == 0.0
    assert change_of(answers, [np.array([3.0, 3.0]), np.array([[0.0]])]) == pytest.approx(1.0)


TINY = SimpleNamespace(
    graph=graph(
        "(float[B, 32] x) => (float[B, 4] y) { h = MatMul(x, up) a = Relu(h) y = MatMul(a, down) }", up=drawn(32, 64), down=drawn(64, 4)
    ),
    feeds={"x": drawn(5, 32, seed=1)},
    calibration=tuple({"x": drawn(5, 32, seed=seed)} for seed in range(2, 12)),
    test=Part(({"x": drawn(5, 32, seed=20)},)),
)
"""Two layers, in the place of a benchmark's subject."""


def test_what_applies_has_figures_and_what_does_not_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def subjects(*_: object) -> Iterator[tuple[str, Any]]:
        yield "tiny", TINY

    monkeypatch.setattr(passes, "_subjects", subjects)
    record = run(Effort(rounds_s=0.01, is_whole=False), tell=lambda *_: None)
    by_name = {figure.name: figure for figure in record.figures}
    for kind in ("int8_dynamic", "prune_neurons"):
        assert 0 < by_name[f"tiny_{kind}_file"].value < 100
        assert by_name[f"tiny_{kind}_speedup"].rounds > 1
        assert by_name[f"tiny_{kind}_change"].value > 0
    assert by_name["tiny_smooth_quant_change"].value < 1e-3
    told = {name.removeprefix("tiny_") for name in record.notes}
    measured = {name.removeprefix("tiny_").removesuffix("_file") for name in by_name if name.endswith("_file")}
    assert told | measured == (PASSES.keys() - SLOW) | {"float32"}
    assert "no residual stream" in record.notes["tiny_prune_width"]
