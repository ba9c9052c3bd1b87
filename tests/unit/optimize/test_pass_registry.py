"""Passes by name, as people type them."""

from __future__ import annotations

import pytest

from optimize.passes.registry import PASSES, UnknownPass, parse_pass, pass_type


@pytest.mark.parametrize("kind", sorted(PASSES))
def test_every_kind_is_made_from_its_name_and_called_by_it(kind: str) -> None:
    assert pass_type(kind).kind == kind
    assert parse_pass(kind).name == kind


@pytest.mark.parametrize("text", ["int9", "fp16:colour=red", "fp16:colour", ""])
def test_what_there_is_not_is_refused_by_name(text: str) -> None:
    with pytest.raises(UnknownPass, match=r"there is no pass|has no option"):
        parse_pass(text)
