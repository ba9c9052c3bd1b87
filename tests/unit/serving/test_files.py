"""Folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.contract.errors import PilotageError
from serving.contract.files import replace_folder, write_bytes


def _fill(target: Path, text: str) -> None:
    with replace_folder(target, marker="run.json") as folder:
        (folder / "run.json").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text(text)


def _content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_appears_with_its_parents(tmp_path: Path) -> None:
    _fill(tmp_path / "runs" / "a", "1")
    assert _content(tmp_path / "runs") == {"a/run.json": "1", "a/deep/file": "1"}
    assert (tmp_path / "runs" / "a").stat().st_mode & 0o777 == 0o755, "others may read it"


def test_a_folder_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    _fill(tmp_path / "a", "1")
    (tmp_path / "a" / "left over").write_text("x")
    _fill(tmp_path / "a", "2")
    assert _content(tmp_path) == {"a/run.json": "2", "a/deep/file": "2"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [False, True])
def test_an_exception_leaves_everything_as_it_was(error: type[BaseException], existed: bool, tmp_path: Path) -> None:
    if existed:
        _fill(tmp_path / "a", "1")
    before = _content(tmp_path)

    def interrupted() -> None:
        with replace_folder(tmp_path / "a", marker="run.json") as folder:
            (folder / "run.json").write_text("2")
            raise error

    with pytest.raises(error):
        interrupted()
    assert _content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["a"] if existed else []), "no temporary folder is left"


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(PilotageError, match=r"exists and has no run\.json: it is left alone"):
        _fill(tmp_path / "a", "1")
    assert _content(tmp_path) == {"a/thesis.txt": "years of work"}


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("thesis")
    with pytest.raises(PilotageError, match="is left alone"):
        _fill(tmp_path / "a", "1")
    assert (tmp_path / "a").read_text() == "thesis"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    _fill(tmp_path / "a", "1")
    assert (tmp_path / "a" / "run.json").read_text() == "1"


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.json"
    for text in ("1", "é"):
        write_bytes(target, text.encode())
        assert target.read_text(encoding="utf-8") == text
    assert [path.name for path in target.parent.iterdir()] == ["report.json"]
