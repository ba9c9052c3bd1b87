"""From checkpoints as transformers and open_clip write them to bundles that answer as those libraries do."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image
from typer.testing import CliRunner

from optimize.cli.bundle import app as bundle_app
from optimize.cli.clip import app
from optimize.export.clip.checkpoint import CheckpointError
from optimize.export.clip.hugging_face import quiet_transformers
from optimize.export.clip.load import load_checkpoint
from optimize.export.clip.vocabulary import BPE_FILE
from serving.clip.images import ImageReader
from serving.clip.tokenize import TextEncoder
from serving.contract.bundle import ClipBundle, open_bundle
from serving.runtime.session import GraphSession
from tests.clip_checkpoints import SIDE, edit_json, save_clip, save_siglip
from tests.open_clip_writer import TEXTS, pixels

ROOT = Path(__file__).parents[2]
TEXT_BATCHES = (1, 3, 8)

SAME = 2e-6
"""Largest difference of two embeddings of length 1. Two layers 48 wide: sums of some 200 products, 200 * 2**-24 = 1e-5 of their magnitudes at
worst (Higham 2002, section 4.2), while errors cancel; measured 2e-7."""


def _bundle(checkpoint: Path, target: Path, *options: str) -> ClipBundle:
    done = CliRunner().invoke(
        app, ["export", str(checkpoint), "--out", str(target), "--threads", "1", "--json", *options], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bundle"] == str(target)
    assert CliRunner().invoke(bundle_app, ["verify", str(target)], catch_exceptions=False).exit_code == 0
    bundle = open_bundle(target)
    assert isinstance(bundle, ClipBundle)
    return bundle


def _ids(bundle: ClipBundle, texts: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """As the service makes them."""
    feeds = TextEncoder(bundle.tokenizer_path, bundle.manifest.clip.text).encode(texts)
    assert list(feeds) == ["input_ids"]
    return feeds["input_ids"]


def _pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(count)]


def _pixels(bundle: ClipBundle, pictures: list[Image.Image]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    reader = ImageReader(bundle.manifest.clip.image, max_bytes=2**20, max_pixels=2**20)
    files = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG")
        files.append(file.getvalue())
    return np.stack([reader.read(file) for file in files])


@pytest.fixture(scope="module", params=["clip", "legacy_clip", "siglip2"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClipBundle]:
    folder = tmp_path_factory.mktemp(request.param)
    kind = request.param
    saved = save_siglip(folder / "model", second=True) if kind == "siglip2" else save_clip(folder / "model", legacy_end=kind != "clip")
    return saved, _bundle(saved, folder / "bundle")


def test_the_bundle_answers_as_transformers_with_its_own_processor_does(exported: tuple[Path, ClipBundle]) -> None:
    folder, bundle = exported
    texts = ["a cat", "A dog on a mat", "two cats", "x", "the lazy dog", "cat", "a b c d e f g h i j k l m n o p q r s t", "dog"]
    pictures = _pictures(max(TEXT_BATCHES))
    with quiet_transformers():
        from transformers import AutoModel, AutoTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        model = AutoModel.from_pretrained(folder).eval()
        is_clip = model.config.model_type == "clip"
        processor = (CLIPImageProcessorPil if is_clip else SiglipImageProcessorPil).from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    padding: dict[str, Any] = {"padding": True} if is_clip else {"padding": "max_length"}
    length = bundle.manifest.clip.text.context_length
    tokens = tokenizer(texts, truncation=True, max_length=length, return_tensors="pt", **padding)
    with torch.inference_mode():
        kept = tokens if is_clip else {"input_ids": tokens["input_ids"]}
        expected = model(pixel_values=processor(pictures, return_tensors="pt")["pixel_values"], **kept)
    image, text = (GraphSession(path, threads=1) for path in (bundle.image_path, bundle.text_path))
    read = _pixels(bundle, pictures)
    for size in TEXT_BATCHES:
        (found,) = image.run({"pixels": read[:size]})
        np.testing.assert_allclose(found, expected.image_embeds.numpy()[:size], atol=SAME)
        (found_texts,) = text.run({"input_ids": _ids(bundle, texts[:size])})
        np.testing.assert_allclose(found_texts, expected.text_embeds.numpy()[:size], atol=SAME)
    scoring = bundle.manifest.clip.scoring
    (images,), (labels,) = image.run({"pixels": read}), text.run({"input_ids": _ids(bundle, texts)})
    logits = images @ labels.T * scoring.logit_scale + (scoring.logit_bias or 0.0)
    np.testing.assert_allclose(logits, expected.logits_per_image.numpy(), atol=SAME * scoring.logit_scale)


def test_a_bundle_names_its_checkpoint_and_how_far_it_is_from_it(exported: tuple[Path, ClipBundle]) -> None:
    folder, bundle = exported
    manifest = bundle.manifest
    assert manifest.name == "model"
    assert manifest.provenance.source == load_checkpoint(str(folder)).source
    assert manifest.provenance.seed is None
    assert 0 <= manifest.quality.metrics["image_relative_difference"] < 1e-5
    assert 0 <= manifest.quality.metrics["text_relative_difference"] < 1e-5


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by open_clip, with what it answers beside it."""
    pytest.importorskip("ftfy", reason="it is in the extra `dev`")
    folder = tmp_path_factory.mktemp("open_clip")
    subprocess.run([sys.executable, str(ROOT / "tests/open_clip_writer.py"), str(folder)], check=True, timeout=200, cwd=ROOT)
    return folder


