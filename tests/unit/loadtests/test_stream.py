"""Chunks are read in order, each once and whole; an earlier test's are gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.recorder import Recorder
from loadtests.samples import Samples, joined
from loadtests.stream import END_NAME, StreamReader, StreamWriter, chunk_path
from serving.contract.errors import SettingsError


def _samples(count: int) -> Samples:
    recorder = Recorder(open_loop=True)
    for number in range(count):
        recorder.sent += 1
        recorder.add(number, number, 1.0, None, 200, "rank", 0, 1, 1)
    return recorder.samples()


def test_chunks_are_read_once_and_in_order(tmp_path: Path) -> None:
    writer, reader = StreamWriter(tmp_path), StreamReader(tmp_path)
    assert reader.new() == []
    writer.add(_samples(3))
    writer.add(_samples(0))
    writer.add(_samples(2))
    assert [len(chunk) for chunk in reader.new()] == [3, 2]
    assert (reader.new(), reader.end()) == ([], None)
    writer.end(joined([_samples(3), _samples(2)]))
    end = reader.end()
    assert end is not None
    assert (end.chunks, end.requests, end.cut_short, end.generator.valid) == (2, 5, False, True)


def test_a_new_test_removes_what_an_earlier_one_left(tmp_path: Path) -> None:
    StreamWriter(tmp_path).add(_samples(1))
    (tmp_path / END_NAME).write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    StreamWriter(tmp_path)
    assert not chunk_path(tmp_path, 1).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_end_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / END_NAME).write_text("{}")
    with pytest.raises(SettingsError, match=r"end\.json cannot be read"):
        StreamReader(tmp_path).end()
