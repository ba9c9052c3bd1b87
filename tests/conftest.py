"""Fixtures that several rooms' tests share, and markers taken from the path."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving.contract.bundle import RankingBundle, write_bundle
from serving.contract.fields import FeatureSpec, parse_spec
from serving.contract.manifest import Calibration, Provenance, Quality, RankingManifest, ranking_signature

ROOT = Path(__file__).parents[1]
KINDS = ("unit", "contract", "charts", "integration", "e2e")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for kind in KINDS:
            if Path(item.path).is_relative_to(ROOT / "tests" / kind):
                item.add_marker(getattr(pytest.mark, kind))
    if hasattr(config, "workerinput"):  # of several processes none shall begin the longest file when the others are done
        items.sort(key=lambda item: (not item.get_closest_marker("e2e"), not item.get_closest_marker("integration")))


@pytest.fixture(scope="session")
def tiny_spec() -> FeatureSpec:
    """One field of every kind: string and integer ids, lists on both sides, numbers, and each shape of cross."""
    return parse_spec(
        {
            "schema_version": 1,
            "name": "tiny",
            "fields": [
                {"name": "user_id", "kind": "categorical", "part": "user", "buckets": 64, "dim": 4},
                {"name": "segment", "kind": "categorical", "part": "user", "dtype": "int64", "buckets": 32, "dim": 3, "missing": "zero"},
                {"name": "history", "kind": "categorical", "part": "user", "buckets": 64, "dim": 4, "max_values": 5, "pooling": "sqrtn"},
                {
                    "name": "age",
                    "kind": "numeric",
                    "part": "user",
                    "missing_value": 30.0,
                    "min": 0.0,
                    "max": 120.0,
                    "center": 30.0,
                    "scale": 10.0,
                },
                {"name": "device", "kind": "categorical", "part": "context", "buckets": 16, "dim": 2, "missing": "reject"},
                {"name": "id", "kind": "categorical", "part": "candidate", "buckets": 64, "dim": 4, "max_length": 40},
                {"name": "price", "kind": "numeric", "part": "candidate", "min": 0.0, "max": 1e6, "transform": "log1p"},
                {
                    "name": "tags",
                    "kind": "categorical",
                    "part": "candidate",
                    "dtype": "int64",
                    "buckets": 32,
                    "dim": 3,
                    "max_values": 4,
                    "missing": "zero",
                },
            ],
            "crosses": [
                {"name": "user_x_id", "fields": ["user_id", "id"], "buckets": 128, "dim": 2},
                {"name": "segment_x_device", "fields": ["segment", "device"], "buckets": 64, "dim": 2, "missing": "own"},
                {"name": "device_x_tags", "fields": ["device", "tags", "user_id"], "buckets": 64, "dim": 2},
            ],
        },
        "tiny",
    )


@pytest.fixture(scope="session")
def tiny_graph(tiny_spec: FeatureSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported, untrained DCN-v2 over `tiny_spec`."""
    torch = pytest.importorskip("torch")
    from optimize.export.files import save_graph
    from optimize.export.to_onnx import export_ranking
    from optimize.models.registry import DcnV2Settings, build

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    save_graph(export_ranking(build(DcnV2Settings(cross_layers=2, hidden=(8, 4)), tiny_spec)), path)
    return path


def tiny_manifest(spec: FeatureSpec) -> RankingManifest:
    """A manifest for `spec`; `write_bundle` adds the files."""
    return RankingManifest.model_construct(
        name="tiny",
        version="1",
        family="ranking",
        graph="model.onnx",
        signature=ranking_signature(spec),
        features=spec,
        calibration=Calibration(method="none", scale=1.0, offset=0.0),
        quality=Quality(data="none", data_fingerprint="0", rows=1, metrics={"auc": 0.5}),
        provenance=Provenance(created_at=datetime(2026, 1, 1, tzinfo=UTC), architecture="dcn_v2", variant="fp32", seed=0, versions={}),
        files={},
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_spec: FeatureSpec, tiny_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> RankingBundle:
    """A bundle of `tiny_graph`; copy it before you change it."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tiny_manifest(tiny_spec), {"model.onnx": tiny_graph})
