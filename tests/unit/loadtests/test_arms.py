"""Requests are dealt out evenly, in an order that nobody can guess and everybody can repeat."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.arms import BLOCKS, REQUESTS_A_BLOCK, Arm, interleave, parse_arms
from serving.contract.errors import SettingsError


@pytest.mark.parametrize("arms", [1, 2, 3])
def test_every_block_has_every_arm_alike(arms: int) -> None:
    blocks = interleave(arms, 7).reshape(BLOCKS, arms * REQUESTS_A_BLOCK)
    assert (np.sort(blocks, axis=1) == np.repeat(np.arange(arms), REQUESTS_A_BLOCK)).all()


def test_the_order_is_random_and_repeatable() -> None:
    dealt = interleave(2, 7)
    assert np.array_equal(dealt, interleave(2, 7))
    assert not np.array_equal(dealt, interleave(2, 8))
    # Each of the six orders of a block comes equally often; 4,096 / 6 = 683 with a standard deviation of 24.
    _, counts = np.unique(dealt.reshape(BLOCKS, 4), axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - BLOCKS / 6).max() < 5 * 24


def test_arms_are_told_by_header_or_by_address() -> None:
    assert parse_arms(["stable=header:stable", "canary=http://127.0.0.1:3001/"]) == (
        Arm("stable", header="stable"),
        Arm("canary", host="http://127.0.0.1:3001"),
    )
    assert parse_arms([]) == (Arm("service"),)


@pytest.mark.parametrize(
    "wrong", ["canary", "=header:x", "canary=", "canary=header:", "canary=header:a\r\nb", "canary=ftp://x", "A=header:a"]
)
def test_arms_that_cannot_be_are_refused(wrong: str) -> None:
    with pytest.raises(SettingsError):
        parse_arms([wrong])


def test_names_of_arms_are_given_once() -> None:
    with pytest.raises(SettingsError, match="twice"):
        parse_arms(["a=header:x", "a=header:y"])
