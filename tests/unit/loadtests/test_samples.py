"""Rows of several processes become one table, names and all; files of the version before can be read; broken ones are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtests.recorder import Recorder
from loadtests.samples import NOT_TOLD, Samples, decode_samples, encode_samples, joined, read_samples
from serving.contract.errors import SettingsError


def _recorder(*rows: tuple[float, str, str | None, int]) -> Recorder:
    """Rows of intended start, endpoint, error and arm; each is sent 2 ms late and takes 10 ms."""
    recorder = Recorder(("stable", "canary"), open_loop=True)
    for intended_s, endpoint, error, arm in rows:
        recorder.sent += 1
        recorder.add(intended_s, intended_s + 0.002, 10.0, error, 200 if error is None else 503, endpoint, arm, 7, 3)
    return recorder


def _told(samples: Samples) -> list[tuple[float, str, str, str | None]]:
    return [
        (float(at), samples.endpoints[endpoint], samples.arms[arm], None if error < 0 else samples.error_kinds[error])
        for at, endpoint, arm, error in zip(samples.intended_s, samples.endpoint, samples.arm, samples.error, strict=True)
    ]


def test_parts_are_joined_by_end_and_their_names_numbered_anew() -> None:
    first = _recorder((0.0, "rank", None, 1), (0.4, "rank", "HTTP 503", 0)).samples()
    second = _recorder((0.1, "classify", "no answer: ConnectionResetError", 0), (0.2, "rank", "HTTP 503", 1)).samples()
    whole = joined([first, second])
    assert _told(whole) == [
        (0.0, "rank", "canary", None),
        (0.1, "classify", "stable", "no answer: ConnectionResetError"),
        (0.2, "rank", "canary", "HTTP 503"),
        (0.4, "rank", "stable", "HTTP 503"),
    ]
    assert whole.errors == {"HTTP 503": 2, "no answer: ConnectionResetError": 1}
    np.testing.assert_allclose(whole.lag_ms, 2.0)
    assert _told(whole.of_arm("canary")) == [_told(whole)[0], _told(whole)[2]]


def test_counts_beside_the_rows_add_up_and_survive_the_file() -> None:
    recorder = _recorder((0.0, "rank", None, 0))
    recorder.sent += 4
    whole = decode_samples(encode_samples(joined([recorder.samples(), recorder.samples()])))
    assert (len(whole), whole.unanswered, whole.open_loop, whole.cut_short) == (2, 8, True, False)


def test_chunks_of_a_recorder_are_its_rows() -> None:
    recorder = _recorder((0.0, "rank", None, 0), (0.1, "classify", None, 1))
    assert _told(joined([recorder.chunk(0), recorder.chunk(2)])) == _told(recorder.samples())
    assert _told(recorder.chunk(1)) == [(0.1, "classify", "canary", None)]


def test_no_rows_are_samples_too() -> None:
    assert len(decode_samples(encode_samples(joined([Recorder().samples()])))) == 0


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    columns = {"started_s": [0.0, 1.0], "latency_ms": [1.0, 2.0], "ok": [True, False], "answer_bytes": [1, 2], "candidates": [5, 6]}
    np.savez(tmp_path / "old.npz", schema_version=np.int64(1), **{name: np.array(values) for name, values in columns.items()})
    samples = read_samples(tmp_path / "old.npz")
    assert (samples.size.tolist(), samples.status.tolist(), samples.open_loop) == ([5, 6], [NOT_TOLD, NOT_TOLD], False)
    assert samples.errors == {"not told by the file": 1}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("size", np.zeros(3), "differ in length"),
        ("arm", np.array([7]), "points beyond arms"),
        ("endpoint", np.array([-1]), "points beyond endpoints"),
        ("error", np.array([3]), "points beyond error_kinds"),
        ("ok", np.array([False]), "contradict"),
    ],
)
def test_files_that_contradict_themselves_are_refused(tmp_path: Path, column: str, values: np.ndarray, message: str) -> None:
    (tmp_path / "good.npz").write_bytes(encode_samples(_recorder((0.0, "rank", None, 0)).samples()))
    with np.load(tmp_path / "good.npz") as good:
        np.savez(tmp_path / "bad.npz", **{**good, column: values})
    with pytest.raises(SettingsError, match=message):
        read_samples(tmp_path / "bad.npz")
