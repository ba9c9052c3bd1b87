"""Load profiles: the ones that come along are promises, a wrong one is refused with its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.generator import Order
from loadtests.load_profile import load_profile, profile_names
from serving.contract.errors import SettingsError


def test_named_profiles_are_pinned() -> None:
    assert profile_names() == ("latency", "smoke")
    profiles = {name: load_profile(name) for name in profile_names()}
    figures = {name: (profile.users, profile.duration_s, profile.max_error_pct) for name, profile in profiles.items()}
    assert figures == {"smoke": (2, 5, 0.0), "latency": (1, 20, 0.0)}
    assert all(profile.name == name for name, profile in profiles.items())


def test_options_replace_what_the_file_says() -> None:
    profile = load_profile("smoke", users=7, duration_s=None)
    assert (profile.users, profile.duration_s) == (7, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "cannot be read"),
        ('name = "x"\ndescription = ""\nusers = 1', "duration_s: Field required"),
        ('name = "x"\ndescription = ""\nusers = 0\nduration_s = 1', "users: .*got 0"),
        ('name = "x"\ndescription = ""\nusers = 1\nduration_s = 1.5', "duration_s: .*got 1.5"),
        ('name = "x"\ndescription = ""\nusers = 1\nduration_s = 1\nuser = 2', "user: .*got 2"),
        ('name = "x"\ndescription = ""\nusers = 1\nduration_s = 1\ncandidates = "many"', "candidates 'many'"),
    ],
)
def test_a_profile_of_ones_own_is_read_or_refused_with_its_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_profile(str(path))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="there are latency, smoke"):
        load_profile("../smoke")


def test_the_generator_is_told_everything_on_its_command_line(tmp_path: Path) -> None:
    order = Order(host="http://127.0.0.1:1", profile=load_profile("smoke"), requests_file=Path("r.jsonl"), out=tmp_path)
    command = order.command()
    assert {"--headless", "--host=http://127.0.0.1:1", "--users=2", "--duration-s=5"} <= set(command)
    assert {"--requests-file=r.jsonl", f"--report-dir={tmp_path}"} <= set(command)


def test_importing_the_command_costs_no_heavy_import() -> None:
    heavy = ["locust", "gevent", "matplotlib", "scipy", "numpy", "jinja2"]
    code = f"import sys, loadtests.cli; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_nothing_but_the_users_imports_locust() -> None:
    code = (
        "import sys, loadtests.cli, loadtests.generator, loadtests.page, loadtests.summary, loadtests.load_profile, "
        "loadtests.sources.recorded, loadtests.sources.answers, loadtests.sources.service; print('locust' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "False"
