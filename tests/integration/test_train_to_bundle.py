"""The real commands, from synthetic clicks to a bundle that answers; and what they say when they are used wrongly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from optimize.search.report import read_report
from optimize.training.records import read_run
from pilotage.cli import main
from serving.contract.bundle import open_bundle
from serving.ranking.ranker import Ranker

RECIPE = """
[data]
source = "clicks"
impressions = 6000
negative_sampling_rate = 0.5

[model]
architecture = "dcn_v2"
cross_layers = 1
hidden = [8]

[training]
epochs = 1
batch_size = 256
"""

CANDIDATES = ("--candidate", "fp16", "--candidate", "int8_dynamic", "--candidate", "fuse_attention")
NAMES = ["fp32", "fp16", "int8_dynamic", "fuse_attention"]

HEAVY = ("torch", "bentoml", "locust", "gevent", "onnxruntime", "onnx", "numpy", "lightgbm", "matplotlib")
WRONG_USE = 2


def _pilotage(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pilotage.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)


def _in_process(*arguments: str | Path, capfd: pytest.CaptureFixture[str]) -> subprocess.CompletedProcess[str]:
    """The same command without a new interpreter, which would import torch for every mistake."""
    command = ["pilotage", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            main()
    code = end.value.code
    return subprocess.CompletedProcess(command, code if isinstance(code, int) else 0, *capfd.readouterr())


@dataclass(frozen=True)
class Pipeline:
    folder: Path
    train: subprocess.CompletedProcess[str]
    optimize: subprocess.CompletedProcess[str]
    create: subprocess.CompletedProcess[str]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "small.toml").write_text(RECIPE)
    return Pipeline(
        folder,
        _pilotage("train", "--recipe", "small.toml", "--out", "run", "--threads", "1", "--seed", "3", "--json", cwd=folder),
        # The recipe's model is hardly trained, and the test is not about it: a wide budget, so that nothing depends on its noise.
        _pilotage("optimize", "run", "--rounds", "5", "--threads", "1", "--max-ne-increase-pct", "50", *CANDIDATES, "--json", cwd=folder),
        _pilotage("bundle", "create", "run", "--out", "bundle", "--version", "7", cwd=folder),
    )


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_step_succeeds(pipeline: Pipeline) -> None:
    for step in (pipeline.train, pipeline.optimize, pipeline.create):
        assert step.returncode == 0, step.stderr
        assert "Traceback" not in step.stderr
        assert "Warning" not in step.stderr


def test_train_prints_the_run_record_and_writes_the_run(pipeline: Pipeline) -> None:
    record = read_run(pipeline.run)
    assert json.loads(pipeline.train.stdout) == json.loads((pipeline.run / "run.json").read_text())
    assert _files(pipeline.run) >= {"run.json", "model.safetensors", "validation.arrow", "test.arrow", "requests.jsonl"}
    assert (record.rows["validation"], record.rows["test"], record.seed) == (600, 600, 3)
    assert record.rows["train"] < 4800, "negatives were down-sampled"
    assert [contender.name for contender in record.contenders] == ["dcn_v2", "logistic regression", "LightGBM"]
    assert record.best_possible_log_loss is not None
    assert all(contender.metrics["log_loss"] > record.best_possible_log_loss for contender in record.contenders)
    assert record.calibration.negative_sampling_rate == 0.5
    # 600 rows at 12 to 20 % clicks: the ratio's deviation is 0.1. Without the correction it would be near 1.7.
    assert 0.6 < record.contenders[0].metrics["calibration_ratio"] < 1.4


def test_optimize_prints_the_report_and_writes_the_variants(pipeline: Pipeline) -> None:
    folder = pipeline.run / "variants"
    report = read_report(folder)
    assert json.loads(pipeline.optimize.stdout) == json.loads((folder / "report.json").read_text())
    assert _files(folder) == {"report.json", "report.html"} | {
        f"{name}.{kind}" for name in ("fp32", "fp16", "int8_dynamic") for kind in ("onnx", "weights")
    }
    assert [candidate.name for candidate in report.candidates] == NAMES
    assert (report.candidates[3].refused or "").startswith("fuse_attention does not apply: the model has no")
    assert report.budget.looks == 3
    assert all(latency.rounds == 5 for candidate in report.candidates for latency in candidate.latency)
    assert report.rows == {"validation": 525, "test": 600}, "an eighth of the validation part calibrates"
    assert next(c for c in report.candidates if c.name == report.chosen).refused is None


def test_the_reference_scores_like_the_trained_model(pipeline: Pipeline) -> None:
    trained = read_run(pipeline.run).contenders[0].metrics
    exported = read_report(pipeline.run / "variants").candidates[0].test
    assert exported["log_loss"] == pytest.approx(trained["log_loss"], abs=1e-6)
    assert exported["auc"] == pytest.approx(trained["auc"], abs=1e-4), "a pair of nearly equal scores may change places"


def test_bundle_holds_the_chosen_graph(pipeline: Pipeline) -> None:
    report, manifest = read_report(pipeline.run / "variants"), open_bundle(pipeline.bundle).manifest
    assert _files(pipeline.bundle) == {
        "manifest.json", "model.onnx", f"{report.chosen}.weights", "optimize/report.json", "optimize/report.html",
    }  # fmt: skip
    assert (pipeline.bundle / "model.onnx").read_bytes() == (pipeline.run / "variants" / f"{report.chosen}.onnx").read_bytes()
    assert (pipeline.bundle / f"{report.chosen}.weights").read_bytes() == (
        pipeline.run / "variants" / f"{report.chosen}.weights"
    ).read_bytes()
    assert (manifest.name, manifest.version, manifest.provenance.variant) == ("clicks-dcn-v2", "7", report.chosen)
    assert manifest.quality.data_fingerprint == report.fingerprints["test"]
    assert manifest.quality.metrics == next(c for c in report.candidates if c.name == report.chosen).test


def test_bundle_answers_the_requests_of_the_run(pipeline: Pipeline) -> None:
    ranker = Ranker(open_bundle(pipeline.bundle), threads=1, max_candidates=500)
    lines = (pipeline.run / "requests.jsonl").read_bytes().splitlines()
    assert len(lines) == 200
    for line in lines[:40]:
        sent = json.loads(line)
        ranking = ranker.rank(ranker.decoder.decode(line))
        assert len(ranking.ids) == min(10, len(sent["candidates"]))
        assert set(ranking.ids) <= {candidate["id"] for candidate in sent["candidates"]}
        assert (np.diff(ranking.probabilities) <= 0).all()
        assert ((ranking.probabilities > 0) & (ranking.probabilities < 1)).all()


def test_verify_accepts_the_bundle_and_refuses_a_changed_one(pipeline: Pipeline, tmp_path: Path) -> None:
    good = _pilotage("bundle", "verify", pipeline.bundle, cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert "all checksums hold" in good.stdout
    changed = shutil.copytree(pipeline.bundle, tmp_path / "changed")
    graph = bytearray((changed / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (changed / "model.onnx").write_bytes(graph)
    _refused(_pilotage("bundle", "verify", changed, cwd=tmp_path), "'model.onnx' was altered")


def _refused(step: subprocess.CompletedProcess[str], *words: str) -> None:
    """One message, on stderr, exit code 2."""
    assert step.returncode == WRONG_USE, step.stderr
    assert step.stdout == ""
    assert step.stderr.count("error: ") == 1
    assert "Traceback" not in step.stderr
    for word in words:
        assert word in step.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], ["--data-path"]),
        (["train", "--data-path", "nowhere"], ["nowhere holds no MovieLens-100k"]),
        (["train", "--model", "resnet"], ["there is no recipe movielens/resnet", "movielens/dcn_v2"]),
        (["train", "--data", "criteo"], ["there is no recipe criteo/dcn_v2", "clicks/wide_deep"]),
        (["train", "--recipe", "absent.toml"], ["absent.toml cannot be read as a recipe"]),
        (["train", "--recipe", "misspelt.toml"], ["misspelt.toml is not a valid recipe", "data.impresions"]),
        (["train", "--data", "clicks", "--features", "absent.toml"], ["absent.toml cannot be read as a feature specification"]),
        (["optimize", "nothing"], ["nothing is not a run folder", "pilotage train"]),
        (["bundle", "create", "nothing"], ["nothing is not a run folder"]),
        (["bundle", "verify", "nothing"], ["nothing", "no such folder"]),
    ],
)
def test_wrong_use_is_one_message_and_leaves_nothing(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "misspelt.toml").write_text(RECIPE.replace("impressions", "impresions"))
    _refused(_in_process(*arguments, capfd=capfd), *words)
    assert _files(tmp_path) == {"misspelt.toml"}


def test_a_run_that_was_not_optimized_makes_no_bundle(pipeline: Pipeline, tmp_path: Path) -> None:
    shutil.copytree(pipeline.run, tmp_path / "run", ignore=shutil.ignore_patterns("variants"))
    _refused(_pilotage("bundle", "create", "run", "--out", "bundle", cwd=tmp_path), "report.json", "pilotage optimize")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "int8_dynamic"], ["variant 'int8_dynamic' was refused: NE worse"]),
        (["--variant", "int4"], ["there is no variant 'int4'", "fp32, fp16, int8_dynamic, fuse_attention"]),
        (["--name", "Bad Name"], ["name 'Bad Name' is not allowed: String should match pattern"]),
    ],
)
def test_what_may_not_be_shipped_makes_no_bundle(
    options: list[str], words: list[str], pipeline: Pipeline, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(pipeline.run, tmp_path / "run")
    report = json.loads((run / "variants" / "report.json").read_text())
    report["candidates"][2]["refused"] = "NE worse by up to 9.000 %, the budget is 0.1 %"
    report["chosen"] = "fp32"
    (run / "variants" / "report.json").write_text(json.dumps(report))
    _refused(_in_process("bundle", "create", run, "--out", tmp_path / "bundle", *options, capfd=capfd), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_bundle_is_replaced_only_when_asked(pipeline: Pipeline, tmp_path: Path) -> None:
    bundle = shutil.copytree(pipeline.bundle, tmp_path / "bundle")
    create = ["bundle", "create", pipeline.run, "--out", bundle, "--version", "8"]
    _refused(_pilotage(*create, cwd=tmp_path), "exists already")
    assert open_bundle(bundle).manifest.version == "7"
    assert _pilotage(*create, "--replace", cwd=tmp_path).returncode == 0
    assert open_bundle(bundle).manifest.version == "8"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_somebody_elses_folder_is_never_replaced(pipeline: Pipeline, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    _refused(_in_process("bundle", "create", pipeline.run, "--out", tmp_path, "--replace", capfd=capfd), "left alone")
    assert _files(tmp_path) == {"thesis.txt"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["optimize", "--help"], ["bundle", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pilotage.cli import main\n"
        f"sys.argv = ['pilotage', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    step = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert step.returncode == 0, step.stderr
    assert "Usage" in step.stdout
    assert step.stdout.splitlines()[-1] == "LOADED"
