"""Errors of the rollout, each with the exit code it ends a command with. Whether to try again is a type, not a guess.

::

    PilotageError
    ├── SettingsError       2  a plan, a release or an option is wrong (from ``serving.contract.errors``)
    └── RolloutError        3  the rollout could not be carried on; says nothing about the release
        ├── Unavailable        the other side does not answer now: trying again may help
        │   └── Ignored        nobody has ever answered
        ├── Conflict           somebody else wrote since: read again, decide again
        ├── Refused            the other side will not do it: trying again cannot help
        │   ├── Settled     0  stable runs the release already: nothing is to be done
        │   └── Unfit       2  the plan asks for what the gateway cannot
        └── NotHeld            another engine holds the lease
"""

from __future__ import annotations

from serving.contract.errors import PilotageError


class RolloutError(PilotageError):
    """The rollout could not be carried on; what is journalled stands, and starting again goes on from there."""

    exit_code = 3


class Unavailable(RolloutError):
    """The API server, the proxy or the metrics do not answer now.

    Parameters
    ----------
    retry_after_s
        Seconds that the other side asked to be left alone; None where it said nothing.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Ignored(Unavailable):
    """Nobody is there who would do it: no gateway has ever said anything of the route."""


class Conflict(RolloutError):
    """What was to be written has been changed by somebody else since it was read."""


class Refused(RolloutError):
    """Not allowed, not valid or not there; the message says what to change."""


class Settled(Refused):
    """Stable runs the release already. No failure: a Job that is asked again, or first of all, has nothing to do."""

    exit_code = 0


class Unfit(Refused):
    """The plan asks for what there is nobody here to do: another plan is needed, or another gateway."""

    exit_code = 2


class NotHeld(RolloutError):
    """Another engine holds the lease: this one may not act."""
