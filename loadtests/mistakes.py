"""Mistakes in a table that people write, one line each: where, which rule, what was there."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from pydantic import ValidationError

MAX_SHOWN = 80


def mistakes_told(error: ValidationError, tags: Container[str], root: str) -> str:
    """Write the mistakes, a line each.

    Parameters
    ----------
    error
        What pydantic found.
    tags
        Names of the members of unions, which pydantic puts into a place behind the field that has one.
    root
        What the table as a whole is called.
    """
    return "\n".join(f"  {_place(mistake['loc'], tags) or root}: {_rule(mistake)}" for mistake in error.errors())


def _place(location: tuple[int | str, ...], tags: Container[str]) -> str:
    """Write ``traffic.requests[1].pixels``."""
    place, previous_is_tag = "", True
    for step in location:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step in tags and not previous_is_tag:
            previous_is_tag = True
            continue
        else:
            place += f".{step}"
        previous_is_tag = False
    return place.lstrip(".")


def _rule(mistake: Any) -> str:
    message = str(mistake["msg"]).removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        return "no such setting (misspelt?)"
    if mistake["type"] in ("missing", "value_error", "union_tag_not_found"):
        return message
    if mistake["type"] == "union_tag_invalid":
        field, tag, tags = (mistake["ctx"][key] for key in ("discriminator", "tag", "expected_tags"))
        return f"no {field} is called '{tag}'; there are {tags}"  # pydantic quotes the field and the tags itself
    shown = repr(mistake["input"])
    return f"{message}, got {shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 1] + '…'}"
