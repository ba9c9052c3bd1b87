"""The search on a model of this test's own: order of refusals, what goes wrong in a pass, cache, a kill in the middle, a full disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize.export.files import load_graph
from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable, copy_of
from optimize.passes.registry import PASSES, UnknownPass
from optimize.search.budget import Budget
from optimize.search.cache import Cache, DiskError
from optimize.search.candidates import DEFAULTS, REFERENCE, Candidate, default_candidates, parse_candidate, without_remedy
from optimize.search.report import OptimizeReport
from optimize.search.search import SearchSettings, search
from optimize.search.subject import Part, Subject, SubjectError
from tests.graphs import graph

WIDTH, ROWS = 24, 3000
SETTINGS = SearchSettings(budget=Budget("ne", 1.0), rounds=5, studies=False)


def a_subject(rows: int = ROWS, width: int = WIDTH) -> Subject:
    """A classifier of two layers whose labels are drawn from its own probabilities: the best there is."""
    rng = np.random.default_rng(0)
    first = rng.normal(0, width**-0.5, (width, width)).astype(np.float32)
    second = rng.normal(0, 3 * width**-0.5, (width, 1)).astype(np.float32)
    model = graph(
        f"(float[N,{width}] x) => (float[N,1] y) {{ h = MatMul(x, first) r = Relu(h) z = MatMul(r, second) y = Sigmoid(z) }}",
        first=first,
        second=second,
    )

    def part(seed: int) -> Part:
        draw = np.random.default_rng(seed)
        x = draw.normal(size=(rows, width)).astype(np.float32)
        truth = 1 / (1 + np.exp(-(np.maximum(x @ first, 0) @ second)[:, 0]))
        half = rows // 2
        return Part(({"x": x[:half]}, {"x": x[half:]}), (draw.random(rows) < truth).astype(np.float32))

    timing = {size: {"x": rng.normal(size=(size, width)).astype(np.float32)} for size in (1, 64)}
    return Subject("tiny", "drawn", "any", model, part(1), part(2), timing, 64)


@dataclass(frozen=True)
class Scaled(Pass):
    """Multiplies the last layer's weights: 1 changes nothing, 0 forgets all, infinity answers NaN."""

    kind: ClassVar[str] = "scaled"
    by: float = 1.0
    calls: ClassVar[Counter[float]] = Counter()

    @property
    def changes(self) -> str:
        return f"weights times {self.by}"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        self.calls[self.by] += 1
        copy = copy_of(model)
        (weight,) = (tensor for tensor in copy.graph.initializer if tensor.name == "second")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(self.by), "second"))
        return copy


@dataclass(frozen=True)
class Broken(Pass):
    """Does what its function does."""

    kind: ClassVar[str] = "broken"
    does: Callable[[onnx.ModelProto], onnx.ModelProto] = copy_of
    called: str = ""

    @property
    def name(self) -> str:
        return self.called

    @property
    def changes(self) -> str:
        return "nothing good"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        return self.does(model)


def _raise(error: BaseException) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def fail(_: onnx.ModelProto) -> onnx.ModelProto:
        raise error

    return fail


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = copy_of(model)
    copy.graph.node[-1].output[0] = copy.graph.output[0].name = "other"
    return copy


