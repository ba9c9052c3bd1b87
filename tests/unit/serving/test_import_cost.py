"""What an import may pull in: the floor stays light, so that `pilotage --help` and every stage start at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "bentoml", "onnxruntime", "onnx", "locust", "starlette", "prometheus_client"}


def _modules(module: str) -> set[str]:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def _loaded_by(module: str) -> set[str]:
    return {name.partition(".")[0] for name in _modules(module)}


@pytest.mark.parametrize("module", ["serving.contract", "serving.contract.errors", "pilotage.cli"])
def test_the_floor_and_the_command_import_nothing_heavy(module: str) -> None:
    assert not _loaded_by(module) & (HEAVY | {"pydantic", "numpy"})


@pytest.mark.parametrize("module", ["serving.contract.fields", "serving.contract.bundle"])
def test_reading_a_specification_or_bundle_needs_no_runtime(module: str) -> None:
    loaded = _loaded_by(module)
    assert "pydantic" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("module", ["serving.features.columns", "serving.features.requests"])
def test_the_host_side_of_preprocessing_needs_no_runtime(module: str) -> None:
    assert not _loaded_by(module) & HEAVY


@pytest.mark.parametrize("module", ["serving.services.ranking", "serving.services.worker"])
def test_the_service_imports_no_torch_and_no_sibling(module: str) -> None:
    loaded = _loaded_by(module)
    assert not loaded & {"torch", "onnx", "locust", "optimize", "loadtests", "sklearn", "matplotlib"}


def test_what_the_supervisor_reads_leaves_the_workers_part_to_the_workers() -> None:
    assert not {"serving.services.worker", "onnxruntime", "pyarrow", "prometheus_client"} & _modules("serving.services.ranking")
