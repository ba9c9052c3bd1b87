"""``pilotage train clip`` from scenes to bundle, with so little training that the model is good for nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from optimize.cli.train import app
from optimize.data.scenes.suites import suites
from optimize.embedded import exam
from optimize.embedded.bundle import spec_of
from optimize.embedded.report import REPORT_NAME, ClipReport, Confusion, wilson
from optimize.embedded.run import BUNDLE_FOLDER
from optimize.embedded.towers import INT8, REFERENCE
from serving.contract.bundle import ClipBundle, open_bundle
from serving.runtime.session import GraphSession

pytestmark = pytest.mark.timeout(900)  # torch exports two towers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClipReport]:
    folder = tmp_path_factory.mktemp("clip") / "run"
    words = ["clip", "--out", str(folder), "--scenes", "128", "--epochs", "1", "--threads", "1", "--pictures", "1", "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder, ClipReport.model_validate_json(done.stdout)


def test_command_writes_a_bundle_whose_towers_keep_the_contract(run: tuple[Path, ClipReport]) -> None:
    folder, report = run
    bundle = open_bundle(folder / BUNDLE_FOLDER)
    assert isinstance(bundle, ClipBundle)
    assert bundle.manifest.clip == spec_of(report)
    for path, signature in bundle.graphs.items():
        GraphSession(path, threads=1).require(signature)
    assert ClipReport.model_validate_json((bundle.path / REPORT_NAME).read_bytes()) == report


def test_graphs_answer_as_torch_does(run: tuple[Path, ClipReport]) -> None:
    assert run[1].parity < 1e-5  # measured 6e-7; check_module refuses beyond its own bound


def test_report_has_every_suite_for_both_variants_and_phrasings_that_training_never_used(run: tuple[Path, ClipReport]) -> None:
    report = run[1]
    names = {suite.name for suite in suites("test", 1)}
    assert {suite.name for suite in report.suites} == names | {f"{name}, unseen phrasings" for name in exam.REPHRASED}
    assert all(suite.accuracy.keys() == {REFERENCE, INT8} for suite in report.suites)
    assert sum(map(sum, report.confusion.counts)) == report.suite(exam.MAIN).pictures


def test_page_needs_no_other_file_and_shows_every_suite(run: tuple[Path, ClipReport]) -> None:
    folder, report = run
    page = (folder / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    card = (folder / "README.md").read_text()
    for suite in report.suites:
        assert suite.name in page
        assert suite.name in card


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(Exception, match="left alone"):
        CliRunner().invoke(app, ["clip", "--out", str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_wilson_interval_is_that_of_the_literature() -> None:
    low, high = wilson(0.1, 10)  # 0.0179 to 0.4041, as statsmodels and R's binom.confint have it
    assert (low, high) == (pytest.approx(0.0179, abs=1e-3), pytest.approx(0.4041, abs=1e-3))


def test_worst_mistakes_come_first() -> None:
    confusion = Confusion(suite="x", labels=("a", "b", "c"), counts=((3, 1, 0), (0, 4, 0), (0, 2, 2)))
    assert confusion.worst(5) == [("c", "b", 2, 4), ("a", "b", 1, 4)]
