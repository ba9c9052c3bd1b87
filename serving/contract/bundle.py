"""Bundles on disk: written whole or not at all, opened only if every checksum holds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from pydantic import ValidationError

from serving.contract.errors import BundleError
from serving.contract.files import replace_folder, require_replaceable
from serving.contract.manifest import (
    FAMILIES,
    MANIFEST_NAME,
    MANIFEST_SCHEMA_VERSION,
    ClipManifest,
    FileEntry,
    Manifest,
    RankingManifest,
    Signature,
)

MAX_MANIFEST_BYTES = 8 * 2**20
"""A specification of 1,000 fields is some 300 kB; more than this is no manifest of ours."""


@dataclass(frozen=True)
class RankingBundle:
    """A bundle with one graph that scores candidates; its files have been checked."""

    path: Path
    manifest: RankingManifest

    @property
    def graph_path(self) -> Path:
        """The ONNX file."""
        return self.path / self.manifest.graph

    @property
    def graphs(self) -> dict[Path, Signature]:
        """Every graph, with the signature that it must have."""
        return {self.graph_path: self.manifest.signature}


@dataclass(frozen=True)
class ClipBundle:
    """A bundle with an image tower and a text tower; its files have been checked."""

    path: Path
    manifest: ClipManifest

    @property
    def image_path(self) -> Path:
        """The image tower."""
        return self.path / self.manifest.towers.image

    @property
    def text_path(self) -> Path:
        """The text tower."""
        return self.path / self.manifest.towers.text

    @property
    def tokenizer_path(self) -> Path:
        """What turns texts into the text tower's input."""
        return self.path / self.manifest.tokenizer

    @property
    def graphs(self) -> dict[Path, Signature]:
        """Every graph, with the signature that it must have."""
        return {self.image_path: self.manifest.signatures.image, self.text_path: self.manifest.signatures.text}


Bundle = RankingBundle | ClipBundle


def open_bundle(path: Path, manifest_sha256: str | None = None) -> Bundle:
    """Check every file of the bundle at `path` and return it.

    Parameters
    ----------
    manifest_sha256
        What the manifest must hash to, and with it all that it lists; None takes any bundle that is whole.

    Raises
    ------
    BundleError
        When the manifest is missing, invalid or another one, or a file is missing, extra, truncated, altered or not a plain file;
        the message names the file.
    """
    manifest = _read_manifest(path, manifest_sha256)
    found = _plain_files(path) - {MANIFEST_NAME}
    for missing in sorted(manifest.files.keys() - found):
        raise BundleError(f"bundle {path}: file {missing!r} is missing; copy the bundle again")
    for extra in sorted(found - manifest.files.keys()):
        raise BundleError(f"bundle {path}: file {extra!r} is not in the manifest; remove it or make the bundle anew")
    for name, entry in sorted(manifest.files.items()):
        try:
            size_bytes, digest = (path / name).stat().st_size, sha256_of(path / name)
        except OSError as error:
            raise BundleError(f"bundle {path}: file {name!r} cannot be read: {error.strerror}") from error
        if size_bytes != entry.size_bytes:
            raise BundleError(
                f"bundle {path}: file {name!r} has {size_bytes} bytes, the manifest says {entry.size_bytes}; copy the bundle again"
            )
        if digest != entry.sha256:
            raise BundleError(f"bundle {path}: file {name!r} was altered: sha256 {digest[:12]}…, the manifest says {entry.sha256[:12]}…")
    return _bundle(path, manifest)


def open_ranking_bundle(path: Path) -> RankingBundle:
    """Open a bundle as `open_bundle` does, which must be of the family ``ranking``.

    Raises
    ------
    BundleError
        As for `open_bundle`, or the bundle is of another family.
    """
    bundle = open_bundle(path)
    if not isinstance(bundle, RankingBundle):
        raise BundleError(f"bundle {path} is of the family {bundle.manifest.family!r}; 'ranking' is needed here")
    return bundle


@overload
def write_bundle(target: Path, manifest: RankingManifest, files: Mapping[str, Path], *, replace: bool = ...) -> RankingBundle: ...


@overload
def write_bundle(target: Path, manifest: ClipManifest, files: Mapping[str, Path], *, replace: bool = ...) -> ClipBundle: ...


