"""Run folder + report → bundle: the file that the optimize stage hands to the serving stage."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from optimize.export.files import bundled, files_of
from optimize.search.report import PAGE_NAME, REPORT_NAME, read_report
from optimize.training.records import read_run
from serving.contract.bundle import RankingBundle, sha256_of, write_bundle
from serving.contract.errors import PilotageError
from serving.contract.manifest import ModelName, ModelVersion, Provenance, Quality, RankingManifest, ranking_signature
from serving.runtime.session import GraphSession

GRAPH_NAME = "model.onnx"
VARIANTS_FOLDER = "variants"
VERSION_DIGITS = 12


def bundle_run(
    run_folder: Path, target: Path, *, name: str | None, version: str | None, variant: str | None, replace: bool
) -> RankingBundle:
    """Make a bundle from an optimized run.

    Parameters
    ----------
    name, version
        Of the model; left out, the feature specification's name with the architecture, and the first digits of a SHA-256 of
        the graph and its weights.
    variant
        Ship this variant instead of the chosen one.

    Raises
    ------
    PilotageError
        The run was not optimized, the variant was refused or does not exist, or a name or version is not allowed.
    """
    require_named(name, version)
    record = read_run(run_folder)
    folder = run_folder / VARIANTS_FOLDER
    report = read_report(folder)
    wanted = variant or report.chosen
    candidate = next((c for c in report.candidates if c.name == wanted), None)
    if candidate is None:
        raise PilotageError(f"there is no variant {wanted!r}; there are {', '.join(c.name for c in report.candidates)}")
    if candidate.refused:
        raise PilotageError(f"variant {wanted!r} was refused: {candidate.refused}")
    graph = folder / (candidate.file or f"{wanted}.onnx")
    GraphSession(graph, threads=1).require(ranking_signature(record.features))
    manifest = RankingManifest.model_construct(
        name=name or f"{record.features.name}-{record.recipe.model.architecture.replace('_', '-')}",
        version=version or digest_of(files_of(graph))[:VERSION_DIGITS],
        family="ranking",
        graph=GRAPH_NAME,
        signature=ranking_signature(record.features),
        features=record.features,
        calibration=record.calibration,
        quality=Quality(
            data=f"{record.data}, test part", data_fingerprint=report.fingerprints["test"], rows=report.rows["test"], metrics=candidate.test
        ),
        provenance=Provenance(
            created_at=datetime.now(UTC),
            architecture=record.recipe.model.architecture,
            variant=wanted,
            seed=record.seed,
            git_commit=git_commit(),
            versions=report.versions,
        ),
        files={},
    )
    files = {**bundled(graph, GRAPH_NAME), f"optimize/{REPORT_NAME}": folder / REPORT_NAME, f"optimize/{PAGE_NAME}": folder / PAGE_NAME}
    return write_bundle(target, manifest, files, replace=replace)


def require_named(name: str | None, version: str | None) -> None:
    """Check what a model shall be called before hours go into it; None is chosen later.

    Raises
    ------
    PilotageError
        The name or the version is not allowed.
    """
    given: tuple[tuple[str, str | None, Any], ...] = (("name", name, ModelName), ("version", version, ModelVersion))
    for what, value, kind in given:
        try:
            TypeAdapter(kind | None).validate_python(value)
        except ValidationError as error:
            raise PilotageError(f"{what} {value!r} is not allowed: {error.errors()[0]['msg']}") from error


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or of several in their order."""
    digests = [sha256_of(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def git_commit() -> str | None:
    """Commit of the working directory, if it is a checkout."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
