from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from loadtests.judge import Verdict
from loadtests.judging import app
from loadtests.samples import COLUMNS, Samples, joined, read_samples, write_samples
from serving.contract.errors import SettingsError


def _samples(count: int, seed: int, times: float = 1.0) -> Samples:
    draw = np.random.default_rng(seed)
    ok = draw.random(count) >= 0.001
    started_s = 0.01 * np.arange(count)
    return Samples(
        intended_s=started_s,
        started_s=started_s,
        latency_ms=times * np.exp(0.5 * draw.standard_normal(count)),
        ok=ok,
        status=np.where(ok, 200, 500).astype(np.int16),
        endpoint=np.zeros(count, np.int16),
        arm=np.zeros(count, np.int8),
        error=np.where(ok, -1, 0).astype(np.int16),
        answer_bytes=np.full(count, 100),
        size=np.full(count, 10),
        endpoints=("rank",),
        error_kinds=("HTTP 500",),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_samples(_samples(6000, 1), folder / "baseline.npz")
    write_samples(_samples(6000, 2), folder / "same.npz")
    write_samples(_samples(6000, 3, times=1.5), folder / "slow.npz")
    write_samples(_samples(100, 4), folder / "few.npz")
    return folder


def _judge(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_samples_survive_their_file(folder: Path) -> None:
    read, written = read_samples(folder / "same.npz"), _samples(6000, 2)
    for name, kind in COLUMNS.items():
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == kind
    assert read.errors == written.errors


def test_files_that_are_no_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "later.npz", schema_version=np.int64(99))
    for name, message in (
        ("text", "cannot be read"),
        ("other", "cannot be read"),
        ("later", "schema version 99"),
        ("absent", "cannot be read"),
    ):
        with pytest.raises(SettingsError, match=message):
            read_samples(tmp_path / f"{name}.npz")


def test_pass_fail_and_inconclusive_have_exit_codes_of_their_own(folder: Path, tmp_path: Path) -> None:
    passed = _judge(folder / "same.npz", folder / "baseline.npz", "--out", tmp_path / "verdict.json")
    assert passed.exit_code == 0, passed.output
    assert Verdict.from_json((tmp_path / "verdict.json").read_bytes()).status == "pass"
    failed = _judge(folder / "slow.npz", folder / "baseline.npz")
    assert failed.exit_code == 1
    assert "the canary is slower" in failed.output
    few = _judge(folder / "few.npz", folder / "baseline.npz", "--json")
    assert few.exit_code == 4
    assert json.loads(few.stdout)["status"] == "inconclusive"


def test_one_arm_is_judged_by_limits_from_a_file(folder: Path, tmp_path: Path) -> None:
    asked = tmp_path / "objectives.toml"
    asked.write_text(
        "[[quantile_limit]]\nquantile = 0.99\nlimit_ms = 4.0\n[error_limit]\nmax_error_pct = 1.0\n[policy]\nfalse_alarm = 0.02\n"
    )
    assert _judge(folder / "same.npz", "--objectives", asked).exit_code == 0
    assert _judge(folder / "slow.npz", "--objectives", asked).exit_code == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[p99]", "unknown tables p99"),
        ("[quantile_limit]\nquantile = 0.99", "limit_ms"),
        ("[quantile_limit]\nquantile = 99\nlimit_ms = 1", "quantile is 99"),
        ("[policy]\nalpha = 1", "alpha"),
        ("no toml", "cannot be read"),
    ],
)
def test_objectives_that_cannot_be_are_wrong_use(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    asked = tmp_path / "objectives.toml"
    asked.write_text(text)
    result = _judge(folder / "same.npz", "--objectives", asked)
    assert result.exit_code == 2
    assert message in result.output


def test_a_comparison_without_a_baseline_is_wrong_use(folder: Path) -> None:
    result = _judge(folder / "same.npz")
    assert result.exit_code == 2
    assert "name the baseline's samples" in result.output


def test_arms_of_one_load_test_are_compared(folder: Path, tmp_path: Path) -> None:
    for name, beside in (("baseline", "same"), ("stable", "slow")):
        arms = (read_samples(folder / f"{beside}.npz"), read_samples(folder / "baseline.npz"))
        both = joined([replace(arms[0], arms=("canary",)), replace(arms[1], arms=(name,))])
        write_samples(both, tmp_path / f"{name}.npz")
    assert _judge(tmp_path / "baseline.npz").exit_code == 0
    assert _judge(tmp_path / "stable.npz").exit_code == 1


@pytest.mark.parametrize(
    ("against", "told"),
    [({"lost_workers": 1}, "1 generator process ended"), ({"unanswered": 600}, "without an answer"), ({"unsent": 600}, "not at all")],
)
def test_a_run_that_is_not_fit_to_be_judged_never_passes(folder: Path, tmp_path: Path, against: dict[str, int], told: str) -> None:
    write_samples(replace(read_samples(folder / "same.npz"), **against), tmp_path / "unfit.npz")  # type: ignore[arg-type]
    result = _judge(tmp_path / "unfit.npz", folder / "baseline.npz")
    assert result.exit_code == 4
    assert told in result.output
