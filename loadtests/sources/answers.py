"""What makes an answer to a ranking request a success.

Every answer must have status 200 and a body that decodes to a non-empty ``ranking`` of ids with finite
probabilities (about 1 µs an entry, outside the measured time). An answer that is checked in full is held
against its request as well: known ids, none twice, no more than asked for, best first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import msgspec

from loadtests.sources.payloads import Body
from loadtests.sources.refusals import refusal_kind


class _Ranked(msgspec.Struct, gc=False):
    id: str | int
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Answer(msgspec.Struct, gc=False):
    ranking: Annotated[list[_Ranked], msgspec.Meta(min_length=1)]


_answers = msgspec.json.Decoder(_Answer)


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
        return refusal_kind(status, content)
    try:
        ranking = _answers.decode(content).ranking
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "answer without a usable ranking"
    return mismatch([entry.id for entry in ranking], [entry.probability for entry in ranking], sent) if in_full else None


def mismatch(ids: Sequence[str | int], probabilities: Sequence[float], sent: Body) -> str | None:
    """Hold a ranking against its request: ids and their probabilities, in the order of the answer."""
    expected = len(sent.ids) if sent.top_k is None else min(sent.top_k, len(sent.ids))
    if len(ids) < expected:
        return "answer with too few candidates"
    if len(ids) > (sent.candidates if sent.top_k is None else sent.top_k):
        return "answer with too many candidates"
    if not sent.ids.issuperset(ids):
        return "answer with ids that were not sent"
    if len(sent.ids) == sent.candidates and len(set(ids)) < len(ids):
        return "answer with an id twice"
    if any(after > before for before, after in pairwise(probabilities)):
        return "answer not sorted by probability"
    return None