def _bloated(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = copy_of(model)
    copy.graph.initializer.append(numpy_helper.from_array(np.ones(40_000, np.float32), "ballast"))
    return copy


def _unknown(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = copy_of(model)
    copy.graph.node[-1].op_type = "NoSuchOperator"
    return copy


def _run(tmp_path: Path, *candidates: Candidate, subject: Subject | None = None, settings: SearchSettings = SETTINGS) -> OptimizeReport:
    folder = tmp_path / "variants"
    folder.mkdir(exist_ok=True)
    return search(subject or a_subject(), candidates, folder, settings, Cache(tmp_path / "cache"), lambda *_: None)


def _of(*steps: Pass) -> Candidate:
    return Candidate(steps)


def test_every_kind_of_failure_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    broken = {
        "raises": (_raise(RuntimeError("a bug in a library")), "raises failed: RuntimeError: a bug in a library"),
        "idle": (_raise(PassNotApplicable("the model has no tables")), "idle does not apply: the model has no tables"),
        "hungry": (_raise(MemoryError()), "could not be built: there was not enough memory"),
        "renamed": (_renamed, "does not fit the reference's signature: output 'y' is missing"),
        "bloated": (_bloated, "has 0.16 MB, the reference 0.00 MB; at most 0.07 MB are allowed"),
        "unknown": (_unknown, "cannot be served: graph unknown.onnx cannot be loaded by ONNX Runtime"),
    }
    listed = [_of(Broken(does, name)) for name, (does, _) in broken.items()]
    report = _run(tmp_path, *listed, _of(Scaled(float("inf"))), _of(Scaled(0.0)), _of(Scaled(1.001)))
    refused = {c.name: c.refused or "" for c in report.candidates}
    for name, (_, words) in broken.items():
        assert refused[name].startswith(words)
    assert refused["scaled:by=inf"].startswith("gives answers that are not finite") or "is no number" in refused["scaled:by=inf"]
    assert refused["scaled:by=0.0"].startswith("normalized entropy worse by +")
    assert refused["scaled:by=0.0"].endswith("the budget is +1 %")
    assert not refused["scaled:by=1.001"]
    assert not refused[REFERENCE]
    assert all(not c.latency for c in report.candidates if c.refused), "no time goes into what is out"
    assert report.budget.looks == len(listed) + 3
    files = {path.name for path in (tmp_path / "variants").iterdir()}
    assert files == {"fp32.onnx", "scaled-by-1.001.onnx"} == {c.file for c in report.candidates if c.file}


def test_a_repeated_search_builds_judges_and_times_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [_of(Scaled(1.01)), _of(Scaled(0.5)), _of(Broken(_raise(RuntimeError("a bug")), "raises"))]
    first = _run(tmp_path, *listed)
    Scaled.calls.clear()
    monkeypatch.setattr("optimize.search.measure.time.perf_counter", lambda: pytest.fail("nothing is timed"))
    again = _run(tmp_path, *listed)
    assert not Scaled.calls
    assert again.candidates == first.candidates
    monkeypatch.undo()
    assert _run(tmp_path, *listed, settings=SearchSettings(Budget("ne", 1e6), rounds=5, studies=False)).candidates[2].refused is None
    assert Scaled.calls == {0.5: 1}, "a wider budget needs the graph again that the narrow one threw away"


def test_other_data_another_model_and_other_passes_are_other_entries(tmp_path: Path) -> None:
    def seen(subject: Subject) -> list[float]:
        change = _run(tmp_path, _of(Scaled(1.2)), subject=subject).candidates[1].change
        assert change is not None
        return [change.value, change.high]

    subject = a_subject()
    first = seen(subject)
    other_data = Subject("t", "d", "any", subject.reference, subject.test, subject.validation, subject.timing, 64)
    other_model = Subject("t", "d", "any", Scaled(0.5).apply(subject.reference), subject.validation, subject.test, subject.timing, 64)
    assert len({tuple(first), tuple(seen(other_data)), tuple(seen(other_model))}) == 3
    assert seen(subject) == first


def test_the_same_answers_need_no_statistics(tmp_path: Path) -> None:
    """A hundred examples cannot show that accuracy stays within 0.5 points, but the same answers are the same answers."""
    subject = a_subject(rows=100)
    settings = SearchSettings(Budget("accuracy", 0.5), rounds=5, studies=False)
    report = _run(tmp_path, _of(Broken(copy_of, "same")), _of(Scaled(1.1)), subject=subject, settings=settings)
    assert [c.refused is None for c in report.candidates] == [True, True, False]
    assert "maybe by up to" in (report.candidates[2].refused or "")


def test_the_test_part_is_reported_and_chooses_nothing(tmp_path: Path) -> None:
    subject = a_subject()
    label = subject.test.label
    assert label is not None
    upside_down = Subject("t", "d", "any", subject.reference, subject.validation, Part(subject.test.feeds, 1 - label), subject.timing, 64)
    report = _run(tmp_path, _of(Scaled(1.05)), subject=upside_down)
    record = report.candidates[1]
    assert record.test_change is not None
    assert record.test_change.value > 1.0, "over the budget there"
    assert record.refused is None, "but it was judged on the other part"


@pytest.mark.parametrize(
    ("change", "metric", "words"),
    [
        ({"decisive_size": 65}, "ne", "no feeds of 65 examples"),
        ({"validation": Part(())}, "ne", "the validation part is empty"),
        ({"test": Part(({"x": np.ones((2, WIDTH), np.float32)},))}, "auc", "the test part has no labels; auc needs them"),
        (
            {"validation": Part(({"x": np.full((9, WIDTH), np.nan, np.float32)},), np.ones(9))},
            "ne",
            "the reference itself cannot be judged",
        ),
        ({"validation": Part(({"x": np.ones((9, WIDTH), np.float32)},), np.ones(9))}, "auc", "a auc that is no number, on 9 of 9"),
        ({"validation": Part(({"x": np.ones((9, WIDTH + 1), np.float32)},), np.ones(9))}, "ne", "does not run"),
        ({"validation": Part(({"x": np.ones((9, WIDTH), np.float32)},), np.ones(8))}, "accuracy", r"shape \(8,\) for 9 answers"),
        ({"validation": Part(({"x": np.ones((9, WIDTH), np.float32)},), np.full(9, np.nan))}, "accuracy", "no finite numbers"),
        ({"validation": Part(({"x": np.ones((9, WIDTH), np.float32)},), np.ones(9), head=lambda y: y.repeat(3, 1))}, "ne", "3 numbers"),
    ],
)
def test_a_subject_that_cannot_be_searched_with_is_an_error(change: dict[str, object], metric: str, words: str, tmp_path: Path) -> None:
    from dataclasses import replace

    settings = SearchSettings(Budget(metric, 0.1), rounds=5, studies=False)  # type: ignore[arg-type]
    with pytest.raises(SubjectError, match=words):
        _run(tmp_path, _of(Scaled(1.0)), subject=replace(a_subject(), **change), settings=settings)  # type: ignore[arg-type]


def test_variants_can_be_read_with_weights_of_their_own_and_again_after_a_second_search(tmp_path: Path) -> None:
    for _ in range(2):
        report = _run(tmp_path, _of(Scaled(1.0)), subject=a_subject(rows=200, width=160))
        for candidate in report.candidates:
            assert candidate.file is not None
            path = tmp_path / "variants" / candidate.file
            assert path.with_suffix(".weights").is_file()
            assert load_graph(path).graph.initializer[0].dims[0] == 160
            assert onnx.load(path).graph.initializer[0].raw_data


def test_a_full_disk_ends_the_search_with_one_error_and_a_good_cache(tmp_path: Path) -> None:
    full = Broken(_raise(OSError(errno.ENOSPC, "No space left on device", "scratch.onnx")), "full")
    with pytest.raises(DiskError, match=r"No space left on device.*free some space"):
        _run(tmp_path, _of(Scaled(1.01)), _of(full))
    assert not list((tmp_path / "variants").iterdir())
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".")], "nothing is left half-written"
    Scaled.calls.clear()
    assert _run(tmp_path, _of(Scaled(1.01))).candidates[1].refused is None
    assert not Scaled.calls, "what was found before is kept"


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    """A real process, killed in the middle; the next one does not build again what was built."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.unit.optimize.test_search import Broken, Scaled, _of, _run\n"
        "def slow(model):\n    print('waiting', flush=True)\n    time.sleep(60)\n    return model\n"
        "_run(Path(sys.argv[1]), _of(Scaled(1.01)), _of(Scaled(1.02)), _of(Broken(slow, 'slow')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    Scaled.calls.clear()
    report = _run(tmp_path, _of(Scaled(1.01)), _of(Scaled(1.02)), _of(Scaled(1.03)))
    assert Scaled.calls == {1.03: 1}
    assert all(c.refused is None and c.latency for c in report.candidates)


def test_rounds_that_a_killed_search_had_timed_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(what: str, _: float) -> None:
        if what == "timing: round 4 of 9":
            raise Killed

    monkeypatch.setattr("optimize.search.search.CHECKPOINT_S", 0.0)
    settings = SearchSettings(Budget("ne", 1.0), rounds=9, studies=False)
    cache, folder = Cache(tmp_path / "cache"), tmp_path / "variants"
    folder.mkdir()
    with pytest.raises(Killed):
        search(a_subject(), [_of(Scaled(1.01))], folder, settings, cache, die)
    (entry,) = (tmp_path / "cache" / "latencies").iterdir()
    kept = {(name, size): values for name, size, values in json.loads(entry.read_bytes())["samples"]}
    assert {len(values) for values in kept.values()} == {3}
    report = search(a_subject(), [_of(Scaled(1.01))], folder, settings, cache, lambda *_: None)
    after = {(name, size): values for name, size, values in json.loads(entry.read_bytes())["samples"]}
    assert all(after[pair][:3] == values for pair, values in kept.items())
    assert {latency.rounds for c in report.candidates for latency in c.latency} == {9}


def test_candidates_are_read_from_text() -> None:
    assert parse_candidate("clean_up+int8_dynamic:weight_type=int8").name == "clean_up+int8_dynamic:weight_type=int8"
    kept = parse_candidate("int8_dynamic:keep=first+second+clean_up")
    assert [step.name for step in kept.steps] == ["int8_dynamic:keep=first+second", "clean_up"]
    assert parse_candidate(REFERENCE).steps == ()
    for wrong in ("no_such_pass", "clean_up+no_such_pass", "clean_up:no_such_option=1"):
        with pytest.raises(UnknownPass):
            parse_candidate(wrong)


@pytest.mark.parametrize("family", [*DEFAULTS, "a family that nobody knows"])
def test_default_lists_begin_with_the_reference_and_hold_only_what_there_is(family: str) -> None:
    listed = default_candidates(family)
    assert listed[0].name == REFERENCE
    assert len({c.name for c in listed}) == len(listed) == len({c.file_stem for c in listed})
    assert len(listed) >= 4
    assert {step.kind for c in listed for step in c.steps} <= set(PASSES)


def test_remedies_are_tried_only_where_plain_int8_is_over_the_budget(tmp_path: Path) -> None:
    texts = ("int8_dynamic", "smooth_quant+int8_dynamic", "mixed_precision:max_error=0.5")
    listed = [parse_candidate(text) for text in texts]
    from dataclasses import replace

    subject = a_subject()
    subject = replace(subject, calibration=[{"x": feeds["x"][i : i + 50]} for feeds in subject.validation.feeds for i in range(0, 400, 50)])

    def refused(limit: float, *, all_remedies: bool = False) -> list[str]:
        settings = replace(SETTINGS, budget=Budget("ne", limit), all_remedies=all_remedies)
        return [c.refused or "" for c in _run(tmp_path, *listed, subject=subject, settings=settings).candidates[1:]]

    within = refused(5.0)
    assert within[0] == ""
    assert all(words.startswith("not tried: int8_dynamic is inside the budget without a remedy") for words in within[1:])
    assert not any("not tried" in words for words in refused(5.0, all_remedies=True))
    assert not any("not tried" in words for words in refused(1e-9))


@pytest.mark.parametrize("family", DEFAULTS)
def test_default_lists_hold_plain_int8_before_its_remedies(family: str) -> None:
    names = [c.name for c in default_candidates(family)]
    plain = {c.name: without_remedy(c) for c in default_candidates(family)}
    assert any(plain.values())
    for name, other in plain.items():
        assert other is None or other.name not in names or names.index(other.name) < names.index(name)


def test_studies_fill_the_report(tmp_path: Path) -> None:
    started = time.monotonic()
    report = _run(tmp_path, parse_candidate("int8_dynamic"), settings=SearchSettings(Budget("ne", 1.0), rounds=5))
    assert {one.layer for one in report.sensitivity} == {"MatMul_0", "MatMul_2"}
    assert all(one.max_difference > 0 for one in report.sensitivity)
    assert {"MatMul", "Sigmoid"} & {one.operator for one in report.operators if one.before_ms > 0}
    assert [one.name.split()[0] for one in report.techniques] == ["Batching", "Vectorization", "Loop", "Operator", "Quantization"]
    assert all(one.headline and one.words and all(np.isfinite(list(one.measured.values()))) for one in report.techniques)
    assert all((c.peak_memory_bytes or 0) > 100_000 for c in report.candidates), "a session takes more than its weights"
    assert report.seconds <= time.monotonic() - started


def test_another_model_is_judged_by_its_cosine_without_labels(tmp_path: Path) -> None:
    subject = a_subject(rows=200)
    embedding = graph(
        f"(float[N,{WIDTH}] x) => (float[N,{WIDTH}] y) {{ y = MatMul(x, second) }}",
        second=np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32),
    )
    unlabelled = [Part(part.feeds) for part in (subject.validation, subject.test)]
    subject = Subject("t", "d", "any", embedding, *unlabelled, subject.timing, 64)
    settings = SearchSettings(Budget("cosine", 0.01), rounds=5, studies=False)
    report = _run(tmp_path, parse_candidate("int8_dynamic"), _of(Scaled(-1.0)), subject=subject, settings=settings)
    assert [c.refused is None for c in report.candidates] == [True, True, False]
    assert report.candidates[1].test["cosine"] > report.candidates[1].test["cosine_min"] > 0.99
    assert (report.candidates[2].refused or "").startswith("cosine to the reference worse by +2")
