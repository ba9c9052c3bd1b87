"""A CLIP checkpoint, read: its model in torch, its tokenizer, and what host code must know of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from tokenizers import Tokenizer
from torch import nn

from serving.contract.bundle import sha256_of
from serving.contract.clip import ClipSpec
from serving.contract.errors import PilotageError
from serving.contract.manifest import Source

MAX_JSON_BYTES = 64 * 2**20
"""A tokenizer of 256,000 words is some 35 MB."""

Spec = TypeVar("Spec", bound=BaseModel)

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class CheckpointError(PilotageError):
    """A checkpoint that cannot be read; the message names the file."""


@dataclass(frozen=True)
class Parts:
    """What a reader of one layout finds in a folder.

    Attributes
    ----------
    model
        Has ``get_image_features`` and ``get_text_features``, as transformers' models do.
    tokenizer
        Adds the tokens of the beginning and end itself.
    end_id
        Token that ends a text; None where the model does not look for it.
    files
        Every file that was read.
    """

    architecture: str
    model: nn.Module
    tokenizer: Tokenizer
    end_id: int | None
    spec: ClipSpec
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Checkpoint:
    """The same, with where it comes from."""

    parts: Parts
    source: Source


def fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files."""
    lines = sorted(f"{file.name} {sha256_of(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    CheckpointError
        There is no such file, or it holds something else.
    """
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: file {file.name!r} is missing; is this a whole checkpoint?")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{file} has over {MAX_JSON_BYTES} bytes and is not read")
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} holds a {type(document).__name__}, not an object")
    return document


def weight_files(folder: Path, *names: str) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint: the first of `names` that is there, or the shards that ``NAME.index.json`` lists.

    Raises
    ------
    CheckpointError
        None is there, or a shard is missing. Pickles are not read: loading one runs whatever code is in it.
    """
    for name in names:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(map(str, read_json(index).get("weight_map", {}).values())))
            for shard in shards:
                if Path(shard).name != shard or not (folder / shard).is_file():
                    raise CheckpointError(f"{folder}: {index.name} lists {shard!r}, which is missing; fetch the checkpoint again")
            if shards:
                return (*(folder / shard for shard in shards), index)
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} has its weights in {pickles[0]!r} only, a pickle, which runs code when it is loaded and is not read; take the "
            f"revision of the checkpoint that has {names[0]!r}, or convert it where you trust it, with safetensors.torch.save_model or "
            "transformers' save_pretrained"
        )
    raise CheckpointError(f"{folder}: there are no weights: {' or '.join(map(repr, names))} is missing")


def described(kind: type[Spec], values: dict[str, Any], file: Path) -> Spec:
    """Build a part of the specification of values from `file`.

    Raises
    ------
    CheckpointError
        The values contradict each other, or a model cannot have them.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file}: {place and place + ': '}{first['msg'].removeprefix('Value error, ')}") from error
