"""The folder that workers share: made for its user alone, refused where others could write what is read here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from serving.contract.errors import SettingsError
from serving.services import state
from serving.services.state import open_state


def test_the_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    opened = open_state(tmp_path / "deep" / "state")
    assert (tmp_path / "deep" / "state").stat().st_mode & 0o777 == 0o700
    opened.label_sets.put("pets", ("cat",), None)
    assert open_state(tmp_path / "deep" / "state").label_sets.names() == ["pets"]


def test_without_a_setting_it_is_below_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert open_state(None).embeddings.parent == tmp_path / f"pilotage-{os.getuid()}"


def test_one_that_somebody_else_made_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = os.getuid()
    open_state(None)
    monkeypatch.setattr(state.os, "getuid", lambda: mine + 1)
    (tmp_path / f"pilotage-{mine}").rename(tmp_path / f"pilotage-{mine + 1}")
    with pytest.raises(SettingsError, match="belongs to user"):
        open_state(None)


def test_one_that_cannot_be_made_is_told_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"PILOTAGE_STATE_DIR='.*file/state'"):
        open_state(tmp_path / "file" / "state")
