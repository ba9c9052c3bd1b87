"""Bundles in BentoML's model store."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving.contract.bundle import open_bundle
from serving.contract.errors import PilotageError

STORE_PREFIX = "bentoml:"
STORE_FOLDER = "bundle"
"""Where a model of BentoML's store holds the bundle: beside BentoML's own ``model.yaml``, not mixed with it."""


def import_bundle(path: Path) -> str:
    """Copy the bundle at `path` into the store and return its tag, ``NAME:VERSION``.

    Raises
    ------
    BundleError
        The bundle is damaged.
    PilotageError
        The store has this version already, or refuses the copy.
    """
    import bentoml

    bundle = open_bundle(path)
    manifest = bundle.manifest
    tag = f"{manifest.name}:{manifest.version.lower()}"
    try:
        with bentoml.models.create(
            tag, labels={"pilotage.family": manifest.family}, metadata={"metrics": dict(manifest.quality.metrics)}
        ) as model:
            shutil.copytree(bundle.path, Path(model.path) / STORE_FOLDER)
    except (bentoml.exceptions.BentoMLException, ValueError) as error:
        raise PilotageError(f"BentoML's model store did not take {tag}: {error}") from error
    return tag


def locate(reference: str) -> Path:
    """Find the folder of a bundle.

    Parameters
    ----------
    reference
        A path, or ``bentoml:NAME[:VERSION]``.

    Raises
    ------
    PilotageError
        The store has no such model.
    """
    if not reference.startswith(STORE_PREFIX):
        return Path(reference)
    import bentoml

    tag = reference.removeprefix(STORE_PREFIX)
    try:
        return Path(bentoml.models.get(tag).path) / STORE_FOLDER
    except (bentoml.exceptions.BentoMLException, ValueError) as error:
        raise PilotageError(f"BentoML's model store has no {tag!r} ({error}); `pilotage bundle import` puts a bundle there") from error
