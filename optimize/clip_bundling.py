"""CLIP checkpoint → bundle."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from optimize.bundling import VERSION_DIGITS, digest_of, git_commit, require_named
from optimize.export.clip.checkpoint import Checkpoint
from optimize.export.clip.to_towers import FILES, export_towers
from optimize.export.clip.towers import EXAMPLES, ImageTower, TextTower
from optimize.search.machine import package_versions
from serving.contract.bundle import ClipBundle, require_writable, write_bundle
from serving.contract.manifest import ClipManifest, Provenance, Quality

TOKENIZER_NAME = "tokenizer.json"
PARITY_DATA = "noise and drawn tokens, compared with the checkpoint in torch"

Progress = Callable[[str, float], None]


def bundle_checkpoint(
    checkpoint: Checkpoint,
    target: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    replace: bool = False,
    threads: int = 1,
    progress: Progress = lambda what, share: None,
) -> ClipBundle:
    """Export both towers, check them, and write a bundle.

    Parameters
    ----------
    name, version
        Of the model; left out, the checkpoint's name, and the first digits of a SHA-256 of graphs, weights and tokenizer.

    Raises
    ------
    ExportError
        A tower cannot be exported, or answers otherwise than the checkpoint does.
    PilotageError
        `target` exists and may not be replaced, or a name or version is not allowed.
    """
    parts = checkpoint.parts
    require_named(name, version)
    require_writable(target, replace=replace)
    with tempfile.TemporaryDirectory(prefix="clip-") as folder:
        progress("exporting both towers", 0.1)
        towers = export_towers(
            ImageTower(parts.model, parts.spec.image),
            TextTower(parts.model),
            parts.spec,
            Path(folder),
            vocabulary=parts.tokenizer.get_vocab_size(),
            end_id=parts.end_id,
            threads=threads,
        )
        progress("writing the bundle", 0.9)
        tokenizer = Path(folder) / TOKENIZER_NAME
        parts.tokenizer.save(str(tokenizer), pretty=False)
        files = {**towers.files, TOKENIZER_NAME: tokenizer}
        manifest = ClipManifest.model_construct(
            name=name or model_name(checkpoint.source.name),
            version=version or digest_of([files[key] for key in sorted(files)])[:VERSION_DIGITS],
            family="clip",
            towers=FILES,
            tokenizer=TOKENIZER_NAME,
            clip=parts.spec,
            quality=Quality(
                data=PARITY_DATA,
                data_fingerprint="seed 0",
                rows=EXAMPLES,
                metrics={f"{tower}_relative_difference": worst for tower, worst in towers.worst.items()},
            ),
            provenance=Provenance(
                created_at=datetime.now(UTC),
                architecture=parts.architecture,
                variant="fp32",
                seed=None,
                git_commit=git_commit(),
                versions=package_versions(),
                source=checkpoint.source,
            ),
            files={},
        )
        return write_bundle(target, manifest, files, replace=replace)


def model_name(source: str) -> str:
    """A name that a manifest takes, made of a folder's or a hub's."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", source.rpartition("/")[2].lower()).lstrip("._-")
    return plain[:63] or "clip"
