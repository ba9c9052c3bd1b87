"""What is left of a rollout: the weights over time, why it ended so, who decided, and pages that hold nothing foreign."""

from __future__ import annotations

import json
from pathlib import Path

from k8s.rollout.arms import Release, Weights
from k8s.rollout.disk import DiskJournal
from k8s.rollout.record import Record
from k8s.rollout.report import as_document, decided_by, explain, exposure_pct_s, history_rows, render_page, spans, write_report
from tests.rollouts import Town, roll_out


def test_the_weights_over_time_are_those_that_were_written(tmp_path: Path) -> None:
    record = roll_out(Town(tmp_path))
    found = spans(record)
    assert [span.weights for span in found] == [Weights(), Weights(80, 10, 10), Weights(50, 0, 50), Weights()]
    assert [span.to_s for span in found[:-1]] == [span.from_s for span in found[1:]]
    assert exposure_pct_s(record) > 0


def test_a_promotion_is_explained_with_every_verdict(tmp_path: Path) -> None:
    record = roll_out(Town(tmp_path))
    assert decided_by(record) == "judge"
    lines = explain(record)
    assert lines[0].startswith("new over old, plan test: promoted")
    assert "at most 50 % of live traffic" in "\n".join(lines)
    assert sum("✓ p50 ratio" in line for line in lines) == 3


def test_a_rollback_says_what_was_shown_and_that_the_judge_decided(tmp_path: Path) -> None:
    record = roll_out(Town(tmp_path, slow=2.0))
    assert decided_by(record) == "judge"
    lines = explain(record)
    assert "rolled back" in lines[0]
    assert "Decided by judge" in lines[1]
    assert "No live request was sent to a canary." in lines
    assert any("✗ p50 ratio" in line for line in lines)


def test_what_the_engine_saw_itself_is_told_as_the_engine_s(tmp_path: Path) -> None:
    assert decided_by(roll_out(Town(tmp_path, dies=True))) == "engine"


def test_a_rollout_under_way_is_told_as_such(tmp_path: Path) -> None:
    record = roll_out(Town(tmp_path)).model_copy(update={"outcome": None, "ended_s": None, "why": ""})
    assert "not over" in explain(record)[0]
    assert decided_by(record) == "nobody yet"


def test_the_history_has_the_newest_first(tmp_path: Path) -> None:
    town = Town(tmp_path)
    roll_out(town)
    rows = history_rows(
        [record.model_copy(update={"id": name}) for name, record in zip("ab", 2 * DiskJournal(tmp_path / "journal").history(), strict=True)]
    )
    assert [row["id"] for row in rows] == ["b", "a"]
    assert rows[0]["outcome"] == "promoted"


def test_the_files_hold_the_record_and_what_follows_from_it(tmp_path: Path) -> None:
    record = roll_out(Town(tmp_path))
    page = write_report(record, tmp_path / "report")
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert document == json.loads(json.dumps(as_document(record)))
    assert Record.model_validate(document["record"]) == record
    assert "promoted" in page.read_text()


def test_names_and_logs_from_elsewhere_are_escaped(tmp_path: Path) -> None:
    record = roll_out(Town(tmp_path, slow=2.0)).model_copy(update={"release": Release("<script>alert(1)</script>"), "why": "<b>log</b>"})
    page = render_page(record)
    assert "<script>" not in page
    assert "<b>log</b>" not in page
    assert "http" not in page.replace("http-equiv", "")
