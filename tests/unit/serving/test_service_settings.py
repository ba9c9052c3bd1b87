"""Settings come from the environment, have pinned defaults and bounds, and a mistake is told by the variable's name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.contract.errors import SettingsError
from serving.services.settings import load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("PILOTAGE_"):
            monkeypatch.delenv(name)


def test_defaults_are_promises() -> None:
    assert load_settings().model_dump() == {
        "bundle": "bundle",
        "bundle_sha256": None,
        "workers": 1,
        "threads": 0,
        "provider": "cpu",
        "arena_mib": 1024,
        "objective_ms": 50.0,
        "max_candidates": 1000,
        "max_body_bytes": 4 * 2**20,
        "classify_objective_ms": 1000.0,
        "text_budget_s": 10.0,
        "max_images": 32,
        "max_labels": 10_000,
        "max_upload_bytes": 32 * 2**20,
        "max_image_pixels": 50_000_000,
        "label_cache_mib": 256,
        "state_dir": None,
        "token_file": None,
        "reload_s": 0.0,
        "drain_s": 2.0,
        "grace_s": 10.0,
        "trace_sample_rate": 0.0,
        "log_level": "INFO",
    }


def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        "bundle": "bentoml:shop:7",
        "bundle_sha256": "a" * 64,
        "workers": 2,
        "threads": 3,
        "provider": "openvino",
        "arena_mib": 64,
        "objective_ms": 12.5,
        "max_candidates": 20,
        "max_body_bytes": 2048,
        "classify_objective_ms": 250.0,
        "text_budget_s": 1.5,
        "max_images": 3,
        "max_labels": 30,
        "max_upload_bytes": 4096,
        "max_image_pixels": 1000,
        "label_cache_mib": 8,
        "state_dir": Path("state"),
        "token_file": Path("tokens"),
        "reload_s": 5.0,
        "drain_s": 0.0,
        "grace_s": 3.0,
        "trace_sample_rate": 0.25,
        "log_level": "DEBUG",
    }
    for name, value in wanted.items():
        monkeypatch.setenv(f"PILOTAGE_{name.upper()}", str(value))
    assert load_settings().model_dump() == wanted


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("PILOTAGE_THREADS", "-1", "greater than or equal to 0"),
        ("PILOTAGE_THREADS", "257", "less than or equal to 256"),
        ("PILOTAGE_THREADS", "two", "valid integer"),
        ("PILOTAGE_THREADS", "", "valid integer"),
        ("PILOTAGE_BUNDLE", " , ", "at least one bundle"),
        ("PILOTAGE_WORKERS", "0", "greater than or equal to 1"),
        ("PILOTAGE_PROVIDER", "tpu", "'cpu', 'openvino' or 'cuda'"),
        ("PILOTAGE_OBJECTIVE_MS", "0", "greater than 0"),
        ("PILOTAGE_OBJECTIVE_MS", "nan", "less than or equal to 60000"),
        ("PILOTAGE_DRAIN_S", "-1", "greater than or equal to 0"),
        ("PILOTAGE_LOG_LEVEL", "LOUD", "DEBUG|INFO|WARNING|ERROR"),
        ("PILOTAGE_MAX_CANDIDATES", "0", "greater than or equal to 1"),
        ("PILOTAGE_MAX_CANDIDATES", "100001", "less than or equal to 100000"),
        ("PILOTAGE_MAX_LABELS", "0", "greater than or equal to 1"),
        ("PILOTAGE_MAX_LABELS", "100001", "less than or equal to 100000"),
        ("PILOTAGE_MAX_IMAGES", "1001", "less than or equal to 1000"),
        ("PILOTAGE_TEXT_BUDGET_S", "0", "greater than 0"),
        ("PILOTAGE_MAX_BODY_BYTES", "1023", "greater than or equal to 1024"),
        ("PILOTAGE_MAX_BODY_BYTES", "1073741825", "less than or equal to 1073741824"),
    ],
)
def test_a_value_out_of_bounds_names_variable_value_and_limit(monkeypatch: pytest.MonkeyPatch, name: str, value: str, limit: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"{name}={value!r}: " in str(caught.value)
    assert limit in str(caught.value)


def test_checksums_of_bundles_stand_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTAGE_BUNDLE", "ranker,clip")
    assert load_settings().bundle_checksums == (None, None)
    monkeypatch.setenv("PILOTAGE_BUNDLE_SHA256", f",{'b' * 64}")
    assert load_settings().bundle_checksums == (None, "b" * 64)


@pytest.mark.parametrize(("checksums", "reason"), [("a" * 64, "there are 1 checksums for 2 bundles"), (f"{'A' * 64},", "is no SHA-256")])
def test_checksums_that_fit_no_bundle_are_refused(monkeypatch: pytest.MonkeyPatch, checksums: str, reason: str) -> None:
    monkeypatch.setenv("PILOTAGE_BUNDLE", "ranker,clip")
    monkeypatch.setenv("PILOTAGE_BUNDLE_SHA256", checksums)
    with pytest.raises(SettingsError, match=f"PILOTAGE_BUNDLE_SHA256=.*{reason}"):
        load_settings()


def test_all_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTAGE_THREADS", "x")
    monkeypatch.setenv("PILOTAGE_MAX_CANDIDATES", "0")
    with pytest.raises(SettingsError, match=r"PILOTAGE_THREADS.*PILOTAGE_MAX_CANDIDATES"):
        load_settings()


def test_what_kubernetes_injects_beside_a_service_called_pilotage_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    for name, value in {
        "PILOTAGE_PORT": "tcp://10.0.0.1:3000",
        "PILOTAGE_SERVICE_HOST": "10.0.0.1",
        "PILOTAGE_SERVICE_PORT": "3000",
        "PILOTAGE_SERVICE_PORT_HTTP": "3000",
        "PILOTAGE_PORT_3000_TCP": "tcp://10.0.0.1:3000",
        "PILOTAGE_PORT_3000_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == before


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().threads = 5  # type: ignore[misc]
