"""``pilotage serve`` says what cannot be served before a service is started."""

from __future__ import annotations

import os
import socket

import pytest
from typer.testing import CliRunner

from serving.cli import app
from serving.contract.bundle import RankingBundle
from serving.contract.errors import SettingsError


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have taken over the process."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    monkeypatch.setenv("PILOTAGE_BUNDLE", "other")  # put back afterwards
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")
    return commands


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _serve(*arguments: object) -> None:
    CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_bundle_is_served_on_a_free_port(tiny_bundle: RankingBundle, started: list[list[str]]) -> None:
    port = _free_port()
    _serve(tiny_bundle.path, "--port", port)
    assert [command[-1] for command in started] == [str(port)]
    assert os.environ["PILOTAGE_BUNDLE"] == str(tiny_bundle.path)


def test_bundles_of_the_command_line_are_what_other_settings_are_checked_with(
    tiny_bundle: RankingBundle, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTAGE_BUNDLE", "one,other")
    monkeypatch.setenv("PILOTAGE_BUNDLE_SHA256", "0" * 64)
    _serve(tiny_bundle.path, "--port", _free_port())
    assert len(started) == 1


def test_a_port_that_is_taken_is_named(tiny_bundle: RankingBundle, started: list[list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"--port {port}: cannot be listened on: Address already in use; choose another"):
            _serve(tiny_bundle.path, "--port", port)
    assert not started


def test_two_bundles_of_one_name_are_refused(tiny_bundle: RankingBundle, started: list[list[str]]) -> None:
    with pytest.raises(SettingsError, match="2 of the bundles are called 'tiny'"):
        _serve(tiny_bundle.path, tiny_bundle.path, "--port", _free_port())
    assert not started
