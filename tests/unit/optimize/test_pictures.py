"""Labelled pictures on disk, in both forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from optimize.data.pictures import PicturesError, load_pictures


def _picture(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)


def test_a_folder_a_label_is_read_in_order_and_other_files_are_left(tmp_path: Path) -> None:
    _picture(tmp_path / "set/red ball/1.png", "red")
    _picture(tmp_path / "set/red ball/2.JPG", "red")
    _picture(tmp_path / "set/blue/1.png", "blue")
    (tmp_path / "set/blue/notes.txt").write_text("x")
    (tmp_path / "set/README").write_text("x")
    found = load_pictures(tmp_path / "set")
    assert found.labels == ("blue", "red ball")
    assert found.label.tolist() == [0, 1, 1]
    assert [file.name for file in found.files] == ["1.png", "1.png", "2.JPG"]


def test_captions_name_pictures_beside_them_wherever_the_folder_lies_now(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png", "red")
    _picture(tmp_path / "b.png", "blue")
    lines = [{"picture": "elsewhere/a.png", "caption": "red"}, {"picture": "b.png", "caption": "blue"}]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = load_pictures(tmp_path)
    assert (found.labels, found.label.tolist()) == (("blue", "red"), [1, 0])


def test_another_picture_or_label_is_another_set(tmp_path: Path) -> None:
    _picture(tmp_path / "x/1.png", "red")
    _picture(tmp_path / "y/1.png", "blue")
    first = load_pictures(tmp_path).fingerprint()
    assert load_pictures(tmp_path).fingerprint() == first
    _picture(tmp_path / "y/1.png", "green")
    second = load_pictures(tmp_path).fingerprint()
    (tmp_path / "y").rename(tmp_path / "z")
    assert len({first, second, load_pictures(tmp_path).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not"),
        ('{"picture": "a.png"}', "line 1 is not"),
        ("[]", "line 1 is not"),
        ('{"picture": "gone.png", "caption": "x"}', "no file gone.png"),
    ],
)
def test_captions_that_do_not_do_are_refused_by_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "captions.jsonl").write_text(line + "\n")
    with pytest.raises(PicturesError, match=message):
        load_pictures(tmp_path)


def test_a_folder_without_two_labels_is_refused_with_what_one_looks_like(tmp_path: Path) -> None:
    with pytest.raises(PicturesError, match="no such folder"):
        load_pictures(tmp_path / "absent")
    _picture(tmp_path / "only/1.png", "red")
    with pytest.raises(PicturesError, match="pictures of 1 labels, 2 are needed; it has a folder for each label"):
        load_pictures(tmp_path)
