"""The pruning study at a size that says nothing, to see that it runs and adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from optimize.studies.pruning import StudySettings, run, write
from optimize.studies.pruning_summary import Outcome, summarize

TINY = StudySettings(
    impressions=1500, seeds=(0,), epochs=1, fine_tuning_epochs=1, plans=(("none", (0.0,)), ("magnitude", (0.9,)), ("neurons", (0.5,)), ("low_rank", (8.0,)))
)  # fmt: skip


def test_the_study_writes_every_figure_and_a_picture_and_repeats_itself(tmp_path: Path) -> None:
    outcomes = run(TINY, workers=1)
    assert len(outcomes) == 2 * 4 * 3
    kept = {(o.technique, o.training): o.weights_kept for o in outcomes}
    assert kept["none", "none"] == 1
    assert kept["magnitude", "labels"] == pytest.approx(0.1, abs=0.01)
    assert all(0 < share < 0.9 for (technique, _), share in kept.items() if technique != "none")
    write(outcomes, TINY, tmp_path)
    document = json.loads((tmp_path / "pruning.json").read_text())
    assert len(document["summary"]) == len(document["outcomes"]) == len(outcomes)
    assert (tmp_path / "pruning.png").read_bytes()[:4] == b"\x89PNG"


def test_changes_are_from_the_full_model_of_the_same_seed() -> None:
    outcomes = []
    for seed, ne in ((0, 0.8), (1, 0.9)):
        outcomes += [
            Outcome(seed, "clean", "none", 0, "none", 1, ne, 0.7),
            Outcome(seed, "clean", "magnitude", 0.5, "none", 0.5, ne * (1.01 + seed / 100), 0.69),
        ]
    full, pruned = summarize(outcomes)
    assert (full.ne_change_pct, full.ne_change_pct_sd) == (0, 0)
    assert pruned.ne_change_pct == pytest.approx(1.5)
    assert pruned.ne_change_pct_sd == pytest.approx(0.5**0.5)
    assert pruned.auc_change == pytest.approx(-0.01)
