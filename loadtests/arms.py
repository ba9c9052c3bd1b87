"""Arms: where the requests of one schedule go, when two releases are compared under the same load.

An arm is told by a header, which a gateway routes by, or by an address of its own. Requests are dealt out by a seeded, block-randomised
interleave: within each small block every arm gets the same number, in random order. A drift of the machine then meets both arms alike, and
nobody can tell from the order which request goes where.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.samples import THE_ARM
from loadtests.sources.access import check_host
from serving.contract.errors import SettingsError

ARM_HEADER = "x-pilotage-arm"
"""The gateway's routes match it; so does the rollout's."""

REQUESTS_A_BLOCK = 2
"""Of each arm. Two and not one: with blocks of one each, every second request would tell by its neighbour where it goes."""

BLOCKS = 4096
"""Drawn beforehand, then dealt out again from the first: long enough that no rhythm of the service can keep step with it."""

MAX_ARMS = 8


@dataclass(frozen=True)
class Arm:
    """Where requests of one name go.

    Attributes
    ----------
    header
        Value of `ARM_HEADER`; None sends none.
    host
        Address; None is the address of the test.
    """

    name: str
    header: str | None = None
    host: str | None = None


def parse_arms(texts: Sequence[str]) -> tuple[Arm, ...]:
    """Parse ``NAME=header:VALUE`` and ``NAME=http://host:port``; no text gives the one arm that is not told apart.

    Raises
    ------
    SettingsError
        One is not written like that, a name is given twice, or there are too many.
    """
    arms = tuple(_arm(text) for text in texts)
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"--arm: {', '.join(twice)} is given twice; every arm needs a name of its own")
    if len(arms) > MAX_ARMS:
        raise SettingsError(f"--arm: {len(arms)} arms, at most {MAX_ARMS} are allowed")
    return arms or (Arm(THE_ARM),)


def _arm(text: str) -> Arm:
    name, _, target = text.partition("=")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,62}", name) or not target:
        raise SettingsError(f"--arm {text!r}: write NAME=header:VALUE or NAME=http://host:port, the name in small letters and digits")
    if target.startswith("header:"):
        value = target.removeprefix("header:")
        if not re.fullmatch(r"[\x21-\x7e]{1,200}", value):
            raise SettingsError(f"--arm {text!r}: {value!r} cannot be the value of the header {ARM_HEADER}; use visible ASCII characters")
        return Arm(name, header=value)
    return Arm(name, host=check_host(target))


def interleave(arms: int, seed: int) -> NDArray[np.int8]:
    """Deal out: number of the arm for request ``i`` at ``i % len(…)``, ``(BLOCKS · REQUESTS_A_BLOCK · arms,) int8``."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    dealt: list[int] = []
    for _ in range(BLOCKS):
        block = list(range(arms)) * REQUESTS_A_BLOCK
        # Python promises the sequence of random() alone: shuffled by sorting on it, the order is the same on every version.
        dealt += [arm for _, arm in sorted((draw.random(), arm) for arm in block)]
    return np.array(dealt, dtype=np.int8)
