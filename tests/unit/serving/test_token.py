"""The bearer token: whoever shows one of the file is let in, nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.contract.errors import SettingsError
from serving.services import token
from serving.services.token import TokenGate

GOOD, OTHER = "a" * 16, "b-._~+/=" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{GOOD}\n\n{OTHER}\n")
    return path


@pytest.mark.parametrize("value", [f"Bearer {GOOD}", f"bearer {OTHER}", f"BEARER  {GOOD} "])
def test_a_known_token_is_let_in(file: Path, value: str) -> None:
    assert TokenGate(file).allows([(b"host", b"x"), (b"authorization", value.encode())])


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", GOOD, f"Basic {GOOD}", f"Bearer {GOOD[:-1]}", f"Bearer {GOOD}x", "Bearer é"])
def test_anything_else_is_not(file: Path, value: str) -> None:
    assert not TokenGate(file).allows([(b"authorization", value.encode())])


def test_no_header_and_two_headers_are_refused(file: Path) -> None:
    shown = (b"authorization", f"Bearer {GOOD}".encode())
    assert not TokenGate(file).allows([])
    assert not TokenGate(file).allows([shown, shown])


def test_a_rotated_file_counts_and_a_broken_one_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token, "LOOK_AGAIN_S", -1.0)
    gate = TokenGate(file)
    file.write_text("c" * 20)
    assert gate.allows([(b"authorization", b"Bearer " + b"c" * 20)])
    assert not gate.allows([(b"authorization", f"Bearer {GOOD}".encode())])
    file.unlink()
    assert gate.allows([(b"authorization", b"Bearer " + b"c" * 20)])


@pytest.mark.parametrize("content", ["", "\n \n", "short", "with a space " * 3, "é" * 20, "\n".join(["x" * 20] * 65), "x" * 70_000])
def test_a_file_without_usable_tokens_is_refused_without_showing_one(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(SettingsError, match="PILOTAGE_TOKEN_FILE") as caught:
        TokenGate(file)
    assert not content.strip() or content.strip() not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        TokenGate(tmp_path / "absent")
