"""Phases of a rollout, and every way from one to another.

::

    preparing ─ready─► warming ─warm─► stepping ─passed─► stepping … ─complete─► promoting ─proven─► returning ─returned─► cleaning ─► done
        ▲                                 │ lost                                     │ failed           promoted
        └─────────────────────────────────┘                                          ▼
                     any of them ─failed, abort─► rolling_back ◄─reverted─ reverting ┘
                                                       └─returned─► cleaning ─► done, rolled back
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from k8s.errors import RolloutError

Outcome = Literal["promoted", "rolled_back", "discarded"]


class Phase(StrEnum):
    """Where a rollout is."""

    PREPARING = "preparing"  # all live traffic is stable's; baseline and canary are started
    WARMING = "warming"  # the canary gets copies and made-up requests that nobody waits for
    STEPPING = "stepping"  # a step's weight is set and judged
    HOLDING = "holding"  # the weight stands; a person decides
    PROMOTING = "promoting"  # stable gets the new release while the canary still serves its weight
    RETURNING = "returning"  # stable is proven; weight goes back to it
    REVERTING = "reverting"  # stable gets the old release back
    ROLLING_BACK = "rolling_back"  # weight goes back to stable
    CLEANING = "cleaning"  # canary and baseline go
    DONE = "done"


class Cause(StrEnum):
    """What moves a rollout on."""

    READY = "ready"
    WARM = "warm"
    PASSED = "passed"  # a step, and there is another
    COMPLETE = "complete"  # the last step passed, and the plan promotes
    SHOWN = "shown"  # the last step passed, and the plan ends without promoting
    UNDECIDED = "undecided"  # a person is to decide
    LOST = "lost"  # the canary went away, and may come back
    FAILED = "failed"  # by the judge, by its health, by a time-out
    ABORT = "abort"
    PROMOTE = "promote"  # a person skips what is left
    RESUME = "resume"
    PROVEN = "proven"
    REVERTED = "reverted"
    RETURNED = "returned"
    CLEANED = "cleaned"


TRANSITIONS: Mapping[Phase, Mapping[Cause, Phase]] = {
    Phase.PREPARING: {Cause.READY: Phase.WARMING, Cause.FAILED: Phase.ROLLING_BACK, Cause.ABORT: Phase.ROLLING_BACK},
    Phase.WARMING: {
        Cause.WARM: Phase.STEPPING,
        Cause.LOST: Phase.PREPARING,
        Cause.PROMOTE: Phase.PROMOTING,
        Cause.FAILED: Phase.ROLLING_BACK,
        Cause.ABORT: Phase.ROLLING_BACK,
    },
    Phase.STEPPING: {
        Cause.PASSED: Phase.STEPPING,
        Cause.COMPLETE: Phase.PROMOTING,
        Cause.SHOWN: Phase.ROLLING_BACK,
        Cause.UNDECIDED: Phase.HOLDING,
        Cause.LOST: Phase.PREPARING,
        Cause.PROMOTE: Phase.PROMOTING,
        Cause.FAILED: Phase.ROLLING_BACK,
        Cause.ABORT: Phase.ROLLING_BACK,
    },
    Phase.HOLDING: {
        Cause.RESUME: Phase.STEPPING,
        Cause.LOST: Phase.PREPARING,
        Cause.PROMOTE: Phase.PROMOTING,
        Cause.FAILED: Phase.ROLLING_BACK,
        Cause.ABORT: Phase.ROLLING_BACK,
    },
    Phase.PROMOTING: {Cause.PROVEN: Phase.RETURNING, Cause.FAILED: Phase.REVERTING, Cause.ABORT: Phase.REVERTING},
    Phase.RETURNING: {Cause.RETURNED: Phase.CLEANING},
    Phase.REVERTING: {Cause.REVERTED: Phase.ROLLING_BACK},
    Phase.ROLLING_BACK: {Cause.RETURNED: Phase.CLEANING},
    Phase.CLEANING: {Cause.CLEANED: Phase.DONE},
    Phase.DONE: {},
}

OUTCOMES: Mapping[tuple[Phase, Cause], Outcome] = {
    (Phase.PROMOTING, Cause.PROVEN): "promoted",
    (Phase.STEPPING, Cause.SHOWN): "discarded",
}
"""What a transition settles. Every way into rolling back that is not listed here settles `rolled_back`."""


def following(phase: Phase, cause: Cause) -> Phase:
    """Return where a cause leads.

    Raises
    ------
    RolloutError
        Nowhere, from this phase.
    """
    ways = TRANSITIONS[phase]
    if cause not in ways:
        known = ", ".join(ways) or "nothing: it is over"
        raise RolloutError(f"a rollout that is {phase} cannot be moved by {cause}; what moves it is {known}")
    return ways[cause]


def outcome_of(phase: Phase, cause: Cause) -> Outcome | None:
    """Return what a transition settles about the release; None where it settles nothing yet."""
    if following(phase, cause) in (Phase.ROLLING_BACK, Phase.REVERTING) and (phase, cause) not in OUTCOMES:
        return None if cause is Cause.REVERTED else "rolled_back"
    return OUTCOMES.get((phase, cause))
