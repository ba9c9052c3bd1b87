"""The study of formats: what it measures, what it says of what it cannot, and the page that reads it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from optimize.models.registry import DcnV2Settings
from optimize.studies import precision, precision_subjects
from optimize.studies.precision import FORMATS, Format, StudySettings, described, main, run, write
from optimize.studies.precision_subjects import Subject, encoder, ranker
from optimize.studies.precision_summary import Outcome, table
from serving.contract.errors import BundleError
from tests.graphs import drawn, graph

SMALL = StudySettings(impressions=2_000, epochs=1, sentences=16, rounds=3, memory=False)
PAGE = Path(__file__).parents[3] / "docs/studies/precision.md"


def _silent(what: str, share: float) -> None:
    assert 0 <= share <= 1


def _subject(model: onnx.ModelProto | None = None) -> Subject:
    model = model or graph("(float[B, 128] x) => (float[B, 128] y) { a = MatMul(x, w) y = Tanh(a) }", w=drawn(128, 128) / 11)
    return Subject(
        name="encoder",
        title="a layer",
        data="noise",
        graph=model,
        calibration=[{"x": drawn(2, 128, seed=i)} for i in range(8)],
        runs=[{"x": drawn(5, 128, seed=20)}, {"x": drawn(3, 128, seed=21)}],
        timing={1: {"x": drawn(1, 128)}, 4: {"x": drawn(4, 128)}},
        unit="rows",
        judge=lambda found, before: {
            "cosine": 1.0,
            "cosine_min": 0.5,
            "cosine_loss": float(np.abs(found - before).mean()),
            "top1_agreement": 1.0,
            "top1_accuracy": 0.9,
        },
        loss="cosine_loss",
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    formats = (*FORMATS, Format("int4 of the future", ("int4_of_the_future",)))
    return {one.format: one for one in run(_subject(), SMALL, tmp_path_factory.mktemp("study"), _silent, formats)}


def test_sizes_and_losses_fall_and_rise_with_the_bits(outcomes: dict[str, Outcome]) -> None:
    made = [outcomes[name] for name in ("fp32", "bf16", "int8 weights", "int4 weights")]
    assert [one.skipped for one in made] == [""] * 4
    assert all(more.size_bytes > 1.5 * fewer.size_bytes for more, fewer in pairwise(made))
    losses = [one.quality["cosine_loss"] for one in made]
    assert losses[0] == 0
    assert all(less < more for less, more in pairwise(losses))


def test_float32_is_its_own_measure_and_every_size_is_timed(outcomes: dict[str, Outcome]) -> None:
    assert [time.speedup for time in outcomes["fp32"].times] == [1.0, 1.0]
    for one in outcomes.values():
        if not one.skipped:
            assert [(time.size, time.rounds) for time in one.times] == [(1, 3), (4, 3)]
            assert all(0 < time.p50_ms <= time.p95_ms for time in one.times)


def test_what_does_not_apply_or_is_not_there_is_listed_with_the_reason(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["int4 of the future"].skipped == "there is no pass 'int4_of_the_future'"
    tables = [one for one in outcomes.values() if "tables" in one.format]
    assert tables
    assert all(one.skipped for one in tables), "a layer has no tables"


def test_a_graph_that_does_not_run_ends_the_study_only_where_it_is_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = precision.GraphSession

    def refuse(path: Path, *, threads: int) -> object:
        if path.stem == broken:
            raise BundleError("broken")
        return opened(path, threads=threads)

    monkeypatch.setattr(precision, "GraphSession", refuse)
    broken = "1"
    first, second = run(_subject(), SMALL, tmp_path, _silent, FORMATS[:2])
    assert (first.skipped, second.skipped) == ("", "could not be made: broken")
    broken = "0"
    with pytest.raises(BundleError):
        run(_subject(), SMALL, tmp_path, _silent, FORMATS[:2])


def test_files_and_table_hold_every_format(outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    document = {"encoder": described(_subject(), list(outcomes.values()), SMALL)}
    write(document, tmp_path)
    held = json.loads((tmp_path / "precision.json").read_text())
    assert [row["format"] for row in held["encoder"]["outcomes"]] == list(outcomes)
    assert (tmp_path / "quality.png").stat().st_size > 10_000
    assert (tmp_path / "latency.png").stat().st_size > 10_000
    text = table("encoder", held["encoder"])
    for name, one in outcomes.items():
        assert (f"| {name} |" in text) == (not one.skipped)
        assert (f"Skipped: {name}: " in text) == bool(one.skipped)


def test_a_ranker_is_trained_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_subjects, "RANKER", DcnV2Settings(cross_layers=1, hidden=(128, 128)))
    monkeypatch.setattr(precision_subjects, "CANDIDATES", (1, 5))
    reference, bf16 = run(ranker(SMALL.impressions, SMALL.epochs, SMALL.seed), SMALL, tmp_path, _silent, FORMATS[:2])
    assert reference.quality["ne_change_pct"] == 0
    assert 0.3 < reference.quality["auc"] < 0.9
    assert bf16.quality["ne_change_low_pct"] <= bf16.quality["ne_change_pct"] <= bf16.quality["ne_change_high_pct"]
    assert abs(bf16.quality["ne_change_pct"]) < 0.1


def test_sentences_come_with_paraphrases_that_share_few_words() -> None:
    told, retold = precision_subjects._pairs(100, 0)
    assert len(set(told)) == len(set(retold)) == 100
    assert (told, retold) == precision_subjects._pairs(100, 0)
    shared = [len(set(a[:-1].lower().split()) & set(b[:-1].replace(",", "").lower().split())) for a, b in zip(told, retold, strict=True)]
    assert np.mean(shared) < 4, "in, the and a, and little more"


def test_without_the_encoder_s_weights_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision_subjects, "WEIGHTS", "not_installed_at_all")
    with pytest.raises(precision_subjects.SubjectMissing, match="not installed"):
        encoder(16, 0)
    assert main(["--quick", "--only", "encoder", "--out", str(tmp_path / "out")]) == 3
    assert "not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_shows_the_figures_of_the_last_run() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, one in json.loads((PAGE.parent / "precision" / "precision.json").read_text()).items():
        assert table(name, one).strip() in page, f"docs/studies/precision.md has other figures of the {name} than precision.json"
