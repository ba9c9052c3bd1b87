"""A bundle of the family ``clip``: what its manifest must say, and that its towers are held to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import parser
from pydantic import ValidationError
from typer.testing import CliRunner

from optimize.cli.bundle import app
from serving.clip.prompts import NAMED
from serving.contract.bundle import ClipBundle, RankingBundle, open_bundle, open_ranking_bundle, write_bundle
from serving.contract.clip import ClipSpec, TemplateSet
from serving.contract.errors import BundleError
from serving.contract.manifest import ClipManifest, Provenance, Quality, Source, TowerFiles, clip_signatures, difference
from serving.runtime.session import GraphSession

SIZE, LENGTH, DIM = 4, 6, 3

SPEC: dict[str, Any] = {
    "image": {
        "size": SIZE,
        "resize": "shortest_edge",
        "resize_to": 5,
        "resample": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
    "text": {
        "context_length": LENGTH,
        "padding": "max_length",
        "pad_id": 0,
        "canonicalize": "none",
        "truncate": True,
        "uses_attention_mask": False,
    },
    "scoring": {"kind": "softmax", "logit_scale": 100.0},
    "embedding_size": DIM,
    "templates": "single",
}

IMAGE_TOWER = f"""
<ir_version: 10, opset_import: ["": 20]>
image (uint8[B, {SIZE}, {SIZE}, 3] pixels) => (float[B, {DIM}] image_embeds) <int64[2] axes = {{1, 2}}>
{{
  values = Cast <to = 1> (pixels)
  means = ReduceMean <keepdims = 0> (values, axes)
  image_embeds = LpNormalization <axis = 1, p = 2> (means)
}}
"""
TEXT_TOWER = f"""
<ir_version: 10, opset_import: ["": 20]>
text (int64[T, {LENGTH}] input_ids) => (float[T, {DIM}] text_embeds) <int64[2] shape = {{-1, {DIM}}}, int64[1] start = {{0}}, int64[1] end = {{{DIM}}}, int64[1] axis = {{1}}>
{{
  first = Slice (input_ids, start, end, axis)
  values = Cast <to = 1> (first)
  text_embeds = LpNormalization <axis = 1, p = 2> (values)
}}
"""


def manifest(spec: dict[str, Any] = SPEC) -> ClipManifest:
    return ClipManifest.model_construct(
        name="tiny-clip",
        version="1",
        family="clip",
        towers=TowerFiles(image="image.onnx", text="text.onnx"),
        tokenizer="tokenizer.json",
        clip=ClipSpec.model_validate(spec),
        quality=Quality(data="none", data_fingerprint="0", rows=1, metrics={}),
        provenance=Provenance(
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            architecture="none",
            variant="fp32",
            seed=None,
            versions={},
            source=Source(name="somebody/clip", revision="0" * 40, fingerprint="0" * 64),
        ),
        files={},
    )


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, text in (("image.onnx", IMAGE_TOWER), ("text.onnx", TEXT_TOWER)):
        onnx.save(parser.parse_model(text), str(folder / name))
    (folder / "tokenizer.json").write_text("{}")
    return {file.name: file for file in folder.iterdir()}


@pytest.fixture
def bundle(parts: dict[str, Path], tmp_path: Path) -> ClipBundle:
    return write_bundle(tmp_path / "bundle", manifest(), parts)


def _edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads((path / "manifest.json").read_text())
    change(document)
    (path / "manifest.json").write_text(json.dumps(document))
    return path


def test_a_clip_bundle_opens_as_it_was_written_and_knows_its_files(bundle: ClipBundle) -> None:
    opened = open_bundle(bundle.path)
    assert isinstance(opened, ClipBundle)
    assert opened == bundle
    assert opened.manifest.clip == ClipSpec.model_validate(SPEC)
    assert opened.manifest.provenance.source == manifest().provenance.source
    for path in (opened.image_path, opened.text_path, opened.tokenizer_path):
        assert path.is_file()


def test_the_towers_have_the_signatures_that_follow_from_the_specification(bundle: ClipBundle) -> None:
    image, text = (GraphSession(path, threads=1) for path in (bundle.image_path, bundle.text_path))
    image.require(bundle.manifest.signatures.image)
    text.require(bundle.manifest.signatures.text)
    (embeds,) = image.run({"pixels": np.full((2, SIZE, SIZE, 3), 9, np.uint8)})
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-6)
    with pytest.raises(TypeError, match="'pixels' takes uint8"):
        image.run({"pixels": np.zeros((2, SIZE, SIZE, 3), np.float32)})


def test_verify_checks_both_towers(bundle: ClipBundle, parts: dict[str, Path], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["verify", str(bundle.path)]).exit_code == 0
    swapped = write_bundle(tmp_path / "swapped", manifest(), {**parts, "text.onnx": parts["image.onnx"]})
    refused = CliRunner().invoke(app, ["verify", str(swapped.path)])
    assert "'text.onnx' does not fit the manifest's signature: input 'input_ids' is missing" in str(refused.exception)


def test_a_tower_of_another_picture_size_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    other = {**SPEC, "image": {**SPEC["image"], "size": SIZE + 1}}
    written = write_bundle(tmp_path / "other", manifest(other), parts)
    with pytest.raises(BundleError, match="axis 1 of input 'pixels' is 4, expected 5"):
        GraphSession(written.image_path, threads=1).require(written.manifest.signatures.image)


def test_texts_have_any_length_where_they_are_padded_to_the_longest_and_a_mask_where_it_is_used() -> None:
    longest = {**SPEC, "text": {**SPEC["text"], "padding": "longest", "uses_attention_mask": True}}
    (ids, mask) = clip_signatures(ClipSpec.model_validate(longest)).text.inputs
    assert (ids.name, ids.shape) == ("input_ids", ("T", "L"))
    assert (mask.name, mask.shape) == ("attention_mask", ("T", "L"))
    fixed = clip_signatures(ClipSpec.model_validate(SPEC)).text
    assert fixed.inputs[0].shape == ("T", LENGTH)
    assert difference(fixed, clip_signatures(ClipSpec.model_validate(longest)).text) == "input 'attention_mask' is not expected"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(family="audio"), "family 'audio', this release reads ranking, clip"),
        (lambda m: m.update(family=["clip"]), "family ['clip']"),
        (lambda m: m.pop("family"), "family None"),
        (lambda m: m["towers"].update(image="absent.onnx"), "image tower 'absent.onnx' is not among the files"),
        (lambda m: m["towers"].update(text="absent.onnx"), "text tower 'absent.onnx' is not among the files"),
        (lambda m: m.update(tokenizer="vocab.txt"), "tokenizer 'vocab.txt' is not among the files"),
        (lambda m: m["towers"].update(text="image.onnx"), "must be three files"),
        (lambda m: m.update(features={}), "invalid at features"),
        (lambda m: m["clip"]["image"].update(size=0), "invalid at clip.image.size"),
        (lambda m: m["provenance"]["source"].update(fingerprint="1"), "invalid at provenance.source.fingerprint"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    bundle: ClipBundle, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        open_bundle(_edited(bundle.path, change))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("image", {"resize_to": 3}, "no square of 4 can be cut out"),
        ("image", {"resize": "squash"}, "a squashed picture has the size, 4"),
        ("image", {"std": [0.5, 0.0, 0.5]}, "must be above 0"),
        ("image", {"mean": [0.5, float("nan"), 0.5]}, "finite"),
        ("image", {"resample": "nearest"}, "'bicubic', 'bilinear' or 'lanczos'"),
        ("scoring", {"kind": "sigmoid"}, "a sigmoid needs one"),
        ("scoring", {"logit_bias": -10.0}, "a softmax has none"),
        ("scoring", {"logit_scale": 0.0}, "greater than 0"),
        ("scoring", {"logit_scale": float("inf")}, "finite"),
        ("text", {"context_length": 0}, "greater than or equal to 1"),
        ("text", {"colour": "red"}, "not permitted"),
    ],
)
def test_a_specification_that_no_model_can_have_is_refused(part: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClipSpec.model_validate({**SPEC, part: {**SPEC[part], **values}})


def test_the_contract_names_the_template_sets_that_there_are() -> None:
    assert set(get_args(TemplateSet)) == set(NAMED)


def test_each_family_is_told_apart_where_only_one_will_do(bundle: ClipBundle, tiny_bundle: RankingBundle, tmp_path: Path) -> None:
    assert open_ranking_bundle(Path(shutil.copytree(tiny_bundle.path, tmp_path / "ranking"))).manifest == tiny_bundle.manifest
    with pytest.raises(BundleError, match="is of the family 'clip'; 'ranking' is needed here"):
        open_ranking_bundle(bundle.path)
