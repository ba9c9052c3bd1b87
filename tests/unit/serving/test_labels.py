"""Labels: what a list must keep to, keys by content, what is kept in memory and on disk, and named sets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from serving.clip import label_store
from serving.clip.label_rules import MAX_LABEL_LENGTH, MAX_VIOLATIONS, require_labels
from serving.clip.label_sets import LabelSets, UnknownLabelSet
from serving.clip.label_store import LabelStore
from serving.clip.labels import ENTRY_BYTES, Kept, label_keys, list_key
from serving.clip.prompts import templates_of
from serving.contract.errors import InvalidRequest

SINGLE, SIMPLE = templates_of("single", "single"), templates_of("simple", "single")
DIM = 8


def _rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def _stored(store: LabelStore) -> dict[bytes, list[float]]:
    return {key: row.tolist() for keys, rows in store.read_new() for key, row in zip(keys, rows, strict=True)}


@pytest.mark.parametrize(
    ("labels", "path", "rule"),
    [
        ([], "$.labels", "at least one label"),
        (["a"] * 12, "$.labels", "at most 11 labels"),
        (["a", "b", "a"], "$.labels[2]", "the same label as $.labels[0]"),
        (["a", ""], "$.labels[1]", "something to read"),
        (["\u2003 "], "$.labels[0]", "something to read"),
        (["a\x00b"], "$.labels[0]", "control characters"),
        (["a\nb"], "$.labels[0]", "control characters"),
        (["a\x85b"], "$.labels[0]", "control characters"),
        (["a\u2028b"], "$.labels[0]", "control characters"),
        (["a\ud800"], "$.labels[0]", "control characters"),
        (["x" * (MAX_LABEL_LENGTH + 1)], "$.labels[0]", f"at most {MAX_LABEL_LENGTH} characters"),
    ],
)
def test_labels_that_break_a_rule_are_named(labels: list[str], path: str, rule: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        require_labels(labels, 11)
    violation = caught.value.violations[0]
    assert violation.path == path
    assert rule in violation.rule
    assert (violation.value or "").encode()  # can be answered


def test_labels_in_any_script_are_taken_as_they_are() -> None:
    require_labels(["Katze", "猫", "قطة", "cat's eye – {}", "🐈‍⬛", " cat", "cat"], 11)


def test_a_refusal_stays_small_however_many_labels_are_bad() -> None:
    with pytest.raises(InvalidRequest) as caught:
        require_labels(["same"] * 5000, 5000)
    assert len(caught.value.violations) == MAX_VIOLATIONS


def test_keys_follow_from_tower_templates_and_label_alone() -> None:
    (key,) = label_keys("tower", SINGLE, ["cat"])
    assert len(key) == 32
    assert label_keys("tower", SINGLE, ["dog", "cat"])[1] == key
    assert label_keys("tower", templates_of(list(SINGLE.texts), "simple"), ["cat"]) == [key], "the name of a template set is nothing"
    others = [label_keys("tower2", SINGLE, ["cat"]), label_keys("tower", SIMPLE, ["cat"]), label_keys("tower", SINGLE, ["cats"])]
    assert len({key, *(other[0] for other in others)}) == 4
    lists = [("tower", SINGLE, ["a", "b"]), ("tower", SINGLE, ["b", "a"]), ("tower", SINGLE, ["ab"]), ("tower", SIMPLE, ["a", "b"])]
    assert len({list_key(*each) for each in lists}) == 4


def test_what_was_used_last_is_kept_within_the_bound() -> None:
    each = 4 * DIM + ENTRY_BYTES
    kept = Kept(3 * each)
    for name in "abc":
        kept.keep(name, _rows(1)[0])
    assert kept.get("a") is not None
    kept.keep("d", _rows(1)[0])
    assert [kept.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert kept.size_bytes == 3 * each
    kept.keep("d", _rows(1)[0])
    assert (len(kept), kept.count(["a", "b"])) == (3, 1)
    kept.keep("huge", _rows(100))
    assert len(kept) <= 3


def test_a_row_that_is_kept_does_not_keep_the_matrix_that_it_came_from() -> None:
    kept, matrix = Kept(10**6), _rows(1000)
    kept.keep("row", matrix[3])
    found = kept.get("row")
    assert found is not None
    assert found.base is None
    np.testing.assert_array_equal(found, matrix[3])


def test_embeddings_on_disk_are_found_by_another_worker_once(tmp_path: Path) -> None:
    first, second = (LabelStore(tmp_path, "f" * 64, DIM, 10**6) for _ in range(2))
    assert _stored(second) == {}
    first.add([b"a" * 32, b"b" * 32], rows := _rows(2))
    assert _stored(second) == {b"a" * 32: rows[0].tolist(), b"b" * 32: rows[1].tolist()}
    assert _stored(second) == {}
    assert _stored(first) == {}, "its own"
    assert _stored(LabelStore(tmp_path, "e" * 64, DIM, 10**6)) == {}, "another text tower"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other", "dim"])
def test_a_damaged_file_is_removed_and_written_anew(tmp_path: Path, damage: str) -> None:
    store = LabelStore(tmp_path, "f" * 64, DIM, 10**6)
    store.add([b"a" * 32], _rows(1))
    (path,) = tmp_path.glob("*/*.shard")
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    changed = {"cut": path.read_bytes()[:-1], "flip": bytes(content), "empty": b"", "other": b"no shard" * 20, "dim": None}[damage]
    if changed is None:
        LabelStore(tmp_path, "f" * 64, DIM + 1, 10**6).add([b"a" * 32], np.ones((1, DIM + 1), np.float32))
        (path,) = set(tmp_path.glob("*/*.shard")) - {path}
    else:
        path.write_bytes(changed)
    fresh = LabelStore(tmp_path, "f" * 64, DIM, 10**6)
    assert len(_stored(fresh)) == (damage == "dim")
    assert not path.exists()
    fresh.add([b"a" * 32], _rows(1))
    assert len(_stored(LabelStore(tmp_path, "f" * 64, DIM, 10**6))) == 1


def test_many_small_files_become_one_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_store, "MAX_SHARDS", 4)
    store, rows = LabelStore(tmp_path, "f" * 64, DIM, 10**6), _rows(9)
    keys = [bytes([i]) * 32 for i in range(9)]
    for key, row in zip(keys, rows, strict=True):
        store.add([key], row[None])
    assert len(list(tmp_path.glob("*/*.shard"))) <= 4 + 1
    assert _stored(LabelStore(tmp_path, "f" * 64, DIM, 10**6)) == dict(zip(keys, rows.tolist(), strict=True))


def test_the_disk_is_bounded_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    first = LabelStore(tmp_path, "a" * 64, DIM, 10**6)
    first.add([b"a" * 32], _rows(1))
    (old,) = tmp_path.glob("*/*.shard")
    os.utime(old, (1, 1))
    LabelStore(tmp_path, "b" * 64, DIM, old.stat().st_size * 2).add([b"b" * 32], _rows(1))
    assert old.exists()
    LabelStore(tmp_path, "b" * 64, DIM, old.stat().st_size * 2).add([b"c" * 32], _rows(1, seed=1))
    assert not old.exists()
    assert len(list(tmp_path.glob("*/*.shard"))) == 2


def test_a_disk_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LabelStore(tmp_path / "file", "f" * 64, DIM, 10**6)
    store.add([b"a" * 32], _rows(1))
    assert _stored(store) == {}
    LabelStore(None, "f" * 64, DIM, 10**6).add([b"a" * 32], _rows(1))


def test_a_set_is_there_for_other_workers_from_the_moment_it_is_registered(tmp_path: Path) -> None:
    mine, theirs = LabelSets(tmp_path / "sets"), LabelSets(tmp_path / "sets")
    assert theirs.names() == []
    made, is_new = mine.put("pets", ("cat", "dog"), SIMPLE)
    assert is_new
    assert theirs.get("pets") == made
    replaced, is_new = theirs.put("pets", ("cat", "猫"), None)
    assert not is_new
    assert mine.get("pets") == replaced
    assert (mine.get("pets").labels, mine.get("pets").templates) == (("cat", "猫"), None)
    mine.put("birds", ("owl",), templates_of(["my own {}"], "single"))
    assert theirs.names() == ["birds", "pets"]
    assert theirs.get("birds").templates == templates_of(["my own {}"], "single")
    mine.delete("pets")
    for sets in (mine, theirs):
        with pytest.raises(UnknownLabelSet, match="'pets'"):
            sets.get("pets")
    with pytest.raises(UnknownLabelSet):
        mine.delete("pets")


@pytest.mark.parametrize("name", ["", ".", "..", "../pets", "a/b", "A", ".hidden", "a" * 64, "ä", "a\n"])
def test_a_name_that_could_lead_elsewhere_is_neither_written_nor_read(tmp_path: Path, name: str) -> None:
    sets = LabelSets(tmp_path / "sets")
    with pytest.raises(InvalidRequest, match="a label set is called by"):
        sets.put(name, ("cat",), None)
    with pytest.raises(UnknownLabelSet):
        sets.get(name)
    with pytest.raises(UnknownLabelSet):
        sets.delete(name)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_set_is_not_served(tmp_path: Path) -> None:
    sets = LabelSets(tmp_path)
    sets.put("pets", ("cat",), None)
    (tmp_path / "pets.json").write_bytes(b'{"labels": ["cat"')
    with pytest.raises(UnknownLabelSet):
        LabelSets(tmp_path).get("pets")
    sets.put("pets", ("cat",), None)
    assert LabelSets(tmp_path).get("pets").labels == ("cat",)


def test_the_number_of_sets_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.clip import label_sets

    monkeypatch.setattr(label_sets, "MAX_SETS", 2)
    sets = LabelSets(tmp_path)
    for name in ("a", "b", "a"):
        sets.put(name, ("cat",), None)
    with pytest.raises(InvalidRequest, match="delete one first"):
        sets.put("c", ("cat",), None)
