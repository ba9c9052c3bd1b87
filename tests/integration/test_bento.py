"""A Bento: built from what `make bento` copies, readable at a glance, served without torch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pilotage.process import free_port
from serving.contract.bundle import Bundle

ROOT = Path(__file__).parents[2]
BENTOML = [sys.executable, "-m", "bentoml"]


@pytest.fixture(scope="module")
def bento_home(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML home that holds one Bento, made of a copy of `serving/` and the tiny bundle."""
    project, home = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "serving", project / "serving")
    shutil.copytree(tiny_bundle.path, project / "bundle")
    for name in ("bentofile.yaml", "README.md"):
        shutil.copy(ROOT / name, project)
    subprocess.run([*BENTOML, "build"], cwd=project, env=_environment(home), check=True, capture_output=True, timeout=120)
    return home


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}


def _bento(home: Path) -> Path:
    (folder,) = (path for path in (home / "bentos/pilotage-ranking").iterdir() if path.is_dir())
    return folder


def test_bento_holds_the_serving_package_and_the_bundle_and_nothing_else(bento_home: Path) -> None:
    source = _bento(bento_home) / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT).as_posix() for path in [*(ROOT / "serving").rglob("*.py"), *(ROOT / "serving/ui").iterdir()]}
    assert files - expected == {"bentofile.yaml", "bundle/manifest.json", "bundle/model.onnx"}
    assert expected <= files


def test_bento_installs_neither_torch_nor_locust(bento_home: Path) -> None:
    lines = (_bento(bento_home) / "env/python/requirements.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    assert "onnxruntime" in names
    assert not names & {"torch", "locust", "scikit-learn", "matplotlib", "onnx"}


def test_bento_serves_its_bundle_from_any_folder(bento_home: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [*BENTOML, "serve", "pilotage-ranking:latest", "--port", str(port)]
    service = subprocess.Popen(
        command, cwd=tmp_path, env=_environment(bento_home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert _is_ready(port, service)
    finally:
        os.killpg(service.pid, signal.SIGTERM)
        service.wait(30)


def _is_ready(port: int, service: subprocess.Popen[bytes]) -> bool:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            if service.poll() is not None:
                return False
            time.sleep(0.1)
    return False
