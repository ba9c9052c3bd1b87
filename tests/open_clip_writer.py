"""Writes a small seeded checkpoint with open_clip itself, and what open_clip answers, into a folder: ``python tests/open_clip_writer.py FOLDER``.

A process of its own: open_clip imports torchvision for its image transforms, whose wheel fits no CPU build of torch, so that names stand in for
them here; models and tokenizers use none.
"""

from __future__ import annotations

import enum
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDE = 32
MODEL: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 48, "head_width": 24, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TEXTS = (
    "a photo of a cat",
    "A PHOTO OF A CAT!!",
    "it's the dog's, isn't it? we'll've they'd I'm",
    "numbers 1234 and 3.14, 50%",
    "   spaces\tand\n lines  ",
    "",
    "café naïve Ærøskøbing 東京 مرحبا привет",
    "e\u0301 decomposed",
    "emoji 🐈‍⬛ 👍🏽",
    "under_score and-dash (brackets) [x] {y} <z>",
    "a very long text " * 12,
    "<end_of_text> inside",
    "#hashtag @user http://example.org/?q=a+b",
    "½ ² Ⅷ ٣",
)


class InterpolationMode(enum.Enum):
    """As torchvision names them."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"
    NEAREST = "nearest"


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return InterpolationMode if name == "InterpolationMode" else type(name, (), {})


def import_open_clip() -> Any:
    """Import open_clip without torchvision."""
    from transformers.utils import is_torchvision_available

    is_torchvision_available()  # remembered, before a name stands in for it
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops", "torchvision.ops.misc"):
        module = _StandIn(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    import open_clip

    return open_clip


def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(5).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


def write(folder: Path) -> None:
    open_clip = import_open_clip()
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL).eval()
    with torch.no_grad():
        model.logit_scale.fill_(3.5)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms that do nothing would hide a mistake
    model.visual.preprocess_cfg = {**_PREPROCESS, "size": (SIDE, SIDE)}
    model.visual.image_mean, model.visual.image_std = _PREPROCESS["mean"], _PREPROCESS["std"]
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", model_config=MODEL)
    ids = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])(list(TEXTS))
    mean, std = (torch.tensor(_PREPROCESS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    values = (torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        image, text = model.encode_image(values, normalize=True), model.encode_text(ids, normalize=True)
    np.savez(
        folder / "answers.npz", ids=ids.numpy(), image=image.numpy(), text=text.numpy(), logit_scale=float(model.logit_scale.detach().exp())
    )
    (folder / "texts.json").write_text(json.dumps(TEXTS))


_PREPROCESS: dict[str, Any] = {
    "mode": "RGB",
    "mean": (0.48, 0.46, 0.41),
    "std": (0.27, 0.26, 0.28),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}

if __name__ == "__main__":
    write(Path(sys.argv[1]))
