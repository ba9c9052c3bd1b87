"""A bundle is written whole or not at all, and opens only if nothing about it is wrong; the message names the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import serving.contract.bundle as bundles
from serving.contract import files
from serving.contract.bundle import RankingBundle, open_bundle, sha256_of, write_bundle
from serving.contract.errors import BundleError, PilotageError
from serving.contract.fields import FeatureSpec, parse_spec
from serving.contract.manifest import RankingManifest, ranking_signature
from serving.ranking.ranker import Ranker

GRAPH, MANIFEST = "model.onnx", "manifest.json"
Damage = Callable[[Path], object]


@pytest.fixture
def copy(tiny_bundle: RankingBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))


@pytest.fixture
def other_spec(tiny_spec: FeatureSpec) -> FeatureSpec:
    """`tiny_spec` with one more number."""
    document = tiny_spec.model_dump(mode="json")
    document["fields"].append({"name": "stock", "kind": "numeric", "part": "candidate"})
    return parse_spec(document, "other")


def _edit(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(path: Path) -> None:
        document = json.loads((path / MANIFEST).read_text())
        change(document)
        (path / MANIFEST).write_text(json.dumps(document))

    return damage


def _flip_a_bit(path: Path) -> None:
    content = bytearray((path / GRAPH).read_bytes())
    content[len(content) // 2] ^= 1
    (path / GRAPH).write_bytes(content)


def _link(path: Path) -> None:
    shutil.move(path / GRAPH, path.parent / GRAPH)
    (path / GRAPH).symlink_to(path.parent / GRAPH)


def _link_folder(path: Path) -> None:
    (path / "extra").symlink_to(path.parent, target_is_directory=True)


def _nest(path: Path) -> None:
    (path / "weights").mkdir()
    (path / "weights" / "w.bin").write_bytes(b"w")


def test_an_untouched_copy_opens_and_knows_its_graph(copy: Path, tiny_bundle: RankingBundle) -> None:
    opened = open_bundle(copy)
    assert opened.manifest == tiny_bundle.manifest
    assert opened.graph_path == copy / GRAPH
    assert opened.manifest.files[GRAPH].sha256 == sha256_of(copy / GRAPH)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / GRAPH).unlink(), "file 'model.onnx' is missing"),
        (lambda path: (path / "notes.txt").write_text("x"), "file 'notes.txt' is not in the manifest"),
        (lambda path: (path / ".hidden").write_text("x"), "file '.hidden' is not in the manifest"),
        (_nest, "file 'weights/w.bin' is not in the manifest"),
        (lambda path: os.truncate(path / GRAPH, 100), "file 'model.onnx' has 100 bytes"),
        (lambda path: os.truncate(path / GRAPH, 0), "file 'model.onnx' has 0 bytes"),
        (_flip_a_bit, "file 'model.onnx' was altered"),
        (_link, "'model.onnx' is not a plain file"),
        (_link_folder, "'extra' is not a plain file"),
        (lambda path: os.mkfifo(path / "pipe"), "'pipe' is not a plain file"),
        (lambda path: (path / MANIFEST).unlink(), "file 'manifest.json' is missing"),
        (lambda path: (path / MANIFEST).write_text("{"), "manifest.json cannot be read"),
        (lambda path: (path / MANIFEST).write_bytes(b"\xff\xfe"), "manifest.json cannot be read"),
        (lambda path: (path / MANIFEST).write_text("[]"), "manifest.json has schema version None"),
        (lambda path: os.truncate(path / MANIFEST, 9 * 2**20), "manifest.json has over 8388608 bytes"),
        (_edit(lambda m: m.update(schema_version=2)), "manifest.json has schema version 2"),
        (_edit(lambda m: m.pop("schema_version")), "manifest.json has schema version None"),
        (_edit(lambda m: m.update(colour="red")), "manifest.json is invalid at colour"),
        (_edit(lambda m: m.pop("features")), "manifest.json is invalid at features"),
        (_edit(lambda m: m.update(graph="absent.onnx")), "graph 'absent.onnx' is not among the files"),
        (_edit(lambda m: m["files"][GRAPH].update(sha256="0" * 63)), "manifest.json is invalid at files.model.onnx.sha256"),
        (_edit(lambda m: m["quality"]["metrics"].update(auc=float("inf"))), "metric 'auc' is inf"),
        (_edit(lambda m: m["signature"]["inputs"][0].update(dtype="int64")), "input 'user_id' is int64, expected string"),
        (_edit(lambda m: m["signature"]["inputs"].pop(3)), "input 'age' is missing"),
        (_edit(lambda m: m["signature"]["outputs"][0].update(name="score")), "output 'probability' is missing"),
        (_edit(lambda m: m["features"]["fields"][0].update(part="candidate")), "signature does not follow"),
        (_edit(lambda m: m["features"]["fields"][2].update(max_values=1)), "input 'history' has 2 axes, expected 1"),
        (_edit(lambda m: m["files"].update({"../copy/manifest.json": m["files"][GRAPH]})), "file '../copy/manifest.json' is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_refused_by_name(copy: Path, damage: Damage, message: str) -> None:
    damage(copy)
    with pytest.raises(BundleError) as caught:
        open_bundle(copy)
    assert message in str(caught.value)
    assert str(copy) in str(caught.value)


def test_a_manifest_nested_too_deep_is_refused(copy: Path) -> None:
    (copy / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(BundleError):
        open_bundle(copy)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(BundleError, match="no such folder"):
            open_bundle(path)


def _fitting(manifest: RankingManifest, spec: FeatureSpec) -> RankingManifest:
    return manifest.model_copy(update={"features": spec, "signature": ranking_signature(spec)})


def test_a_graph_that_does_not_take_the_manifests_inputs_is_refused(
    tiny_bundle: RankingBundle, other_spec: FeatureSpec, tmp_path: Path
) -> None:
    manifest = _fitting(tiny_bundle.manifest, other_spec)
    bundle = write_bundle(tmp_path / "other", manifest, {GRAPH: tiny_bundle.graph_path})
    with pytest.raises(BundleError, match=r"'model\.onnx' does not fit the manifest's signature: input 'stock' is missing"):
        Ranker(bundle, threads=1, max_candidates=5)


def test_a_graph_that_takes_more_than_the_manifest_says_is_refused(tiny_bundle: RankingBundle, tmp_path: Path) -> None:
    document = tiny_bundle.manifest.features.model_dump(mode="json")
    document["fields"] = [field for field in document["fields"] if field["name"] != "price"]
    manifest = _fitting(tiny_bundle.manifest, parse_spec(document, "smaller"))
    bundle = write_bundle(tmp_path / "smaller", manifest, {GRAPH: tiny_bundle.graph_path})
    with pytest.raises(BundleError, match="input 'price' is not expected"):
        Ranker(bundle, threads=1, max_candidates=5)


def test_garbage_with_right_checksums_is_refused_when_loaded(tiny_bundle: RankingBundle, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"no graph at all" * 100)
    bundle = write_bundle(tmp_path / "bad", tiny_bundle.manifest, {GRAPH: tmp_path / "garbage"})
    with pytest.raises(BundleError, match=r"model\.onnx cannot be loaded"):
        Ranker(bundle, threads=1, max_candidates=5)


def _write(target: Path, bundle: RankingBundle, **options: bool) -> RankingBundle:
    return write_bundle(target, bundle.manifest, {GRAPH: bundle.graph_path}, **options)


def test_a_written_bundle_can_be_read_by_other_users_and_leaves_nothing_beside_it(tiny_bundle: RankingBundle, tmp_path: Path) -> None:
    written = _write(tmp_path / "new" / "bundle", tiny_bundle)
    assert written == open_bundle(tmp_path / "new" / "bundle")
    assert written.path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bundle"]
    assert sorted(path.name for path in written.path.iterdir()) == [MANIFEST, GRAPH]


def _fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Let the `call`-th call of a function fail, as a full disk would."""
    real, calls = getattr(owner, name), []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)


