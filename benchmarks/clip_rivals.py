"""What others take for one picture in torch: transformers' zero-shot pipeline, and open_clip with its labels embedded before."""

from __future__ import annotations

import enum
import importlib
import importlib.machinery
import io
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.clip_subject import ClipSubject
from optimize.export.clip.hugging_face import quiet_transformers
from serving.contract.errors import PilotageError

TEMPLATE = "a photo of a {}."


class RivalMissing(PilotageError):
    """A rival that is not installed."""


def transformers_pipeline(subject: ClipSubject, file: bytes, labels: Sequence[str]) -> Callable[[], object]:
    """The zero-shot pipeline of transformers: it embeds all labels in every call."""
    with quiet_transformers():
        from transformers import PreTrainedTokenizerFast, pipeline
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        side = subject.spec.image.size
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side)
        end = subject.tokenizer.id_to_token(subject.spec.text.pad_id)
        fast: Any = PreTrainedTokenizerFast
        tokenizer = fast(tokenizer_object=subject.tokenizer, pad_token=end, model_max_length=subject.spec.text.context_length)
        asked = pipeline(
            "zero-shot-image-classification", model=subject.model, image_processor=processor, tokenizer=tokenizer, device="cpu"
        )

    def ask() -> object:
        picture = Image.open(io.BytesIO(file)).convert("RGB")
        with quiet_transformers():
            return asked(picture, candidate_labels=list(labels), hypothesis_template=TEMPLATE)

    return ask


def open_clip_eager(subject: ClipSubject, file: bytes, labels: int, *, layers: int) -> Callable[[], object]:
    """open_clip's ViT-B/32 with embeddings of so many labels at hand: decode, resize, image tower, one product.

    Raises
    ------
    RivalMissing
        open_clip is not installed.
    """
    open_clip = _import_open_clip()
    torch.manual_seed(0)
    spec = subject.spec
    text = {"context_length": spec.text.context_length, "vocab_size": spec.text.pad_id + 1, "width": 64, "heads": 1, "layers": 1}
    vision = {"image_size": spec.image.size, "layers": layers, "width": 768, "patch_size": 32}
    model = open_clip.CLIP(embed_dim=spec.embedding_size, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    embeddings = torch.nn.functional.normalize(torch.randn(labels, spec.embedding_size), dim=-1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.image.mean, spec.image.std))
    side = spec.image.size

    def ask() -> object:
        picture = Image.open(io.BytesIO(file)).convert("RGB")
        scale = side / min(picture.size)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        pixels = np.asarray(picture.crop((left, top, left + side, top + side)))
        values = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255 - mean) / std
        with torch.inference_mode():
            return (100 * model.encode_image(values, normalize=True) @ embeddings.T).softmax(dim=-1).numpy()

    return ask


class _Interpolation(enum.Enum):
    """As torchvision names them."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"
    NEAREST = "nearest"


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Interpolation if name == "InterpolationMode" else type(name, (), {})


def _import_open_clip() -> Any:
    """Import open_clip. Where torchvision is missing, whose wheel fits no CPU build of torch, names stand in for it: models use none."""
    from transformers.utils.import_utils import is_torchvision_available

    if not is_torchvision_available():
        for name in (
            "torchvision",
            "torchvision.transforms",
            "torchvision.transforms.functional",
            "torchvision.ops",
            "torchvision.ops.misc",
        ):
            module = _StandIn(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            module.__path__ = []
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise RivalMissing(f"open_clip cannot be imported: {error}") from error
