"""How a checkpoint wants its pictures: from ``preprocessor_config.json`` or open_clip's ``preprocess_cfg`` to an `ImageSpec`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimize.export.clip.checkpoint import CheckpointError, described, read_json
from serving.contract.clip import ImageSpec

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
"""Of the pictures that the first CLIP was trained on (Radford et al. 2021); what a file that says nothing means."""

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers, which transformers writes. The others (nearest, box, hamming) are served nowhere."""

BYTE = 1 / 255


def read_preprocessor(folder: Path, model_type: str) -> tuple[dict[str, Any], Path]:
    """Image settings of a folder that transformers wrote, and the file they are in.

    Raises
    ------
    CheckpointError
        Neither ``preprocessor_config.json`` nor ``processor_config.json`` has them.
    """
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        file = folder / name
        if file.is_file():
            document = read_json(file)
            settings = document if key is None else document.get(key)
            if isinstance(settings, dict):
                return settings, file
    raise CheckpointError(
        f"{folder}: file 'preprocessor_config.json' is missing: how pictures of a {model_type} model are scaled stands there"
    )


def from_transformers(settings: Mapping[str, Any], model_type: str, side: int, file: Path) -> ImageSpec:
    """`ImageSpec` of transformers' image processors for CLIP and SigLIP.

    Parameters
    ----------
    side
        Of the pictures that the model takes.

    Raises
    ------
    CheckpointError
        The settings ask for something that is not served, or for pictures that the model does not take.
    """
    is_clip = model_type == "clip"
    for key in ("do_resize", "do_rescale"):
        if settings.get(key) is False:
            raise CheckpointError(f"{file}: {key} is false; pictures of any size and bytes of 0 to 255 are what a service gets")
    factor = settings.get("rescale_factor", BYTE)
    if not isinstance(factor, int | float) or not math.isclose(factor, BYTE, rel_tol=1e-6):
        raise CheckpointError(f"{file}: rescale_factor is {factor}, only 1/255 is served")
    normalized = settings.get("do_normalize", True) is not False
    usual = OPENAI if is_clip else HALF
    size = settings.get("size", {"shortest_edge": side} if is_clip else {"height": side, "width": side})
    shortest = size if isinstance(size, int) else size.get("shortest_edge") if isinstance(size, Mapping) else None
    values: dict[str, Any] = {
        "size": side,
        "resample": _filter(settings.get("resample", 3), file),
        "mean": settings.get("image_mean", usual["mean"]) if normalized else (0.0, 0.0, 0.0),
        "std": settings.get("image_std", usual["std"]) if normalized else (1.0, 1.0, 1.0),
    }
    crops = settings.get("do_center_crop", is_clip)
    if shortest is None:
        squashed = _square(size, "size", file)
        if crops and _square(settings.get("crop_size", squashed), "crop_size", file) != squashed:
            raise CheckpointError(f"{file}: pictures are squashed to {squashed} and then cropped, which is not served")
        return _of_side(described(ImageSpec, {**values, "resize": "squash", "resize_to": squashed, "size": squashed}, file), side, file)
    if not crops:
        raise CheckpointError(f"{file}: pictures are scaled by their shortest edge and not cropped, so they are no squares")
    cropped = _square(settings.get("crop_size", side), "crop_size", file)
    return _of_side(described(ImageSpec, {**values, "resize": "shortest_edge", "resize_to": shortest, "size": cropped}, file), side, file)


def from_open_clip(settings: Mapping[str, Any], side: int, file: Path) -> ImageSpec:
    """`ImageSpec` of open_clip's ``preprocess_cfg``; errors as for `from_transformers`."""
    mode, kernel = settings.get("resize_mode", "shortest"), settings.get("interpolation", "bicubic")
    resize = {"shortest": "shortest_edge", "squash": "squash"}.get(mode)
    if resize is None:
        raise CheckpointError(f"{file}: resize_mode is {mode!r}; 'shortest' and 'squash' are served")
    if kernel not in FILTERS.values():
        raise CheckpointError(f"{file}: interpolation is {kernel!r}; {', '.join(FILTERS.values())} are served")
    asked = settings.get("size", side)
    asked = asked[-1] if isinstance(asked, list | tuple) and len(set(asked)) == 1 else asked
    values = {"size": asked, "resize": resize, "resize_to": asked, "resample": kernel}
    return _of_side(described(ImageSpec, {**OPENAI, **{k: settings[k] for k in OPENAI if k in settings}, **values}, file), side, file)


def _filter(number: object, file: Path) -> str:
    name = FILTERS.get(number) if isinstance(number, int) else None
    if name is None:
        raise CheckpointError(f"{file}: resample is {number!r}; {', '.join(f'{n} ({k})' for n, k in FILTERS.items())} are served")
    return name


def _square(size: object, key: str, file: Path) -> int:
    sides = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    if not isinstance(sides[0], int) or sides[0] != sides[1]:
        raise CheckpointError(f"{file}: {key} is {size}, not a square; models of fixed square pictures are served")
    return sides[0]


def _of_side(spec: ImageSpec, side: int, file: Path) -> ImageSpec:
    if spec.size != side:
        raise CheckpointError(f"{file}: pictures become {spec.size}×{spec.size}, but the model takes {side}×{side}")
    return spec
