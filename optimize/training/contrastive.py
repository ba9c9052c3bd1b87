"""Contrastive training of an image and a text tower on rendered scenes.

The loss is symmetric InfoNCE (van den Oord et al. 2018; Radford et al. 2021) with three changes that captions of scenes
allow, because what is in a picture is known:

* A caption that is true of another picture of the batch, too, is no negative: such pairs leave the softmax. Nor is one whose
  combination with that picture training never shows, be it true or not: from hearts that are never red a model would learn
  that what is red is no heart.
* Each caption has a twin with one thing changed, a hard negative for the picture (Yuksekgonul et al. 2023).
* For each attribute the texts of all its values form a label set, and a picture is classified among them, as it will be asked
  to do later. It teaches fine differences (three or four) that a random batch seldom has.

Letters: ``B`` pictures and captions of a batch, ``L`` tokens.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from optimize.data.scenes.captions import caption, draw_claim, draw_contrast
from optimize.data.scenes.combinations import shown_together
from optimize.data.scenes.dataset import Scenes
from optimize.data.scenes.render import Pixels
from optimize.data.scenes.scene import ATTRIBUTES, UNSAID, UNSETTLED, Codes, Scene, Thing, encode, truth
from optimize.data.scenes.vocabulary import MEDIUM, telling_words
from optimize.features.words import PAD_ID, UNKNOWN_ID
from optimize.models.clip_small import ClipSmall
from optimize.training.loop import TrainingDiverged
from optimize.training.zero_shot import Embeddings

EVALUATION_ROWS = 256
TEXT_RUNS = 4
"""Runs of the text tower for a batch of captions."""
EXCLUDED = -1e4
"""Logit of a pair that leaves the softmax; finite, so that its gradient is 0 and no NaN."""


class ContrastiveSettings(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenes: Annotated[int, Field(ge=100, le=10_000_000)] = 40_000
    """Pictures drawn for training; 12 kB each in memory."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 6
    """Passes over the pictures; every pass has new captions."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """At its highest; it rises over `warmup_steps` and falls along a cosine."""
    warmup_steps: Annotated[int, Field(ge=1)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Of matrices (AdamW); norms and biases have none."""
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Decay a step of the moving average of the weights that is kept."""
    label_set_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the classification among all values of an attribute."""
    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of words besides those of the attributes that a caption loses to the unknown word, so that strange phrasings do no harm."""


class Epoch(BaseModel):
    """One pass over the pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    loss: float
    """Of pictures against captions and back, mean over the pass."""
    logit_scale: float
    validation_accuracy: float
    seconds: float


LABEL_SETS: dict[str, tuple[Scene, ...]] = {
    name: tuple(Scene(Thing(**{"count": 1 if name == "subject" else None, name: value})) for value in values if value != MEDIUM)  # type: ignore[arg-type]
    for name, values in ATTRIBUTES.items()
}
"""Claims that name one attribute each, by attribute."""


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids ``(T, L) int64``, padded to the longest text."""
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(list(texts))])


def embed_tokens(model: ClipSmall, tokens: Tensor) -> Tensor:
    """Embed texts of like length together: most captions are half as long as the longest."""
    lengths = (tokens != PAD_ID).sum(dim=1)
    order = lengths.argsort()
    parts = [model.text(tokens[rows, : int(lengths[rows[-1]])]) for rows in order.chunk(TEXT_RUNS)]
    return torch.cat(parts)[order.argsort()]


class TorchTowers:
    """A model in torch, as `zero_shot.Towers`."""

    def __init__(self, model: ClipSmall, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def images(self, pixels: Pixels) -> Embeddings:
        """Embed pictures, in evaluation mode."""
        self.model.eval()
        with torch.inference_mode():
            return np.concatenate([self.model.image(part).numpy() for part in torch.split(torch.from_numpy(pixels), EVALUATION_ROWS)])

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts, in evaluation mode."""
        self.model.eval()
        with torch.inference_mode():
            found: Embeddings = self.model.text(tokenize(self.tokenizer, texts)).numpy()
        return found