# Files are copied, hashed, described, each is synced (1, 2), the folder is synced (3), then renamed into place.
STEPS = [(bundles, "sha256_of", 1), (files, "sync", 1), (files, "sync", 2), (files, "sync", 3)]


@pytest.mark.parametrize(("room", "step", "call"), STEPS)
def test_a_write_that_fails_leaves_nothing(
    tiny_bundle: RankingBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: ModuleType, step: str, call: int
) -> None:
    _fail_at(monkeypatch, room, step, call)
    with pytest.raises(OSError, match="No space left"):
        _write(tmp_path / "bundle", tiny_bundle)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("room", "step", "call"), STEPS)
def test_a_replacement_that_fails_leaves_the_old_bundle(
    tiny_bundle: RankingBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: ModuleType, step: str, call: int
) -> None:
    _write(tmp_path / "bundle", tiny_bundle)
    inode = (tmp_path / "bundle").stat().st_ino
    _fail_at(monkeypatch, room, step, call)
    with pytest.raises(OSError, match="No space left"):
        _write(tmp_path / "bundle", tiny_bundle, replace=True)
    monkeypatch.undo()
    assert open_bundle(tmp_path / "bundle").manifest == tiny_bundle.manifest
    assert (tmp_path / "bundle").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_replacement_that_cannot_be_moved_in_place_puts_the_old_bundle_back(
    tiny_bundle: RankingBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "bundle", tiny_bundle)
    _fail_at(monkeypatch, os, "rename", 2)
    with pytest.raises(OSError, match="No space left"):
        _write(tmp_path / "bundle", tiny_bundle, replace=True)
    monkeypatch.undo()
    open_bundle(tmp_path / "bundle")


def test_a_missing_source_leaves_nothing(tiny_bundle: RankingBundle, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        write_bundle(tmp_path / "bundle", tiny_bundle.manifest, {GRAPH: tmp_path / "absent"})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_replaced_only_when_asked(tiny_bundle: RankingBundle, tmp_path: Path) -> None:
    _write(tmp_path / "bundle", tiny_bundle)
    with pytest.raises(BundleError, match="exists already"):
        _write(tmp_path / "bundle", tiny_bundle)
    newer = tiny_bundle.manifest.model_copy(update={"version": "2"})
    write_bundle(tmp_path / "bundle", newer, {GRAPH: tiny_bundle.graph_path}, replace=True)
    assert open_bundle(tmp_path / "bundle").manifest.version == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_is_no_bundle_is_never_replaced(tiny_bundle: RankingBundle, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(PilotageError, match="left alone"):
        _write(tmp_path / "home", tiny_bundle, replace=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    with pytest.raises(PilotageError, match="left alone"):
        _write(tmp_path / "file", tiny_bundle, replace=True)


def test_a_pinned_manifest_opens_and_another_one_does_not(copy: Path) -> None:
    assert open_bundle(copy, sha256_of(copy / MANIFEST))
    with pytest.raises(BundleError, match=f"has sha256 .*, {'0' * 64} was asked for"):
        open_bundle(copy, "0" * 64)