def test_an_open_clip_checkpoint_answers_as_open_clip_does(open_clip_folder: Path, tmp_path: Path) -> None:
    bundle = _bundle(open_clip_folder, tmp_path / "bundle", "--name", "oc", "--version", "7", "--templates", "imagenet80")
    with np.load(open_clip_folder / "answers.npz") as file:
        answers = dict(file)
    (image,) = GraphSession(bundle.image_path, threads=1).run({"pixels": pixels()})
    np.testing.assert_allclose(image, answers["image"], atol=SAME)
    ids = _ids(bundle, list(TEXTS))
    np.testing.assert_array_equal(ids, answers["ids"][:, : ids.shape[1]])
    (text,) = GraphSession(bundle.text_path, threads=1).run({"input_ids": ids})
    np.testing.assert_allclose(text, answers["text"], atol=SAME)
    manifest = bundle.manifest
    assert (manifest.name, manifest.version, manifest.clip.templates) == ("oc", "7", "imagenet80")
    assert manifest.clip.scoring.logit_scale == pytest.approx(float(answers["logit_scale"]))
    assert manifest.clip.image.mean == pytest.approx((0.48, 0.46, 0.41))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("vision_cfg", {"timm_model_name": "vit_base_patch16_siglip_224"}, "towers of other libraries are not read"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "towers of other libraries are not read"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "a ResNet, which is not served"),
        ("vision_cfg", {"attentional_pool": True}, "vision_cfg.attentional_pool is True, which is not served"),
        ("text_cfg", {"no_causal_mask": True}, "text_cfg.no_causal_mask is True"),
        ("text_cfg", {"pool_type": "last"}, "text_cfg.pool_type is 'last'"),
        ("vision_cfg", {"image_size": [32, 64]}, "models of square pictures are served"),
        ("vision_cfg", {"width": 96}, "does not fit open_clip_config.json"),
        ("vision_cfg", {"layers": 3}, "lacks vision_model.encoder.layers.2"),
        ("text_cfg", {"layers": 1}, "without a place in the model, text_model.encoder.layers.1"),
        ("text_cfg", {"vocab_size": 1000}, "not of one model"),
        ("text_cfg", {"hf_tokenizer_name": "gone/away"}, "file 'tokenizer.json' is missing"),
    ],
)
def test_an_open_clip_model_that_is_not_served_is_refused_by_its_setting(
    open_clip_folder: Path, tmp_path: Path, part: str, values: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(open_clip_folder, tmp_path / "copy"))
    config = json.loads((copy / "open_clip_config.json").read_text())["model_cfg"]
    edit_json(copy / "open_clip_config.json", model_cfg={**config, part: {**config[part], **values}})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(copy))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preprocess_cfg": {"resize_mode": "longest"}}, "resize_mode is 'longest'"),
        ({"preprocess_cfg": {"interpolation": "random"}}, "interpolation is 'random'"),
        ({"preprocess_cfg": {"size": [64, 64]}}, "pictures become 64×64, but the model takes 32×32"),
        ({"model_cfg": None}, "model_cfg is missing"),
    ],
)
def test_open_clip_preprocessing_that_is_not_served_is_refused(
    open_clip_folder: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(open_clip_folder, tmp_path / "copy"))
    edit_json(copy / "open_clip_config.json", **values)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(copy))


def test_a_pickled_open_clip_checkpoint_is_refused_with_what_to_do(open_clip_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(open_clip_folder, tmp_path / "copy"))
    (copy / "open_clip_model.safetensors").rename(copy / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"'open_clip_pytorch_model\.bin' only, a pickle.*convert it where you trust it"):
        load_checkpoint(str(copy))


def test_a_vocabulary_beside_the_model_comes_before_the_packages_and_damage_is_named(open_clip_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(open_clip_folder, tmp_path / "copy"))
    (copy / BPE_FILE).write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(CheckpointError, match="cannot be read as a byte-pair vocabulary"):
        load_checkpoint(str(copy))
