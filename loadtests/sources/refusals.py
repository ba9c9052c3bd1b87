"""Kinds of failure of answers that are not 200: the status and the service's own code, where it says one."""

from __future__ import annotations

import re

import msgspec

MAX_CODE_LENGTH = 60
"""Longest error code of the service that becomes part of an error's kind."""

_CODE = re.compile(r"[a-z][a-z0-9_]*")


class _Error(msgspec.Struct, gc=False):
    code: str


class _Refusal(msgspec.Struct, gc=False):
    error: _Error | str


_decoder = msgspec.json.Decoder(_Refusal)


def refusal_kind(status: int, content: bytes) -> str:
    """Name a refusal: ``HTTP 503 overloaded``.

    Parameters
    ----------
    status
        Any but 200.
    content
        Body of the answer: ``{"error": {"code": …}}``, or ``{"error": "code: …"}`` as the Open Inference Protocol has it.
    """
    try:
        error = _decoder.decode(content).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"HTTP {status}"
    code = error if isinstance(error, str) else error.code
    if isinstance(error, str):  # what the caller did wrong is a sentence without a code
        head, colon, _ = error.partition(":")
        code = head if colon and _CODE.fullmatch(head) else ""
    return f"HTTP {status} {code[:MAX_CODE_LENGTH]}".rstrip()