def write_bundle(target: Path, manifest: Manifest, files: Mapping[str, Path], *, replace: bool = False) -> Bundle:
    """Write a bundle under a temporary name, sync it, rename it to `target` and open it again.

    Parameters
    ----------
    target
        Folder of the bundle; its parent must exist or be creatable.
    manifest
        Everything but ``files``, which is measured here.
    files
        Name inside the bundle → file to copy.
    replace
        Whether a bundle that is already at `target` may be replaced.

    Raises
    ------
    BundleError
        `target` exists and may not be replaced, or `manifest` breaks a rule.
    PilotageError
        `target` exists and is not a bundle.
    """
    require_writable(target, replace=replace)
    with replace_folder(target, marker=MANIFEST_NAME) as folder:
        for name, source in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
        entries = {name: FileEntry(sha256=sha256_of(folder / name), size_bytes=(folder / name).stat().st_size) for name in files}
        try:
            complete = type(manifest).model_validate({**manifest.model_dump(), "files": entries})
        except ValidationError as error:
            first = error.errors()[0]
            raise BundleError(f"no bundle can be written to {target}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        (folder / MANIFEST_NAME).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return open_bundle(target)


def require_writable(target: Path, *, replace: bool) -> None:
    """Check that `write_bundle` would take `target`, before hours go into what is to be written.

    Raises
    ------
    BundleError
        `target` exists and may not be replaced.
    PilotageError
        `target` exists and is not a bundle.
    """
    if target.exists() and not replace:
        raise BundleError(f"{target} exists already; choose another folder or ask for it to be replaced")
    require_replaceable(target, MANIFEST_NAME)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_manifest(content: bytes, path: Path | str) -> Manifest:
    """Read a manifest; `path` is the bundle's place, for messages.

    Raises
    ------
    BundleError
        It is not one, or of a schema version or family that this release does not read.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle {path}: {MANIFEST_NAME} cannot be read: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != MANIFEST_SCHEMA_VERSION:
        raise BundleError(
            f"bundle {path}: {MANIFEST_NAME} has schema version {version!r}, this release reads {MANIFEST_SCHEMA_VERSION}; "
            "make the bundle anew or use the release that wrote it"
        )
    family = document.get("family")
    kind = FAMILIES.get(family) if isinstance(family, str) else None
    if kind is None:
        raise BundleError(f"bundle {path}: {MANIFEST_NAME} has family {family!r}, this release reads {', '.join(FAMILIES)}")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "manifest"
        raise BundleError(f"bundle {path}: {MANIFEST_NAME} is invalid at {place}: {first['msg'].removeprefix('Value error, ')}") from error


def require_sha256(content: bytes, sha256: str, path: Path | str) -> None:
    """Check that a manifest is the one that was asked for.

    Raises
    ------
    BundleError
        It has another checksum.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BundleError(
            f"bundle {path}: {MANIFEST_NAME} has sha256 {found}, {sha256} was asked for: this is another bundle, or another version of it"
        )


def _read_manifest(path: Path, sha256: str | None) -> Manifest:
    file = path / MANIFEST_NAME
    if not path.is_dir():
        raise BundleError(f"bundle {path}: no such folder")
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"bundle {path}: {MANIFEST_NAME} has over {MAX_MANIFEST_BYTES} bytes and is not read")
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"bundle {path}: file {MANIFEST_NAME!r} is missing; is this a bundle?") from error
    except OSError as error:
        raise BundleError(f"bundle {path}: {MANIFEST_NAME} cannot be read: {error}") from error
    if sha256 is not None:
        require_sha256(content, sha256, path)
    return parse_manifest(content, path)


def _bundle(path: Path, manifest: Manifest) -> Bundle:
    return RankingBundle(path, manifest) if isinstance(manifest, RankingManifest) else ClipBundle(path, manifest)


def _plain_files(path: Path) -> set[str]:
    """Names of all files below `path`; a link or device is refused, since a checksum would not pin it."""
    names: set[str] = set()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(folder, name)
            mode = entry.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise BundleError(f"bundle {path}: {entry.relative_to(path).as_posix()!r} is not a plain file")
        names.update(Path(folder, name).relative_to(path).as_posix() for name in files)
    return names
