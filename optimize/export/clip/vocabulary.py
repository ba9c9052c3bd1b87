"""A checkpoint's tokenizer as the library ``tokenizers`` reads it: from ``tokenizer.json``, or built of a byte-pair vocabulary.

References
----------
Radford et al. 2021 (CLIP), whose byte-pair vocabulary open_clip ships as ``bpe_simple_vocab_16e6.txt.gz``: 48,894 merges, over 256 bytes
and the same at a word's end.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from optimize.export.clip.checkpoint import CheckpointError, read_json

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
BPE_MERGES = 49152 - 256 - 2
WORD_END = "</w>"
OPEN_CLIP_ENDS = ("<start_of_text>", "<end_of_text>")
CLIP_ENDS = ("<|startoftext|>", "<|endoftext|>")

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read_tokenizer(folder: Path) -> tuple[Tokenizer, tuple[Path, ...]]:
    """The tokenizer of a folder that transformers wrote, and the files that it was read from.

    Raises
    ------
    CheckpointError
        There is none, or it is damaged.
    """
    whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.is_file():
        read_json(whole)
        try:
            tokenizer = Tokenizer.from_file(str(whole))
        except Exception as error:  # the library raises Exception itself
            raise CheckpointError(f"{whole} cannot be read as a tokenizer: {error}") from error
        return tokenizer, (whole,)
    if vocabulary.is_file() and merges.is_file():
        return byte_pairs(_pairs(merges.read_text("utf-8"), merges), CLIP_ENDS, read_json(vocabulary)), (vocabulary, merges)
    hint = ""
    if any(folder.glob("*.model")):
        hint = "; a SentencePiece model is there: transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…) writes tokenizer.json"
    raise CheckpointError(f"{folder}: file 'tokenizer.json' is missing{hint}")


def read_byte_pairs(file: Path) -> Tokenizer:
    """open_clip's own tokenizer, of its vocabulary file.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """
    try:
        text = gzip.decompress(file.read_bytes()).decode("utf-8")
    except (OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as a byte-pair vocabulary: {error}") from error
    return byte_pairs(_pairs(text, file)[:BPE_MERGES], OPEN_CLIP_ENDS)


def byte_pairs(merges: Sequence[tuple[str, str]], ends: tuple[str, str], vocabulary: Mapping[str, int] | None = None) -> Tokenizer:
    """CLIP's tokenizer: lower case, words and signs apart, bytes merged in pairs.

    Parameters
    ----------
    merges
        Best first.
    ends
        Tokens before and after a text.
    vocabulary
        Token → id. Left out: bytes, bytes at a word's end, what the merges make, `ends`, in this order.
    """
    if vocabulary is None:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # in the order of their code points, as the vocabulary has them
        tokens = [*letters, *(letter + WORD_END for letter in letters), *(a + b for a, b in merges), *ends]
        vocabulary = {token: i for i, token in enumerate(tokens)}
    start, end = ends
    model = models.BPE(dict(vocabulary), list(merges), unk_token=end, continuing_subword_prefix="", end_of_word_suffix=WORD_END)
    tokenizer = Tokenizer(model)
    space = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Strip(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.add_special_tokens(list(ends))
    special = [(token, vocabulary[token]) for token in ends]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=special)
    return tokenizer


def special_token(folder: Path, kind: str, tokenizer: Tokenizer) -> int | None:
    """Id of a folder's ``pad_token`` or ``eos_token``; None where it names none that the tokenizer has."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            token: Any = read_json(folder / name).get(kind)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return tokenizer.token_to_id(token)
    return None


def require_vocabulary(tokenizer: Tokenizer, rows: int, folder: Path) -> None:
    """Check that every token has a row in the model's table.

    Raises
    ------
    CheckpointError
        Some have none.
    """
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= rows:
        raise CheckpointError(
            f"{folder}: the tokenizer has ids up to {largest}, the text model knows {rows} tokens; they are not of one model"
        )


def _pairs(text: str, file: Path) -> list[tuple[str, str]]:
    lines = [line.split() for line in text.split("\n")[1:] if line]
    if not all(len(line) == 2 for line in lines):
        raise CheckpointError(f"{file} has a line that is not a pair of tokens")
    return [(line[0], line[1]) for line in lines]
