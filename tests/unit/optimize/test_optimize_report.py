"""``report.json``, ``report.html`` and ``run.json``: what is written can be read, and a page needs nothing else."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from optimize.features.collisions import FieldCollisions
from optimize.models.registry import WideDeepSettings
from optimize.search.budget import Change
from optimize.search.machine import Machine
from optimize.search.measure import Latency
from optimize.search.page import render
from optimize.search.report import (
    REPORT_NAME,
    BudgetRecord,
    CandidateRecord,
    LayerSensitivity,
    OperatorTime,
    OptimizeReport,
    Technique,
    read_report,
)
from optimize.search.scores import differences
from optimize.search.subject import Agreement
from optimize.training.loop import EpochReport
from optimize.training.recipe import DataSettings, Recipe
from optimize.training.records import RUN_NAME, Contender, RunRecord, read_run
from serving.contract.errors import PilotageError
from serving.contract.fields import FeatureSpec
from serving.contract.manifest import Calibration

METRICS = {"log_loss": 0.4, "ne": 0.9, "auc": 0.71, "gauc": 0.6, "ndcg@10": 0.5, "calibration_ratio": 1.01, "ece": 0.01}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = '<script>alert("$x^2$")</script>'


def _candidate(name: str, p50_ms: float, refused: str | None = None, *, built: bool = True) -> CandidateRecord:
    latency = tuple(Latency(size=size, p50_ms=p50_ms, p95_ms=2 * p50_ms, rounds=5) for size in (1, 500))
    judged = built and name != "fp32"
    return CandidateRecord(
        name=name,
        passes=() if name == "fp32" else (name,),
        changes=f"changes of {name}",
        size_bytes=1000 if built else None,
        peak_memory_bytes=5_000_000 if built else None,
        change=Change(value=0.5, low=0.4, high=0.6) if judged else None,
        test_change=Change(value=0.55, low=0.4, high=0.7) if judged else None,
        validation=METRICS if built else {},
        test=METRICS if built else {},
        differences=differences(np.linspace(0, 1, 50), np.linspace(0, 0.9, 50)) if judged else None,
        latency=latency if built else (),
        refused=refused,
    )


def _report(run: str = "a-run", word: str = "x") -> OptimizeReport:
    candidates = (
        _candidate("fp32", 4.0),
        _candidate("int8_dynamic", 2.0, "NE worse by up to 0.600 %, the budget is 0.1 %"),
        _candidate("fp16", 3.0, "could not be built: <RuntimeError>", built=False),
    )
    return OptimizeReport(
        created_at=NOW, seconds=1.0, run=run, data=HOSTILE, family="ranking", rows={"validation": 10, "test": 10},
        fingerprints={"validation": "ab", "test": "cd"}, budget=BudgetRecord(metric="ne", limit=0.1, unit="%", confidence=0.95, looks=2),
        parity_tolerance=1e-5, parity=(Agreement(size=1, max_difference=1e-7),), size_unit="candidates", decisive_size=500,
        candidates=candidates, chosen="fp32", reason="fp32 takes 4.00 ms", explanation=(f"because of {word}",),
        sensitivity=(LayerSensitivity(layer=f"layer {word}", weights=10, change=0.1, max_difference=0.2),),
        operators=(OperatorTime(operator=f"Gemm{word}", before_ms=1.0, after_ms=0.0),),
        techniques=(Technique(name="Quantization", headline=f"2× {word}", measured={f"before {word}": 1.0}, words=f"so {word}"),),
        machine=Machine(cpu="a CPU", flags=("avx2",), cores=2, threads=1), versions={"torch": "2"},
    )  # fmt: skip


@pytest.fixture
def run(tiny_spec: FeatureSpec) -> RunRecord:
    collisions = FieldCollisions(name="id", buckets=64, ids_seen=9, buckets_hit=8, collisions=1, expected_collisions=0.6, table_bytes=4)
    return RunRecord(
        created_at=NOW, recipe=Recipe(data=DataSettings(source="clicks"), model=WideDeepSettings()), features=tiny_spec, seed=0, data="clicks",
        rows={"train": 80, "validation": 10, "test": 10}, fingerprints={"train": "0", "validation": "1", "test": "2"},
        calibration=Calibration(method="none", scale=1.0, offset=0.0),
        contenders=tuple(Contender(name=name, chosen=HOSTILE, metrics=METRICS) for name in ("wide_deep", "LightGBM")),
        best_possible_log_loss=0.3, collisions=(collisions,), epochs=(EpochReport(epoch=1, loss=0.5, validation_auc=0.7, seconds=1.0),),
    )  # fmt: skip


def test_report_survives_a_round_trip(tmp_path: Path) -> None:
    report = _report()
    (tmp_path / REPORT_NAME).write_text(report.model_dump_json())
    assert read_report(tmp_path) == report


def test_run_record_survives_a_round_trip(run: RunRecord, tmp_path: Path) -> None:
    (tmp_path / RUN_NAME).write_text(run.model_dump_json())
    assert read_run(tmp_path) == run


def test_a_folder_without_the_file_says_which_command_writes_it(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match=r"is not a run folder.*`pilotage train` makes one"):
        read_run(tmp_path)
    with pytest.raises(PilotageError, match="cannot be read; `pilotage optimize` writes it"):
        read_report(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 2}', '{"schema_version": "2"}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    for name, read in ((RUN_NAME, read_run), (REPORT_NAME, read_report)):
        (tmp_path / name).write_text(text)
        with pytest.raises(PilotageError, match=re.escape(str(tmp_path / name))):
            read(tmp_path)


def test_another_schema_version_is_refused(run: RunRecord, tmp_path: Path) -> None:
    for name, document, read, other in ((RUN_NAME, run, read_run, 2), (REPORT_NAME, _report(), read_report, 3)):
        (tmp_path / name).write_text(json.dumps({**json.loads(document.model_dump_json()), "schema_version": other}))
        with pytest.raises(PilotageError, match=r"schema.version"):
            read(tmp_path)


def test_the_report_of_an_earlier_release_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / REPORT_NAME).write_text('{"schema_version": 1, "max_ne_increase_pct": 0.1, "candidates": []}')
    with pytest.raises(PilotageError, match=r"report.json has schema version 1, this release reads 2; run `pilotage optimize` again"):
        read_report(tmp_path)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / REPORT_NAME).write_text(json.dumps({**json.loads(_report().model_dump_json()), "extra": 1}))
    with pytest.raises(PilotageError, match="extra"):
        read_report(tmp_path)


def test_page_needs_nothing_else(run: RunRecord) -> None:
    page = render(_report(), run)
    references = re.findall(r"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]+)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert len(references) == 6, "the pictures: front, latencies, differences, layers, operators, training"
    assert all(reference.startswith("data:image/png;base64,") for reference in references)
    assert "<script" not in page
    assert "@import" not in page
    assert "<link" not in page


def test_page_escapes_what_it_is_given(run: RunRecord) -> None:
    page = render(_report(run=HOSTILE, word=HOSTILE), run)
    assert HOSTILE not in page
    assert page.count(html.escape(HOSTILE, quote=False).replace('"', "&#34;")) >= 8, "title, heading, data, settings, why, techniques"
    assert "&lt;RuntimeError&gt;" in page


def _cells(page: str, variant: str) -> list[str]:
    row = next(row for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL) if f'<td class="name">{variant}</td>' in row)
    return [cell.strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]


def test_page_shows_verdicts_with_their_reasons(run: RunRecord) -> None:
    page = render(_report(), run)
    assert _cells(page, "fp32")[-1] == "chosen"
    assert _cells(page, "int8_dynamic")[-1] == "NE worse by up to 0.600 %, the budget is 0.1 %"
    assert _cells(page, "fp16")[-1].startswith("could not be built")


def test_page_calls_only_the_reference_the_reference(run: RunRecord) -> None:
    page = render(_report(), run)
    assert "reference" in _cells(page, "fp32")
    assert "+0.5 <span>(+0.4 … +0.6)</span>" in _cells(page, "int8_dynamic")
    assert "reference" not in _cells(page, "fp16"), "what could not be built has no change to show"
    assert len({len(_cells(page, name)) for name in ("fp32", "int8_dynamic", "fp16")}) == 1, "no column slips"


def test_a_page_of_another_model_has_no_training_and_no_hashing() -> None:
    page = render(_report())
    assert "Hashing" not in page
    assert "baselines" not in page
    assert "Five techniques" in page
