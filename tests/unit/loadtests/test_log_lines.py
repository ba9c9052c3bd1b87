"""Chunks in a log: each is read once and whole, whatever stands between, comes twice or is missing."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest

from loadtests.log_lines import LogReader, LogWriter
from loadtests.samples import COLUMNS, Samples, joined
from tests.load_samples import made_up


def _written(*chunks: Samples, whole: Samples | None = None) -> list[bytes]:
    """The lines of a log."""
    with tempfile.TemporaryFile() as file:
        writer = LogWriter(file.fileno())
        for chunk in chunks:
            writer.add(chunk)
        if whole is not None:
            writer.end(whole)
        file.seek(0)
        return file.readlines()


@pytest.fixture
def chunks() -> list[Samples]:
    return [made_up(count, seed=count, errors=0.1, arms=("canary", "baseline")) for count in (300, 500, 400)]


def _read(reader: LogReader, lines: list[bytes]) -> list[Samples]:
    return [found for line in lines if (found := reader.read(line)) is not None]


def test_samples_come_back_to_the_microsecond(chunks: list[Samples]) -> None:
    found = _read(LogReader(), _written(*chunks))
    assert len(found) == 3
    for mine, theirs in zip(chunks, found, strict=True):
        for name in ("intended_s", "started_s"):
            np.testing.assert_allclose(getattr(theirs, name), getattr(mine, name), rtol=0, atol=0.5e-6)
        np.testing.assert_allclose(theirs.latency_ms, mine.latency_ms, rtol=0, atol=0.5e-3)
        exact = set(COLUMNS) - {"intended_s", "started_s", "latency_ms"}
        assert all(np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in exact)
        assert (theirs.arms, theirs.error_kinds, theirs.unanswered) == (mine.arms, mine.error_kinds, 0)


def test_lines_are_short_enough_for_any_runtime(chunks: list[Samples]) -> None:
    lines = _written(joined(chunks))
    assert len(lines) > 1
    assert max(map(len, lines)) < 16 * 1024


def test_other_lines_and_lines_that_come_twice_change_nothing(chunks: list[Samples]) -> None:
    lines = _written(*chunks, whole=joined(chunks))
    noise = [
        b"[2026] locust: all users spawned\n",
        b"pilotage-chunk x\n",
        b"pilotage-chunk 9 7/3 1 AAAA\n",
        b"pilotage-end {}\n",
        b"\xff\n",
    ]
    twice = [each for number, line in enumerate(lines) for each in (*noise, *lines[max(number - 2, 0) : number + 1])]
    reader = LogReader()
    assert [len(found) for found in _read(reader, twice)] == [300, 500, 400]
    assert reader.end is not None
    assert (reader.end.requests, reader.lost_chunks, reader.lost_requests) == (1200, 0, 0)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_gap_is_told_and_its_requests_count_as_unanswered(chunks: list[Samples], kept: int) -> None:
    middle = _written(*chunks)
    second = [line for line in middle if line.startswith(b"pilotage-chunk 2 ")]
    lines = [line for line in middle if line not in second[kept:]]
    reader = LogReader()
    found = _read(reader, lines)
    assert [(len(each), each.unanswered) for each in found] == [(300, 0), (400, 500)]
    assert (reader.lost_chunks, reader.lost_requests) == (1, 500)


def test_a_gap_before_the_end_is_told_too(chunks: list[Samples]) -> None:
    lines = _written(*chunks, whole=joined(chunks))
    reader = LogReader()
    found = _read(reader, [line for line in lines if not line.startswith(b"pilotage-chunk 3 ")])
    assert [(len(each), each.unanswered) for each in found] == [(300, 0), (500, 0), (0, 400)]


def test_a_damaged_chunk_is_a_gap(chunks: list[Samples]) -> None:
    damaged = [line.replace(b"A", b"B") if line.startswith(b"pilotage-chunk 2 ") else line for line in _written(*chunks)]
    reader = LogReader()
    assert [len(found) for found in _read(reader, damaged)] == [300, 400]
    assert reader.lost_requests == 500


def test_a_lost_worker_is_told_though_nobody_has_rows(chunks: list[Samples]) -> None:
    nothing = chunks[0].rows(np.zeros(0, dtype=np.int64))
    (found,) = _read(LogReader(), _written(nothing, replace(nothing, lost_workers=1, unanswered=70)))
    assert (len(found), found.lost_workers, found.unanswered) == (0, 1, 70)


def test_a_request_takes_a_few_bytes() -> None:
    """What the documentation says of it; the figure is bytes, not time."""
    for count, most in ((200, 32), (1000, 20)):
        lines = _written(made_up(count, rate_rps=count, lag_ms=0.2, arms=("canary", "baseline")))
        assert sum(map(len, lines)) / count < most


def test_the_writer_writes_to_the_programs_output(chunks: list[Samples], capfd: pytest.CaptureFixture[str]) -> None:
    LogWriter().add(chunks[0])
    assert capfd.readouterr().out.startswith("pilotage-chunk 1 1/")
