"""A record fits into where it is stored, however many releases, steps and lines it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from k8s.errors import Refused
from k8s.rollout.arms import Release, Weights
from k8s.rollout.phases import Phase
from k8s.rollout.record import MAX_BYTES, MAX_ENTRIES, MAX_WORDS, Entry, Judged, Record
from k8s.rollout.report import decided_by, explain, render_page
from tests.rollouts import OLD, START_S, Town, plan, roll_out

FINDING = {
    "objective": "p99 ratio",
    "status": "pass",
    "sentence": "the canary's p99 is between 0.9 and 1.1 times the baseline's. " * 7,
    "effect": {"value": 1.0, "low": 0.9, "high": 1.1, "unit": "times", "risk": 0.05},
    "canary_samples": 2000,
    "baseline_samples": 2000,
    "evidence": 1.0,
    "evidence_needed": 100.0,
}


def large_record(findings: int = 8, lines: int = MAX_ENTRIES, word: str = "weights ") -> Record:
    """A record of five releases by ten steps, that all passed on requests of two sources and on answers."""
    releases = tuple(Release(f"release-{number}") for number in range(5))
    steps = [{"name": f"step {number}", "weight_pct": number, "samples": 2000} for number in range(10)]
    verdict: dict[str, Any] = {"status": "pass", "sentence": "Passed.", "findings": [FINDING] * findings}
    judged = [
        Judged(at_s=START_S, step=step["name"], attempt=1, source=source, verdict=verdict, release=release.name)
        for step in steps
        for release in releases
        for source in ("synthetic", "live", "answers")
    ]
    line = Entry(at_s=START_S, phase=Phase.STEPPING, step="step 1", what="weights", detail=word * 20, by="engine", weights=Weights())
    return Record(
        id="20261126-000000-aaaa",
        service="ranker",
        engine="engine",
        plan=plan(step=steps, warm_up={}),
        releases=releases,
        old_release=OLD,
        started_s=START_S,
        since_s=START_S,
        step_since_s=START_S,
        verdicts=tuple(judged),
        timeline=tuple(line.model_copy(update={"at_s": START_S + number}) for number in range(lines)),
    )


def _bytes(record: Record) -> int:
    return len(record.to_json().encode())


def test_the_findings_of_the_oldest_verdicts_go_first_and_no_verdict_and_no_line_with_them() -> None:
    large = large_record()
    assert _bytes(large) > MAX_BYTES
    small = large.within()
    assert MAX_BYTES / 4 < _bytes(small) <= MAX_BYTES
    assert small.timeline == large.timeline
    assert [judged.bare() for judged in small.verdicts] == [judged.bare() for judged in large.verdicts]
    assert not small.verdicts[0].verdict["findings"]
    assert small.verdicts[-1] == large.verdicts[-1]
    assert Record.from_json(small.to_json()) == small
    assert explain(small)
    assert "Left out: the record would have been too large" in render_page(small)


def test_where_that_is_not_enough_lines_go_from_the_middle_in_bytes_of_any_script() -> None:
    large = large_record(word="веса ")
    small = large.within(200_000)
    assert _bytes(small) <= 200_000
    assert (small.timeline[0], small.timeline[-1]) == (large.timeline[0], large.timeline[-1])


def test_a_record_that_fits_is_left_alone() -> None:
    record = large_record(findings=1, lines=10)
    assert record.within() is record


def test_what_an_api_server_says_at_length_is_cut(tmp_path: Path) -> None:
    town = Town(tmp_path)

    def refuse(call: str) -> None:
        if call.startswith("write"):
            raise Refused("422: invalid: " + "spec.rules " * 100_000)

    town.before = refuse
    record = roll_out(town)
    assert record.outcome == "rolled_back"
    assert len(record.why) < MAX_WORDS
    assert max(len(entry.detail) for entry in record.timeline) <= MAX_WORDS
    assert decided_by(record) == "engine"
