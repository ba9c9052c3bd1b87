"""What the engine needs of the world, and nothing else: protocols, and the values that pass through them.

Whoever implements one: every method may be called again after a crash, with the same arguments, and must then do no harm. What may help
when tried again is `k8s.errors.Unavailable`, what cannot is `k8s.errors.Refused`; the engine waits and gives up, adapters do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from k8s.rollout.arms import Arm, ArmState, Release, Weights

if TYPE_CHECKING:
    from k8s.rollout.plan_tables import Copied, Step
    from k8s.rollout.questions import Answers
    from k8s.rollout.record import Entry, Record, Request
    from loadtests.judge import Batch


@dataclass(frozen=True)
class Look:
    """What was seen of one canary since the last look.

    Attributes
    ----------
    batch
        Requests for the judge: the canary's, and those of the arm it is compared with.
    answers
        Requests answered by both; None where none were compared.
    """

    batch: Batch
    answers: Answers | None = None


class Router(Protocol):
    """Who shares out live traffic."""

    def read(self) -> Weights:
        """Weights in force."""
        ...

    def write(self, weights: Weights) -> None:
        """Set all weights in one step; returns when whoever routes has taken them, which may be some seconds before requests go by them."""
        ...

    def mirror(self, pct: int, to: Copied = "canary") -> None:
        """Copy this share of the live requests that go by weight, and drop the answers; 0 copies none."""
        ...

    def check_mirror(self, pct: int) -> str | None:
        """Find out, before anything starts, whether this share of live requests can be copied.

        Returns
        -------
            What could not be found out, in words; None: it can.

        Raises
        ------
        Unfit
            It cannot.
        """
        ...

    def keeps_users(self) -> bool:
        """Whether a user stays with an arm, by a cookie: then it is users who are shared out by chance, not their requests."""
        ...

    def withdraw(self) -> None:
        """Give all live traffic to stable where weights are not taken any more; `read` then says so too.

        Raises
        ------
        Refused
            There is no other way than by weights.
        """
        ...

    def rest(self) -> None:
        """Put away what only a rollout needs, once all weight is stable's and before the other arms go; `read` then says so too."""
        ...


class Fleet(Protocol):
    """Who runs the arms."""

    def ensure(self, arm: Arm, release: Release, replicas: int | None) -> None:
        """Make the arm run this release, and return without waiting until it does.

        Parameters
        ----------
        replicas
            Processes of the arm; None leaves their number as it is (stable's is its scaler's, never the engine's).
        """
        ...

    def state(self, arm: Arm) -> ArmState:
        """How the arm is now."""
        ...

    def stable_release(self) -> Release:
        """What stable runs, in a form that `ensure` takes: what to go back to, and what the baseline runs."""
        ...

    def floor(self, replicas: int | None) -> None:
        """Let no scaler take stable below this many processes; None gives it back its own bounds. Does nothing where nothing scales."""
        ...

    def remove(self, arm: Arm) -> None:
        """Take the arm away; nothing happens where it is not there. Stable is never removed."""
        ...


class Traffic(Protocol):
    """Requests of a step, and what was seen of them: made by a load test, or the users' own."""

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        """Begin to load, or to watch, until `end`; what an earlier engine may have left running is ended first.

        Parameters
        ----------
        arms
            The canaries, and last what they are compared with.
        """
        ...

    def look(self) -> Mapping[Arm, Look]:
        """Return what came since the last look, for each canary; empty: nothing yet. Does not wait."""
        ...

    def end(self) -> None:
        """Stop; nothing happens where nothing runs."""
        ...


@dataclass(frozen=True)
class Stored:
    """A record and the version under which it is stored."""

    record: Record
    version: str


class Journal(Protocol):
    """Where the record of the rollout stands; what was saved survives everything."""

    def load(self) -> Stored | None:
        """Return the record of the current or last rollout; None where there was none."""
        ...

    def save(self, record: Record, expected_version: str | None) -> str:
        """Write the record and return its new version. A finished rollout that gives way to a new one goes into the history.

        Parameters
        ----------
        expected_version
            Version this record was made from; None: there must not be one.

        Raises
        ------
        Conflict
            Another version is stored.
        """
        ...

    def history(self) -> list[Record]:
        """Return finished rollouts and the current one, oldest first."""
        ...

    def request(self) -> Request | None:
        """Return what a person asked for last: pause, resume, promote, abort."""
        ...

    def ask(self, request: Request) -> None:
        """Write down what a person asks for."""
        ...


class Lease(Protocol):
    """One engine at a time."""

    def acquire(self) -> None:
        """Take the lease.

        Raises
        ------
        NotHeld
            Another engine has it; the message says which, and until when.
        """
        ...

    def renew(self) -> None:
        """Keep it.

        Raises
        ------
        NotHeld
            It was lost.
        """
        ...

    def release(self) -> None:
        """Give it back, if it is held."""
        ...


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def now_s(self) -> float:
        """Return seconds since 1970; goes on while no engine runs."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Notice(Protocol):
    """Who is told what happens: a terminal, Kubernetes Events. A notice that cannot be delivered stops nothing."""

    def __call__(self, record: Record, entry: Entry) -> None:
        """Tell one line of the timeline."""
        ...
