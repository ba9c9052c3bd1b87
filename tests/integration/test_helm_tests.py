"""What `helm test` runs in a pod says yes to a service that works, with and without a token, and names what does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_processes import BENTOML, ROOT, service_of

from serving.contract.bundle import RankingBundle
from tests.clip_bundles import tiny_clip_bundle

ASK = ROOT / "charts" / "pilotage" / "files" / "ask.py"
TOKEN = "a-token-of-the-tests"  # noqa: S105


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"{TOKEN}\nanother-token-of-the-tests\n")
    return file


@pytest.fixture(scope="module")
def address(tiny_bundle: RankingBundle, token_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service started as the chart does it: by variables alone, with both families."""
    folder = tmp_path_factory.mktemp("service")
    clip = tiny_clip_bundle(folder / "clip")
    with service_of(BENTOML, folder, "/readyz", PILOTAGE_BUNDLE=f"{tiny_bundle.path},{clip.path}", PILOTAGE_TOKEN_FILE=str(token_file)) as (
        client,
        _,
    ):
        yield str(client.base_url).rstrip("/")


def ask(address: str, what: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # As in the pod: no package of ours on the path.
    return subprocess.run([sys.executable, "-I", ASK, address, what], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("what", "said"), [("metrics", "metrics"), ("rank", "ranked 3 candidates"), ("classify", "classified as 'a red square'")]
)
def test_a_service_that_works_passes(address: str, token_file: Path, what: str, said: str) -> None:
    ran = ask(address, what, TOKEN_FILE=str(token_file))
    assert ran.returncode == 0, ran.stderr
    assert said in ran.stdout


@pytest.mark.parametrize("what", ["rank", "classify"])
def test_what_is_refused_fails_with_what_the_service_said(address: str, what: str) -> None:
    ran = ask(address, what)
    assert ran.returncode == 1
    assert "/v1/models: HTTP 401" in ran.stderr or "/v1/classify: HTTP 401" in ran.stderr


def test_no_service_fails(free_tcp_port: int) -> None:
    ran = ask(f"http://127.0.0.1:{free_tcp_port}", "metrics")
    assert ran.returncode == 1
    assert "refused" in ran.stderr
