"""CLIP checkpoints of each layout are read as what they are, or refused by name."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from optimize.export.clip.checkpoint import CheckpointError
from optimize.export.clip.load import HubUnreachable, load_checkpoint
from tests.clip_checkpoints import LENGTH, SIDE, edit_json, save_clip, save_siglip

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("checkpoints") / "Tiny CLIP")


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_siglip(tmp_path_factory.mktemp("checkpoints") / "siglip")


@pytest.fixture
def clip_copy(clip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip_folder, tmp_path / "copy"))


@pytest.fixture
def siglip_copy(siglip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(siglip_folder, tmp_path / "copy"))


def test_a_clip_folder_says_how_pictures_texts_and_scores_are_made(clip_folder: Path) -> None:
    checkpoint = load_checkpoint(str(clip_folder), templates="simple")
    spec = checkpoint.parts.spec
    assert (spec.image.size, spec.image.resize, spec.image.resize_to, spec.image.resample) == (SIDE, "shortest_edge", SIDE, "bicubic")
    assert spec.image.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert spec.text.model_dump() == {
        "context_length": LENGTH, "padding": "longest", "pad_id": checkpoint.parts.end_id, "canonicalize": "none", "truncate": True, "uses_attention_mask": False,
    }  # fmt: skip
    assert (spec.scoring.kind, spec.scoring.logit_bias) == ("softmax", None)
    assert spec.scoring.logit_scale == pytest.approx(float(checkpoint.parts.model.logit_scale.detach().exp()))
    assert (spec.embedding_size, spec.templates) == (24, "simple")
    assert checkpoint.source.name == "Tiny CLIP"
    assert load_checkpoint(str(clip_folder)).source.fingerprint == checkpoint.source.fingerprint


def test_a_siglip_folder_is_squashed_padded_to_64_canonical_and_scored_by_a_sigmoid(siglip_folder: Path) -> None:
    spec = load_checkpoint(str(siglip_folder)).parts.spec
    assert (spec.image.resize, spec.image.resample, spec.image.mean) == ("squash", "bicubic", (0.5, 0.5, 0.5))
    assert (spec.text.context_length, spec.text.padding, spec.text.pad_id, spec.text.canonicalize) == (64, "max_length", 1, "siglip")
    assert spec.scoring.kind == "sigmoid"
    assert spec.scoring.logit_scale == pytest.approx(torch.tensor(4.7).exp().item())
    assert spec.scoring.logit_bias == pytest.approx(-16.5)


def test_siglip_2_of_fixed_resolution_is_only_lower_cased(tmp_path: Path) -> None:
    spec = load_checkpoint(str(save_siglip(tmp_path / "siglip2", second=True))).parts.spec
    assert (spec.image.resample, spec.text.pad_id, spec.text.canonicalize) == ("bilinear", 0, "lower")
    assert (spec.text.context_length, spec.text.padding) == (64, "max_length")


def test_settings_may_lie_in_the_processors_file_and_be_written_as_older_releases_did(clip_copy: Path) -> None:
    settings = json.loads((clip_copy / "preprocessor_config.json").read_text())
    (clip_copy / "preprocessor_config.json").unlink()
    (clip_copy / "processor_config.json").write_text(json.dumps({"image_processor": {**settings, "size": SIDE + 4, "crop_size": SIDE}}))
    assert load_checkpoint(str(clip_copy)).parts.spec.image.resize_to == SIDE + 4


def test_a_vocabulary_with_merges_makes_the_same_tokenizer(clip_copy: Path) -> None:
    whole = load_checkpoint(str(clip_copy)).parts.tokenizer
    model = json.loads((clip_copy / "tokenizer.json").read_text())["model"]
    (clip_copy / "tokenizer.json").unlink()
    (clip_copy / "vocab.json").write_text(json.dumps(model["vocab"]))
    (clip_copy / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    built = load_checkpoint(str(clip_copy)).parts.tokenizer
    for text in ("a cat and a DOG", "cats' dogs, 12", "café  \n x", ""):
        assert built.encode(text).ids == whole.encode(text).ids


def test_sharded_weights_are_found_by_their_index(clip_copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(clip_copy / "model.safetensors")
    expected = load_checkpoint(str(clip_copy)).parts.model.state_dict()
    (clip_copy / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, clip_copy / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (clip_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    found = load_checkpoint(str(clip_copy)).parts.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    (clip_copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lists 'model-00002-of-00002\.safetensors', which is missing"):
        load_checkpoint(str(clip_copy))


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _without_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _with_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = {**load_file(folder / "model.safetensors"), "adapter.weight": torch.zeros(2, 2)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _wide(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    document["vision_config"]["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(document))


def _lying_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", 2**60))


def _end(value: int) -> Damage:
    def damage(folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        document["text_config"]["eos_token_id"] = value
        (folder / "config.json").write_text(json.dumps(document))

    return damage


def _preprocessor(**values: Any) -> Damage:
    return lambda folder: edit_json(folder / "preprocessor_config.json", **values)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "file 'config.json' is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds a list, not an object"),
        (lambda f: edit_json(f / "config.json", model_type="siglip2"), "variable resolution (NaFlex)"),
        (lambda f: edit_json(f / "config.json", model_type="bert"), "model_type is 'bert'; 'clip' and 'siglip' are served"),
        (lambda f: edit_json(f / "config.json", model_type=None), "model_type is None"),
        (lambda f: (f / "model.safetensors").unlink(), "there are no weights: 'model.safetensors' is missing"),
        (_pickle_only, "'pytorch_model.bin' only, a pickle, which runs code when it is loaded"),
        (lambda f: os.truncate(f / "model.safetensors", 1000), "cannot be loaded as CLIPModel"),
        (_lying_header, "cannot be loaded as CLIPModel"),
        (_without_weight, "lacks visual_projection.weight"),
        (_with_weight, "has no place for adapter.weight"),
        (_wide, "cannot be loaded as CLIPModel"),
        (lambda f: (f / "tokenizer.json").unlink(), "file 'tokenizer.json' is missing"),
        (lambda f: ((f / "tokenizer.json").unlink(), (f / "spiece.model").write_bytes(b"x")), "a SentencePiece model is there"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read as a tokenizer"),
        (_end(7), "the model reads them at token 7 (eos_token_id)"),
        (lambda f: edit_json(f / "tokenizer_config.json", padding_side="left"), "padding_side is 'left'"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "file 'preprocessor_config.json' is missing"),
        (
            _preprocessor(crop_size={"height": 64, "width": 64}, size={"shortest_edge": 64}),
            "pictures become 64×64, but the model takes 32×32",
        ),
        (_preprocessor(crop_size={"height": 32, "width": 16}), "crop_size is {'height': 32, 'width': 16}, not a square"),
        (_preprocessor(size={"shortest_edge": 16}), "no square of 32 can be cut out"),
        (_preprocessor(size={"longest_edge": 32}), "not a square"),
        (_preprocessor(do_center_crop=False), "not cropped, so they are no squares"),
        (_preprocessor(do_resize=False), "do_resize is false"),
        (_preprocessor(do_rescale=False), "do_rescale is false"),
        (_preprocessor(rescale_factor=1.0), "rescale_factor is 1.0, only 1/255 is served"),
        (_preprocessor(resample=0), "resample is 0; 1 (lanczos), 2 (bilinear), 3 (bicubic) are served"),
        (_preprocessor(image_std=[0.0, 1.0, 1.0]), "must be above 0"),
    ],
)
def test_a_folder_that_will_not_do_is_refused_by_name(clip_copy: Path, damage: Damage, message: str) -> None:
    damage(clip_copy)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(clip_copy))
    assert message in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(siglip_copy: Path, clip_folder: Path) -> None:
    shutil.copy(clip_folder / "tokenizer.json", siglip_copy)
    with pytest.raises(CheckpointError, match="ids up to 517, the text model knows 64 tokens; they are not of one model"):
        load_checkpoint(str(siglip_copy))


def test_a_pickle_is_never_opened(clip_copy: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(clip_copy / "sprung"),))

    torch.save({"weight": Trap()}, clip_copy / "pytorch_model.bin")
    (clip_copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="pickle"):
        load_checkpoint(str(clip_copy))
    assert not (clip_copy / "sprung").exists()


@pytest.mark.parametrize("revision", [None, "main", "v1", "abc123"])
def test_a_model_on_the_hub_needs_a_revision_that_cannot_move(revision: str | None) -> None:
    with pytest.raises(CheckpointError, match="name the commit with --revision, 40 hexadecimal digits"):
        load_checkpoint("somebody/clip", revision=revision)


def test_a_reference_that_is_neither_folder_nor_id_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    for reference in (str(tmp_path / "absent"), "absent", "a/b/c"):
        with pytest.raises(CheckpointError, match="no such folder, and no id on the hub"):
            load_checkpoint(reference)
    with pytest.raises(CheckpointError, match="a revision goes with an id on the hub"):
        load_checkpoint(str(clip_folder), revision="0" * 40)


def test_without_a_network_the_hub_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", _unreachable)
    with pytest.raises(HubUnreachable, match="could not be fetched: ConnectionError: no route to host; without a network, copy") as caught:
        load_checkpoint("somebody/clip", revision="0" * 40)
    assert caught.value.exit_code == 3


def _unreachable(*_: Any, **__: Any) -> str:
    raise ConnectionError("no route to host")


def test_a_fetched_model_is_read_like_a_folder_and_keeps_its_revision(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(clip_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    source = load_checkpoint("somebody/clip", revision="1" * 40).source
    assert (source.name, source.revision) == ("somebody/clip", "1" * 40)
    assert (asked["name"], asked["revision"]) == ("somebody/clip", "1" * 40)
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked["allow_patterns"])
