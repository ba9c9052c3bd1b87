"""Load profiles: the ones that come along are promises, a wrong one is refused with its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.arrivals import Closed, Poisson, parse_arrivals
from loadtests.early_stopping import EarlyStopping
from loadtests.generator import Order
from loadtests.load_profile import LoadProfile, load_profile, profile_names, write_profile
from loadtests.objectives import Objective
from loadtests.saturation import Search
from loadtests.sources.traffic import RankRequests, parse_traffic
from serving.contract.errors import SettingsError


def test_named_profiles_are_pinned() -> None:
    assert profile_names() == ("canary", "latency", "saturation", "server", "smoke", "soak", "spike")
    profiles = {name: load_profile(name) for name in profile_names()}
    assert all(profile.name == name for name, profile in profiles.items())
    ends = {name: (profile.arrivals.kind, profile.samples, profile.duration_s) for name, profile in profiles.items()}
    assert ends == {
        "canary": ("poisson", 10000, None),
        "latency": ("closed", None, 20),
        "saturation": ("closed", None, None),
        "server": ("poisson", 5000, None),
        "smoke": ("closed", None, 5),
        "soak": ("poisson", None, 3600),
        "spike": ("bursts", None, 120),
    }
    assert {name for name, profile in profiles.items() if profile.max_failures == 0} == {"latency", "smoke"}
    assert profiles["canary"].compare == ("canary", "baseline")


def test_options_replace_what_the_file_says() -> None:
    profile = load_profile("smoke", users=7, duration_s=None)
    assert (profile.arrivals, profile.duration_s) == (Closed(users=7), 5)
    changed = load_profile("smoke", samples=900, users=30, arrivals=parse_arrivals("poisson:40"), objective=(Objective(p99_ms=9),), seed=3)
    assert (changed.samples, changed.duration_s, changed.users, changed.seed) == (900, None, 30, 3)
    assert (changed.arrivals, changed.asked.objectives) == (Poisson(rate_rps=40), (Objective(p99_ms=9),))


def test_options_about_bodies_change_ranking_requests_alone() -> None:
    mixed = load_profile("smoke", traffic=parse_traffic("rank:70,classify:30"), candidates="5", recorded=Path("r.jsonl"))
    rank, classify = mixed.traffic.requests
    assert isinstance(rank, RankRequests)
    assert (rank.candidates, rank.recorded, rank.weight, classify.endpoint) == ("5", Path("r.jsonl"), 70, "classify")
    assert [entry.endpoint for entry in load_profile("smoke", candidates="5").traffic.requests] == ["rank"]


def test_traffic_may_be_a_mix_a_file_or_json(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[[traffic.requests]]\nendpoint = 'infer'\n[other]\n")
    for text, endpoints in (("rank,infer", ["rank", "infer"]), (str(file), ["infer"]), ('{"requests": [{"endpoint": "rank"}]}', ["rank"])):
        assert [entry.endpoint for entry in parse_traffic(text).requests] == endpoints
    file.write_text("[other]\n")
    for wrong, message in ((str(file), "has no table"), ("{", "cannot be read"), ("no.toml", "cannot be read"), ("rnak", "rnak")):
        with pytest.raises(SettingsError, match=message):
            parse_traffic(wrong)


def test_a_profile_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    for name in profile_names():
        profile = load_profile(name, traffic=parse_traffic("rank:70,classify:30"))
        write_profile(profile, tmp_path / "profile.json")
        assert load_profile(str(tmp_path / "profile.json")) == profile


def test_every_setting_and_every_profile_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/loadtests.md").read_text(encoding="utf-8")
    for model in (LoadProfile, Objective, Search, EarlyStopping):
        for name in model.model_fields:
            assert f"`{name}`" in page or f"\n{name} = " in page, f"{model.__name__}.{name} is not documented"
    assert all(f"| `{name}` |" in page for name in profile_names())


HEAD = 'name = "x"\ndescription = ""\n'
OPEN = HEAD + 'samples = 4000\narrivals = {kind = "poisson", rate_rps = 9}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "cannot be read"),
        (HEAD, "it has no end"),
        (HEAD + "duration_s = 1\narrivals = {users = 0, kind = 'closed'}", "users: .*got 0"),
        (HEAD + "duration_s = 1\nuser = 2", r"user: no such setting"),
        (
            HEAD + "duration_s = 1\n[[traffic.requests]]\nendpoint = 'rank'\npixels = '8x8'",
            r"traffic.requests\[0\].pixels: no such setting",
        ),
        (HEAD + "duration_s = 1\narrivals = {kind = 'poison'}", "arrivals: no 'kind' is called 'poison'; there are 'closed', .*'poisson'"),
        (HEAD + "duration_s = 1\narrivals = {kind = 'poisson'}", r"arrivals.rate_rps: Field required"),
        (HEAD + "duration_s = 1\n[[traffic.requests]]\nendpoint = 'rank'\ncandidates = 'many'", "candidates 'many'"),
        (OPEN + "[[objective]]\nendpoint = 'rank'", "sets no limit"),
        (OPEN + "[[objective]]\np99_ms = 5\n[[objective]]\np99_ms = 6", "given twice"),
        (OPEN + "compare = ['a', 'a']", "twice"),
        (HEAD + "samples = 9000\nearly_stopping = {limit_ms = 5}", "needs a schedule"),
        (OPEN.replace("4000", "400") + "early_stopping = {limit_ms = 5}", "at least 619 requests"),
        (HEAD + "saturation = {}", "at least one objective"),
        (OPEN + "saturation = {}\nobjective = [{p99_ms = 5}]", "leave out samples"),
        (HEAD + "saturation = {start_rps = 0.5}\nobjective = [{p99_ms = 5}]", "start_rps is 0.5"),
    ],
)
def test_a_profile_of_ones_own_is_read_or_refused_with_its_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_profile(str(path))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="there are canary, latency, saturation, server, smoke"):
        load_profile("../smoke")


def test_the_generator_is_told_everything_by_the_profile_beside_the_report(tmp_path: Path) -> None:
    order = Order(host="http://127.0.0.1:1", profile=load_profile("smoke"), out=tmp_path, arms=("a=header:a",), processes=2)
    command = order.command()
    assert {"--headless", "--host=http://127.0.0.1:1", "--users=2", "--processes=2", "--arm=a=header:a"} <= set(command)
    assert {f"--load-profile={tmp_path / 'profile.json'}", f"--report-dir={tmp_path}"} <= set(command)


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
