"""The bundle of the small CLIP that the repository carries."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from optimize.data.scenes.suites import suites
from optimize.embedded import exam
from optimize.embedded.report import REPORT_NAME, ClipReport, wilson
from optimize.embedded.run import MAX_LOSS
from optimize.embedded.towers import INT8, REFERENCE, GraphTowers
from optimize.training.zero_shot import accuracy, draw_exams
from pilotage.demo import EMBEDDED
from serving.contract.bundle import ClipBundle, open_bundle

MAX_BYTES = 5 * 2**20


@pytest.fixture(scope="module")
def shipped() -> tuple[ClipBundle, ClipReport]:
    bundle = open_bundle(EMBEDDED)
    assert isinstance(bundle, ClipBundle)
    return bundle, ClipReport.model_validate_json((bundle.path / REPORT_NAME).read_bytes())


def test_shipped_bundle_is_small_and_says_what_it_is(shipped: tuple[ClipBundle, ClipReport]) -> None:
    bundle, report = shipped
    assert sum(entry.size_bytes for entry in bundle.manifest.files.values()) <= MAX_BYTES
    card = (bundle.path / "README.md").read_text()
    assert "## Limits" in card
    assert f"{100 * report.suite(exam.MAIN).accuracy[report.chosen]:.1f} %" in card


def test_shipped_model_reaches_its_aims_on_what_it_has_never_seen(shipped: tuple[ClipBundle, ClipReport]) -> None:
    report = shipped[1]
    main = report.suite(exam.MAIN)
    assert main.choices >= 30
    assert main.accuracy[report.chosen] >= 0.9
    assert main.accuracy[INT8] >= main.accuracy[REFERENCE] - MAX_LOSS


def test_shipped_graphs_are_as_good_as_their_report_says(shipped: tuple[ClipBundle, ClipReport]) -> None:
    bundle, report = shipped
    towers = GraphTowers(bundle.path, Tokenizer.from_file(str(bundle.tokenizer_path)), threads=1)
    (main,) = draw_exams([suite for suite in suites("test", 4) if suite.name == exam.MAIN])  # other pictures than the report's
    low, _ = wilson(report.suite(exam.MAIN).accuracy[report.chosen], len(main.pixels), z=3.3)  # a thousandth of honest runs are below
    assert accuracy(main, towers) > low


def test_shipped_model_takes_one_picture_as_it_takes_many(shipped: tuple[ClipBundle, ClipReport]) -> None:
    bundle = shipped[0]
    towers = GraphTowers(bundle.path, Tokenizer.from_file(str(bundle.tokenizer_path)), threads=1)
    pixels = suites("test", 1)[0].pictures()[:8]
    together, alone = towers.images(pixels), np.concatenate([towers.images(pixels[at : at + 1]) for at in range(8)])
    assert (together * alone).sum(axis=1).min() > 0.98  # int8 has one scale for all activations of a run
