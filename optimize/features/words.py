"""A tokenizer of whole words, made from texts; `tokenizers` reads it back from ``tokenizer.json`` wherever the model serves."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

PAD, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[BOS]", "[EOS]"
PAD_ID, UNKNOWN_ID = 0, 1


def build_tokenizer(texts: Iterable[str], context_length: int) -> Tokenizer:
    """Make a tokenizer that knows the words of `texts`, whatever their case; any other word is ``[UNK]``.

    Texts are cut at `context_length` tokens and padded to the longest of a batch.
    """
    splitter = pre_tokenizers.BertPreTokenizer()
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))})
    vocabulary = {word: at for at, word in enumerate((PAD, UNKNOWN, BEGIN, END, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{BEGIN} $A {END}", special_tokens=[(BEGIN, vocabulary[BEGIN]), (END, vocabulary[END])]
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(pad_id=PAD_ID, pad_token=PAD)
    return tokenizer
