"""Recorded requests: sent as they are, or refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.sources.recorded import read_recorded
from serving.contract.errors import SettingsError

GOOD = b'{"user": {"u": 1},  "context": {}, "candidates": [{"id": "a"}, {"id": 2}], "top_k": 1}'


def test_recorded_bodies_keep_their_bytes_and_order(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(GOOD + b'\n\n{"candidates":[{"id":"z"}]}\n')
    first, second = read_recorded(path, max_candidates=10)
    assert first.data == GOOD
    assert (first.candidates, first.ids, first.top_k) == (2, {"a", 2}, 1)
    assert (second.candidates, second.top_k) == (1, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: not a ranking request"),
        (b"[1, 2]", "line 2: not a ranking request"),
        (b"\xff\xfe", "line 2: not a ranking request"),
        (b'{"candidates": []}', "line 2: not a ranking request"),
        (b'{"candidate": [{"id": 1}]}', "line 2: not a ranking request"),
        (b'{"candidates": [{"id": 1}, {"name": 2}]}', r"line 2: candidates\[1\] has the id None"),
        (b'{"candidates": [{"id": 1}, {"id": 2}, {"id": 3}]}', "line 2: 3 candidates, the service takes at most 2"),
    ],
)
def test_a_line_that_is_no_request_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n")
    with pytest.raises(SettingsError, match=message):
        read_recorded(path, max_candidates=2)


def test_an_empty_or_absent_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(SettingsError, match="holds no request"):
        read_recorded(tmp_path / "empty.jsonl", max_candidates=2)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_recorded(tmp_path / "absent.jsonl", max_candidates=2)