def train(
    model: ClipSmall,
    tokenizer: Tokenizer,
    data: Scenes,
    settings: ContrastiveSettings,
    seed: int,
    validate: Callable[[TorchTowers], float],
    on_step: Callable[[int, int, float], None],
) -> list[Epoch]:
    """Train `model` in place and leave it at the moving average of its weights.

    Parameters
    ----------
    validate
        Accuracy on the validation part, for the record; nothing is chosen by it here.
    on_step
        Called with the step, the number of steps and the loss.

    Raises
    ------
    TrainingDiverged
        The loss became NaN or infinite.
    """
    rng, order = random.Random(seed), np.random.default_rng(seed)
    size = min(settings.batch_size, len(data))
    batches = len(data) // size
    steps = settings.epochs * batches
    codes, labels = encode(data.scenes, UNSETTLED), _label_set_targets(data.scenes)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))  # as Radford et al. 2021, table 18
    model.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    free = _free_words(tokenizer)
    weights = [value for value in model.state_dict().values() if value.is_floating_point()]
    average = [value.clone() for value in weights]
    history: list[Epoch] = []
    step = 0
    for epoch in range(1, settings.epochs + 1):
        started, losses = time.perf_counter(), []
        for index in order.permutation(len(data))[: batches * size].reshape(batches, size):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, steps, settings.warmup_steps)
            claims = [draw_claim(data.scenes[at], rng) for at in index.tolist()]
            claims += [draw_contrast(claim, rng) for claim in claims]
            tokens = tokenize(tokenizer, [caption(claim, rng) for claim in claims])
            tokens[(torch.rand(tokens.shape) < settings.word_dropout) & free[tokens]] = UNKNOWN_ID
            images = model.logit_scale * model.image(torch.from_numpy(data.pixels[index]))
            said, shown = encode(claims, UNSAID), codes[index]
            out = truth(said, shown) | ~shown_together(said, shown)
            loss = contrastive_loss(images @ embed_tokens(model, tokens).T, torch.from_numpy(out))
            losses.append(loss.item())
            if settings.label_set_weight:
                loss = loss + settings.label_set_weight * _label_set_loss(model, tokenizer, images, labels[index], shown, rng)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            with torch.no_grad():  # the ramp keeps the first, random weights out of a young average
                torch._foreach_lerp_(average, weights, 1 - min(settings.averaging, (1 + step) / (10 + step)))
            on_step(step, steps, losses[-1])
        if not np.isfinite(losses).all():
            raise TrainingDiverged(
                f"the training loss became {losses[-1]} in epoch {epoch}; try a lower learning_rate than {settings.learning_rate}"
            )
        current = [value.clone() for value in weights]
        _assign(weights, average)
        score = validate(TorchTowers(model, tokenizer))
        history.append(
            Epoch(
                epoch=epoch, loss=float(np.mean(losses)), logit_scale=model.logit_scale.item(),
                validation_accuracy=score, seconds=time.perf_counter() - started,
            )
        )  # fmt: skip
        if epoch < settings.epochs:
            _assign(weights, current)
    model.eval()
    return history


def contrastive_loss(logits: Tensor, out: Tensor) -> Tensor:
    """Symmetric cross-entropy of pictures and captions, false negatives left out.

    Parameters
    ----------
    logits
        ``(B, 2 B) float32``: pictures against their captions, then against the hard negatives.
    out
        ``(2 B, B) bool``: which text is no negative of which picture; its own is never left out.
    """
    batch = len(logits)
    own = torch.eye(batch, 2 * batch, dtype=torch.bool)
    logits = logits.masked_fill(out.T & ~own, EXCLUDED)
    target = torch.arange(batch)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits[:, :batch].T, target)) / 2


def _label_set_loss(model: ClipSmall, tokenizer: Tokenizer, images: Tensor, labels: np.ndarray, shown: Codes, rng: random.Random) -> Tensor:
    """Cross-entropy of pictures among the texts of all values of an attribute, mean over attributes.

    Parameters
    ----------
    images
        ``(B, D) float32``, scaled.
    labels
        ``(B, attributes) int64``, -100 where a picture has no one value.
    shown
        The scenes of the pictures, as of `encode`.
    """
    claims = [claim for found in LABEL_SETS.values() for claim in found]
    never = torch.from_numpy(~shown_together(encode(claims, UNSAID), shown)).T
    texts = embed_tokens(model, tokenize(tokenizer, [caption(claim, rng) for claim in claims]))
    logits = torch.split((images @ texts.T).masked_fill(never, EXCLUDED), [len(found) for found in LABEL_SETS.values()], dim=1)
    losses = [
        functional.cross_entropy(of_set, torch.from_numpy(labels[:, at]), reduction="sum") / max(1, int((labels[:, at] >= 0).sum()))
        for at, of_set in enumerate(logits)
    ]
    return torch.stack(losses).mean()


def _label_set_targets(scenes: Sequence[Scene]) -> np.ndarray:
    values = {name: [getattr(claim.first, name) for claim in claims] for name, claims in LABEL_SETS.items()}
    found = np.full((len(scenes), len(values)), -100, np.int64)
    for row, scene in zip(found, scenes, strict=True):
        for at, (name, known) in enumerate(values.items()):
            value = getattr(scene.first, name)
            if scene.second is None and value in known:
                row[at] = known.index(value)
    return found


def _free_words(tokenizer: Tokenizer) -> Tensor:
    """Which tokens carry no attribute ``(vocabulary,) bool``."""
    telling = telling_words()
    words = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return torch.tensor([word not in telling and not word.startswith("[") for word, _ in words])


def _schedule(step: int, steps: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def _assign(weights: list[Tensor], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
