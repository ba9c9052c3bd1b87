"""The one error of this room."""

from __future__ import annotations


class JudgeError(ValueError):
    """Objectives or samples that cannot be judged: says which value, which limit, what to do."""
