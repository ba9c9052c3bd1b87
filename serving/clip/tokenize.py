"""Texts to the text tower's inputs, by the tokenizer of the bundle."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from serving.clip.label_rules import refuse
from serving.contract.clip import ATTENTION_MASK, INPUT_IDS, TextSpec
from serving.contract.errors import BundleError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextEncoder:
    """Makes ``input_ids (T, L) int64`` and, where the graph takes one, ``attention_mask (T, L) int64``.

    Parameters
    ----------
    path
        ``tokenizer.json``, as the library ``tokenizers`` writes it.
    spec
        How texts are prepared for this model; each mistake here costs it over ten points of accuracy.

    Raises
    ------
    BundleError
        The file is no tokenizer.
    """

    def __init__(self, path: Path, spec: TextSpec) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            raise BundleError(f"{path} cannot be read as a tokenizer: {error}") from error
        self._spec = spec
        self._tokenizer.no_truncation()
        if spec.truncate:
            self._tokenizer.enable_truncation(spec.context_length)
        self._tokenizer.enable_padding(pad_id=spec.pad_id, length=spec.context_length if spec.padding == "max_length" else None)

    def encode(self, texts: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Feeds of the text tower for ``T`` texts.

        Raises
        ------
        InvalidRequest
            A text has more tokens than the tower reads, and the model does not say that it is cut.
        """
        encoded = self._tokenizer.encode_batch([canonical(text, self._spec.canonicalize) for text in texts])
        longest = max(len(each.ids) for each in encoded)
        if longest > self._spec.context_length:
            refuse("$.labels", f"a label with its template has {longest} tokens, the model reads {self._spec.context_length}; shorten it")
        feeds = {INPUT_IDS: np.array([each.ids for each in encoded], np.int64)}
        if self._spec.uses_attention_mask:
            feeds[ATTENTION_MASK] = np.array([each.attention_mask for each in encoded], np.int64)
        return feeds


def canonical(text: str, how: str) -> str:
    """`text` as the model's training saw texts: ``none``, ``lower``, or ``siglip`` (without punctuation and repeated spaces, too)."""
    if how == "none":
        return text
    if how == "siglip":
        text = re.sub(r"\s+", " ", text.translate(_NO_PUNCTUATION)).strip()
    return text.lower()
