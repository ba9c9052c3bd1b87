"""What a list of labels must keep to, whether it comes with a request or is registered as a set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from serving.contract.errors import InvalidRequest, Violation

MAX_LABEL_LENGTH = 256
"""Characters. CLIP's text tower reads 77 tokens, some 300 characters of English; what is longer would be cut off in silence."""

MAX_SHOWN = 80
MAX_VIOLATIONS = 10
"""Most that one refusal tells: a list of ten thousand bad labels must not be answered at length."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters (Unicode's Cc), line and paragraph separators, and halves of characters."""


def unprintable(text: str) -> bool:
    """Whether `text` has what no label or template needs: control characters, line separators, lone surrogates."""
    return _UNPRINTABLE.search(text) is not None


def require_labels(labels: Sequence[str], max_labels: int, path: str = "$.labels") -> None:
    """Check a list of labels.

    Raises
    ------
    InvalidRequest
        There are none or too many, or a label is empty, too long, given twice, or has control characters.
    """
    if not labels:
        refuse(path, "expected at least one label", "[]")
    if len(labels) > max_labels:
        refuse(path, f"expected at most {max_labels} labels", f"a list of {len(labels)}")
    first: dict[str, int] = {}
    broken: list[Violation] = []
    for index, label in enumerate(labels):
        rule = _rule(label)
        if rule is None and first.setdefault(label, index) != index:
            rule = f"the same label as {path}[{first[label]}]; give each once"
        if rule is not None:
            broken.append(Violation(f"{path}[{index}]", rule, shown(label)))
            if len(broken) == MAX_VIOLATIONS:
                break
    if broken:
        raise InvalidRequest(f"{broken[0].path}: {broken[0].rule}", broken)


def _rule(label: str) -> str | None:
    if not label.strip():
        return "a label must have something to read"
    if len(label) > MAX_LABEL_LENGTH:
        return f"expected at most {MAX_LABEL_LENGTH} characters, got {len(label)}"
    if unprintable(label):
        return "control characters are not taken"
    return None


def shown(text: str) -> str:
    """`text` for a message: shortened, and with what cannot be printed or answered written out."""
    written = repr(text[:MAX_SHOWN])
    return written if len(written) <= MAX_SHOWN else written[: MAX_SHOWN - 1] + "…"


def refuse(path: str, rule: str, value: str | None = None) -> NoReturn:
    """Refuse a request for one broken rule."""
    raise InvalidRequest(f"{path}: {rule}", [Violation(path, rule, None if value is None else shown(value))])
