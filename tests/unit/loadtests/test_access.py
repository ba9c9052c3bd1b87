"""Tokens and certificates: read from files that are what they should be, or refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.sources.access import Access, Caller
from serving.contract.errors import SettingsError


def test_the_first_token_of_the_service_s_own_file_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("\n  first-token-of-two \nsecond-token-of-two\n")
    assert Access(token_file=file).headers() == {"Authorization": "Bearer first-token-of-two"}
    assert Access().headers() == {}


@pytest.mark.parametrize("content", ["", "\n\n", "two words", "täken"])
def test_a_file_without_a_token_is_refused_and_the_message_has_none_of_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(SettingsError, match="must have a token in its first line") as caught:
        Access(token_file=file).headers()
    assert "words" not in str(caught.value)
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        Access(token_file=tmp_path / "absent").headers()


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(SettingsError, match=r"ca\.pem cannot be used: it holds no certificate in PEM form"):
        Caller("https://127.0.0.1:1", Access(ca_file=file))
    with pytest.raises(SettingsError, match="cannot be used: No such file"):
        Caller("https://127.0.0.1:1", Access(ca_file=tmp_path / "absent"))


def test_an_authority_without_tls_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not https://"):
        Caller("http://127.0.0.1:1", Access(ca_file=tmp_path / "ca.pem"))


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "ftp://a", "http://", "http://a:b", "http://a:99999"])
def test_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="host"):
        Caller(host, Access())
