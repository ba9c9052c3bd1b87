from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from optimize.data.scenes.captions import caption, draw_claim, grammar
from optimize.data.scenes.dataset import Scenes, draw_training_scenes
from optimize.data.scenes.suites import Suite
from optimize.features.words import PAD_ID, UNKNOWN_ID, build_tokenizer
from optimize.models.clip_small import MAX_SCALE, ClipSmall, ClipSmallSettings
from optimize.training.contrastive import (
    LABEL_SETS,
    ContrastiveSettings,
    TorchTowers,
    contrastive_loss,
    embed_tokens,
    tokenize,
    train,
)
from optimize.training.loop import TrainingDiverged
from optimize.training.zero_shot import choose

TINY = ClipSmallSettings(stem=(4, 8), width=16, heads=2, hidden=16, embedding_size=16)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return draw_training_scenes(128, 0)


def _tokenizer() -> Tokenizer:
    return build_tokenizer(grammar(), TINY.context_length)


def test_a_caption_that_is_true_of_another_picture_is_no_negative() -> None:
    logits = torch.tensor([[2.0, 2.0, -1.0, 0.0], [2.0, 2.0, -1.0, -1.0]])
    apart = torch.tensor([[True, False], [False, True], [False, False], [False, False]])
    shared = torch.tensor([[True, True], [True, True], [False, False], [False, False]])
    assert contrastive_loss(logits, shared) < contrastive_loss(logits, apart)
    moved = logits.clone()
    moved[0, 1] = 9.0  # caption 1 on picture 0, of which it is true, too
    assert torch.equal(contrastive_loss(moved, shared), contrastive_loss(logits, shared))
    assert contrastive_loss(moved, apart) > contrastive_loss(logits, apart)


def test_a_hard_negative_that_is_chosen_costs() -> None:
    true = torch.tensor([[True, False], [False, True], [False, False], [False, False]])
    good = torch.tensor([[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]])
    fooled = good.clone()
    fooled[0, 2] = 9.0
    assert contrastive_loss(fooled, true) > contrastive_loss(good, true) + 0.1  # ln 2, of one picture of two, in one of two directions


def test_training_lowers_the_loss_and_repeats_itself(scenes: Scenes) -> None:
    tokenizer = _tokenizer()

    def trained() -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(0)
        model = ClipSmall(TINY, tokenizer.get_vocab_size())
        steps: list[int] = []
        settings = ContrastiveSettings(scenes=128, epochs=3, batch_size=32, warmup_steps=2, label_set_weight=0.2)
        epochs = train(model, tokenizer, scenes, settings, 0, lambda towers: 0.0, lambda step, total, loss: steps.append(total))
        assert steps == [12] * 12
        return [epoch.loss for epoch in epochs], model.image.head.weight.detach().clone()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        losses, weights = trained()
        again, same = trained()
    finally:
        torch.set_num_threads(threads)
    assert losses[-1] < losses[0] - 0.05
    assert losses == again
    assert torch.equal(weights, same)


def test_embeddings_have_length_one_and_know_no_padding_nor_neighbours(scenes: Scenes) -> None:
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    towers = TorchTowers(ClipSmall(TINY, tokenizer.get_vocab_size()), tokenizer)
    texts = ["a red star", "three large striped blue circles in the top left corner on a white background"]
    together = towers.texts(texts)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together[0], towers.texts(texts[:1])[0], atol=1e-5)
    images = towers.images(scenes.pixels[:5])
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    assert np.allclose(images[3], towers.images(scenes.pixels[3:4])[0], atol=1e-5)


def test_texts_are_embedded_in_their_order_whatever_their_length(scenes: Scenes) -> None:
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    model = ClipSmall(TINY, tokenizer.get_vocab_size()).eval()
    tokens = tokenize(
        tokenizer, [caption(draw_claim(scene, random.Random(at)), random.Random(at)) for at, scene in enumerate(scenes.scenes[:50])]
    )
    with torch.inference_mode():
        assert torch.allclose(embed_tokens(model, tokens), model.text(tokens), atol=1e-5)


def test_scale_stays_below_its_bound() -> None:
    model = ClipSmall(TINY, 10)
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    assert model.logit_scale.item() == MAX_SCALE


def test_tokenizer_knows_every_word_of_training_and_calls_others_unknown(scenes: Scenes) -> None:
    tokenizer = _tokenizer()
    rng = random.Random(9)
    known = [caption(claim, rng) for claims in LABEL_SETS.values() for claim in claims]
    known += [caption(draw_claim(scene, rng), rng) for scene in scenes.scenes[:20]]
    assert UNKNOWN_ID not in tokenizer.encode("a red star in the top left corner").ids
    assert not any(UNKNOWN_ID in tokenizer.encode(text).ids for text in known)
    ids = tokenizer.encode("A RED Wombat").ids
    assert ids[1:4] == [*tokenizer.encode("a red").ids[1:3], UNKNOWN_ID]
    assert PAD_ID not in ids


def test_a_model_that_answers_the_same_to_all_gets_no_two_way_question_right() -> None:
    options = np.array([[0, 1], [2, 3]])
    suite = Suite("x", "x", (), (), options[:, 0], options)
    flat = np.ones((2, 3), np.float32)
    assert (choose(suite, flat, np.ones((4, 3), np.float32)) != suite.target).all()


@pytest.mark.parametrize(("name", "value"), [("scenes", 10), ("word_dropout", 1.0), ("learning_rate", 0.0), ("colour", 1)])
def test_settings_out_of_bounds_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        ContrastiveSettings.model_validate({name: value})


def test_a_loss_that_is_no_number_ends_the_training(scenes: Scenes) -> None:
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    model = ClipSmall(TINY, tokenizer.get_vocab_size())
    with torch.no_grad():
        model.image.head.weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        train(model, tokenizer, scenes, ContrastiveSettings(scenes=128, epochs=1), 0, lambda towers: 0.0, lambda *step: None)


def test_fewer_scenes_than_a_batch_are_one_batch() -> None:
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    steps: list[int] = []
    settings = ContrastiveSettings(scenes=100, epochs=2)
    data = draw_training_scenes(20, 0)
    train(
        ClipSmall(TINY, tokenizer.get_vocab_size()), tokenizer, data, settings, 0, lambda towers: 0.0, lambda step, *_: steps.append(step)
    )
    assert steps == [1, 2]
