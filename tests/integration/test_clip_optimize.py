"""A clip bundle and labelled pictures to a bundle with faster towers, through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("onnxscript")

from optimize import clip_optimizing
from optimize.cli.clip import app
from optimize.search.budget import Change
from optimize.search.report import OptimizeReport
from optimize.search.search import search
from optimize.search.subject import SubjectError
from serving.clip.prompts import NAMED
from serving.contract.bundle import Bundle, ClipBundle, RankingBundle, open_bundle
from serving.contract.errors import BundleError, PilotageError, SettingsError
from serving.runtime.session import GraphSession
from tests.clip_bundles import COLOURS, tiny_clip_bundle

PICTURES = 200
COARSE = "bf16"
"""Changes both towers, and no answer by much."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_clip_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise about each of the three colours that the bundle knows; every twentieth lies in the wrong folder."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        colour = number % len(COLOURS)
        shown = colour if number % 20 else (colour + 1) % len(COLOURS)
        values = rng.integers(0, 120, (12, 12, 3))
        values[..., shown] += 130
        path = folder / COLOURS[colour] / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the searches of this file share; studies take seconds."""
    return tmp_path_factory.mktemp("cache")


def _run(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["optimize", *map(str, arguments), "--threads", "1", "--rounds", "5", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("budget", [("--max-accuracy-loss", 8), ("--max-cosine-distance", 0.01)], ids=["accuracy", "cosine"])
def test_both_towers_are_searched_and_the_bundle_says_what_they_do_together(
    bundle: ClipBundle, pictures: Path, cache: Path, tmp_path: Path, budget: tuple[str, object]
) -> None:
    out = tmp_path / "out"
    told = _run(bundle.path, pictures, "--out", out, *budget, "--candidate", "fp16", "--candidate", COARSE, "--cache", cache)
    assert list(told["towers"]) == ["image", "text"]
    assert [c["name"] for c in told["towers"]["image"]["candidates"]][:2] == ["fp32", "fp16"]
    assert not any(c["refused"] for tower in told["towers"].values() for c in tower["candidates"])
    opened = open_bundle(out)
    assert isinstance(opened, ClipBundle)
    for path, signature in opened.graphs.items():
        GraphSession(path, threads=1).require(signature)
    quality = opened.manifest.quality
    assert quality.metrics["zero_shot_accuracy"] == told["together"]["accuracy"]
    assert quality.metrics["zero_shot_reference_accuracy"] == pytest.approx(0.95, abs=0.05)
    assert min(quality.metrics["image_cosine"], quality.metrics["text_cosine"]) > 0.99
    assert quality.rows == told["towers"]["image"]["rows"]["test"] == 88
    assert {"optimize/image/report.json", "optimize/text/report.html"} <= opened.manifest.files.keys()
    assert opened.manifest.provenance.variant == "image {image}, text {text}".format(**told["together"]["chosen"])
    assert opened.manifest.clip == bundle.manifest.clip


def test_the_accuracy_of_each_search_is_that_of_the_whole_model(bundle: ClipBundle, pictures: Path, cache: Path, tmp_path: Path) -> None:
    told = _run(bundle.path, pictures, "--out", tmp_path / "out", "--candidate", COARSE, "--cache", cache)
    for tower in ("image", "text"):
        reference = told["towers"][tower]["candidates"][0]
        assert reference["test"]["accuracy"] == pytest.approx(told["together"]["reference_accuracy"])


def test_a_candidate_that_forgets_is_refused_and_the_tower_stays_as_it_is(bundle: ClipBundle, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = _run(bundle.path, pictures, "--out", out, "--tower", "image", "--candidate", "prune_magnitude:sparsity=0.99")
    assert told["together"]["chosen"] == {"image": "fp32", "text": "fp32"}
    assert "accuracy worse by" in told["towers"]["image"]["candidates"][1]["refused"]
    assert list(told["towers"]) == ["image"]
    opened = open_bundle(out)
    assert isinstance(opened, ClipBundle)
    feeds = {"pixels": np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)}
    before, after = (GraphSession(one.image_path, threads=1).run(feeds)[0] for one in (bundle, opened))
    np.testing.assert_array_equal(before, after)


def test_the_text_tower_is_put_back_where_both_together_are_over_the_budget(
    bundle: ClipBundle, pictures: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(*arguments: Any) -> OptimizeReport:
        return search(*arguments).model_copy(update={"chosen": COARSE})  # whatever was faster this time

    def judged(*arguments: Any) -> clip_optimizing.Together:
        together = judge(*arguments)
        both = "fp32" not in together.chosen.values()
        return together.model_copy(update={"change": Change(9.0, 8.0, 10.0)}) if both else together

    judge = clip_optimizing._judge
    monkeypatch.setattr(clip_optimizing, "search", chosen)
    monkeypatch.setattr(clip_optimizing, "_judge", judged)
    arguments = (bundle.path, pictures, "--candidate", COARSE, "--cache", cache, "--out")
    told = _run(*arguments, tmp_path / "tight", "--max-accuracy-loss", 5)["together"]
    assert told["chosen"] == {"image": COARSE, "text": "fp32"}
    assert "worse by +9 points, maybe by up to +10 points; the budget is +5 points: the text tower stays" in told["reason"]
    assert _run(*arguments, tmp_path / "wide", "--max-accuracy-loss", 11)["together"]["chosen"] == {"image": COARSE, "text": COARSE}


def test_what_cannot_be_searched_with_is_refused_by_name(
    bundle: ClipBundle, tiny_bundle: RankingBundle, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="is of the family 'ranking'; `pilotage optimize` takes the run of a ranker"):
        _run(tiny_bundle.path, pictures, "--out", tmp_path / "out")
    with pytest.raises(BundleError, match="exists already"):
        _run(bundle.path, pictures, "--out", bundle.path)
    with pytest.raises(SettingsError, match="--tower 'audio' is neither"):
        _run(bundle.path, pictures, "--tower", "audio")
    with pytest.raises(PilotageError, match="version 'a b' is not allowed"):
        _run(bundle.path, pictures, "--out", tmp_path / "out", "--version", "a b")
    for colour in COLOURS[:2]:
        (tmp_path / "few" / colour).mkdir(parents=True)
        Image.new("RGB", (4, 4), colour).save(tmp_path / "few" / colour / "1.png")
    with pytest.raises(SubjectError, match="few has 2 pictures, 16 are needed"):
        _run(bundle.path, tmp_path / "few", "--out", tmp_path / "out")
    for number in range(16):
        (tmp_path / "few/red" / f"x{number}.png").write_bytes(b"no picture")
    with pytest.raises(SubjectError, match=r"few/red/x\d+\.png cannot be read"):
        _run(bundle.path, tmp_path / "few", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prompts_that_judge_the_cosine_last_are_not_those_that_choose() -> None:
    others = [text for text in NAMED["imagenet80"] if text not in NAMED["single"]]
    assert not set(others[1::2]) & (set(NAMED["single"]) | set(others[::20]))
