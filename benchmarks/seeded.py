"""Models with seeded random weights, so that a benchmark needs no data set: a bundle for Pilotage, a folder for the rival.

How fast a model of this shape answers does not depend on what its weights are; how well it ranks is not measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import onnx
import torch

from benchmarks.naive_model import save_naive
from optimize.bundling import GRAPH_NAME
from optimize.export.files import bundled, save_graph
from optimize.export.to_onnx import export_ranking
from optimize.models.dcn_v2 import DcnV2
from optimize.models.registry import DcnV2Settings, build
from optimize.passes.int8_dynamic import Int8Dynamic
from optimize.search.machine import package_versions
from optimize.training.recipe import RECIPES, load_recipe
from serving.contract.bundle import RankingBundle, write_bundle
from serving.contract.errors import PilotageError
from serving.contract.fields import FeatureSpec, load_spec
from serving.contract.manifest import Calibration, Provenance, Quality, RankingManifest, ranking_signature

FP32 = "fp32"
INT8 = "int8_dynamic"


@dataclass(frozen=True)
class Scenario:
    """A specification and a model to serve."""

    name: str
    spec: FeatureSpec
    settings: DcnV2Settings


@dataclass(frozen=True)
class Seeded:
    """One model in all the forms that are compared.

    Attributes
    ----------
    bundles
        Variant → bundle, for Pilotage.
    naive
        Folder with the same weights, for `benchmarks.naive_service`.
    """

    bundles: dict[str, RankingBundle]
    naive: Path


def scenarios() -> tuple[Scenario, ...]:
    """The headline first: eight ids and no lists; then the fields of MovieLens; then eight ids before a larger network.

    The first two have the network of the MovieLens recipe, the third the default of the registry.
    """
    ids8 = load_spec(Path(__file__).parent / "ids8.toml")
    movielens = RECIPES / "movielens"
    recipe = load_recipe(movielens / "dcn_v2.toml").model
    if not isinstance(recipe, DcnV2Settings):
        raise PilotageError(f"the recipe in {movielens / 'dcn_v2.toml'} is of the architecture {recipe.architecture!r}, not 'dcn_v2'")
    return (
        Scenario("ids8", ids8, recipe),
        Scenario("movielens", load_spec(movielens / "features.toml"), recipe),
        Scenario("ids8_large", ids8, DcnV2Settings()),
    )


def make(scenario: Scenario, folder: Path, *, seed: int) -> Seeded:
    """Draw weights, export, quantize, and write everything below `folder`."""
    torch.manual_seed(seed)
    model = build(scenario.settings, scenario.spec).eval()
    assert isinstance(model, DcnV2)
    exported = export_ranking(model)
    bundles = {
        FP32: bundle_of(scenario, FP32, exported, folder, seed=seed),
        INT8: bundle_of(scenario, INT8, Int8Dynamic().apply(exported), folder, seed=seed),
    }
    naive = folder / "naive"
    naive.mkdir()
    save_naive(model, scenario.settings, naive)
    return Seeded(bundles, naive)


def bundle_of(scenario: Scenario, variant: str, graph: onnx.ModelProto, folder: Path, *, seed: int) -> RankingBundle:
    """Write `graph` and a bundle of it below `folder`; nothing in its manifest is a measurement."""
    file = folder / f"{variant}.onnx"
    save_graph(graph, file)
    manifest = RankingManifest.model_construct(
        name=f"{scenario.spec.name}-dcn-v2",
        version="seeded",
        family="ranking",
        graph=GRAPH_NAME,
        signature=ranking_signature(scenario.spec),
        features=scenario.spec,
        calibration=Calibration(method="none", scale=1.0, offset=0.0),
        quality=Quality(data="none, seeded weights", data_fingerprint="none", rows=1, metrics={}),
        provenance=Provenance(
            created_at=datetime.now(UTC), architecture="dcn_v2", variant=variant, seed=seed, git_commit=None, versions=package_versions()
        ),
        files={},
    )
    return write_bundle(folder / f"bundle-{variant}", manifest, bundled(file, GRAPH_NAME))
