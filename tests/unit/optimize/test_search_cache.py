"""The cache: whole entries or none, found by content, deaf when told to start afresh."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from optimize.search import cache as module
from optimize.search.cache import MARKER, Cache, DiskError, feeds_digest, key_of


def test_what_was_written_is_read_again_by_another_object(tmp_path: Path) -> None:
    first = Cache(tmp_path / "cache")
    first.write("kind", "key", {"a": [1, 2.5, None]})
    first.write_arrays("kind", "key", {"losses": np.arange(3.0), "told": np.array("text")})
    with first.writing_folder("graphs", "key") as folder:
        (folder / "file").write_text("content")
    again = Cache(tmp_path / "cache")
    assert again.read("kind", "key") == {"a": [1, 2.5, None]}
    arrays = again.read_arrays("kind", "key")
    assert arrays is not None
    np.testing.assert_array_equal(arrays["losses"], [0, 1, 2])
    assert str(arrays["told"]) == "text"
    found = again.read_folder("graphs", "key")
    assert found is not None
    assert (found / "file").read_text() == "content"
    assert (again.read("kind", "other"), again.read_arrays("other", "key"), again.read_folder("graphs", "other")) == (None, None, None)


def test_a_fresh_one_sees_only_what_it_wrote_itself(tmp_path: Path) -> None:
    Cache(tmp_path).write("kind", "old", 1)
    fresh = Cache(tmp_path, fresh=True)
    fresh.write("kind", "new", 2)
    assert (fresh.read("kind", "old"), fresh.read("kind", "new")) == (None, 2)
    assert Cache(tmp_path).read("kind", "old") == 1, "and nothing was lost"


@pytest.mark.parametrize("content", [b"", b'{"half": [1,', b"\x00\xff"])
def test_a_damaged_entry_counts_as_absent(content: bytes, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.write("kind", "key", 1)
    cache.write_arrays("kind", "key", {"x": np.ones(2)})
    (tmp_path / "kind" / "key.json").write_bytes(content)
    (tmp_path / "kind" / "key.npz").write_bytes(content)
    assert (cache.read("kind", "key"), cache.read_arrays("kind", "key")) == (None, None)


def test_a_folder_that_was_not_finished_is_no_entry_and_is_swept_up(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with suppress(RuntimeError), cache.writing_folder("graphs", "key") as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert cache.read_folder("graphs", "key") is None
    assert list((tmp_path / "graphs").iterdir()) == []
    (tmp_path / "graphs" / ".key.killed").mkdir()
    Cache(tmp_path)
    assert list((tmp_path / "graphs").iterdir()) == [], "what a killed process left"


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "name a folder that can be written")])
def test_a_full_disk_is_one_error_that_says_what_to_do(code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    cache.write("kind", "key", "before")

    def fail(*_: object) -> None:
        raise OSError(code, "as the system says it")

    monkeypatch.setattr(module, "write_bytes", fail)
    with pytest.raises(DiskError, match=rf"key\.json cannot be written: as the system says it.*{words}") as raised:
        cache.write("kind", "key", "after")
    assert raised.value.exit_code == 3
    with pytest.raises(DiskError, match=words), cache.writing_folder("graphs", "key"):
        fail()
    assert Cache.read(cache, "kind", "key") == "before"
    assert {path.name for path in tmp_path.rglob("*")} == {MARKER, "kind", "key.json", "graphs"}


def test_keys_tell_contents_apart() -> None:
    feeds = {"x": np.array([1.0, 2.0], np.float32), "id": np.array(["a", "b"], object)}
    same = {name: feeds[name].copy() for name in ("id", "x")}
    assert feeds_digest(feeds) == feeds_digest(same)
    for other in (
        {"x": feeds["x"] + 1},
        {"id": np.array(["a", "c"], object)},
        {"x": feeds["x"].astype(np.float64)},
        {"x": feeds["x"][:, None]},
    ):
        assert feeds_digest({**feeds, **other}) != feeds_digest(feeds)
    assert key_of("a", ["b"]) != key_of("a", "b") != key_of("ab")
