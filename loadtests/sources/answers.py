"""What makes an answer a success.

Every answer must have status 200 and a body that decodes to a non-empty ``ranking`` of ids with finite
probabilities (about 1 µs an entry, outside the measured time). One answer in `FULL_CHECK_EVERY` (``pool.py``) is held
against its request as well: known ids, none twice, no more than asked for, best first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import msgspec

from loadtests.sources.payloads import Body

MAX_CODE_LENGTH = 60
"""Longest error code of the service that becomes part of an error's kind."""


class _Ranked(msgspec.Struct, gc=False):
    id: str | int
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Answer(msgspec.Struct, gc=False):
    ranking: Annotated[list[_Ranked], msgspec.Meta(min_length=1)]


class _Error(msgspec.Struct, gc=False):
    code: str


class _Refusal(msgspec.Struct, gc=False):
    error: _Error


_answers = msgspec.json.Decoder(_Answer)
_refusals = msgspec.json.Decoder(_Refusal)


def failure_kind(status: int, content: bytes, sent: Body, *, in_full: bool) -> str | None:
    """Return the kind of failure in a few words, None for a success.

    Parameters
    ----------
    status
        HTTP status code.
    content
        Body of the answer.
    sent
        The request.
    in_full
        Whether to hold the answer against the request.
    """
    if status != 200:
        return f"HTTP {status}{_code(content)}"
    try:
        ranking = _answers.decode(content).ranking
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "answer without a usable ranking"
    return _mismatch(ranking, sent) if in_full else None


def _mismatch(ranking: list[_Ranked], sent: Body) -> str | None:
    expected = len(sent.ids) if sent.top_k is None else min(sent.top_k, len(sent.ids))
    if len(ranking) < expected:
        return "answer with too few candidates"
    if len(ranking) > (sent.candidates if sent.top_k is None else sent.top_k):
        return "answer with too many candidates"
    if not sent.ids.issuperset(entry.id for entry in ranking):
        return "answer with ids that were not sent"
    if len(sent.ids) == sent.candidates and len({entry.id for entry in ranking}) < len(ranking):
        return "answer with an id twice"
    if any(after.probability > before.probability for before, after in pairwise(ranking)):
        return "answer not sorted by probability"
    return None


def _code(content: bytes) -> str:
    """Return the service's own error code, shortened, where the body has one."""
    try:
        return f" {_refusals.decode(content).error.code[:MAX_CODE_LENGTH]}"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
