"""The engine's pen: every action is in the journal before it is done, and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from k8s.errors import Conflict, NotHeld
from k8s.rollout.patience import Patience
from k8s.rollout.phases import Cause, following, outcome_of
from k8s.rollout.ports import Clock, Journal, Notice
from k8s.rollout.record import MAX_WORDS, Entry, Intent, Record, short

Answer = TypeVar("Answer")


class Ledger:
    """Holds the record, and the version under which it is stored.

    Whoever wrote last owns the rollout: a write that meets another version than expected means that another engine has taken over, and
    this one must not act any more.

    Parameters
    ----------
    notices
        Told each line of the timeline once it is stored.
    """

    def __init__(self, record: Record, version: str | None, journal: Journal, clock: Clock, notices: Sequence[Notice] = ()) -> None:
        self.record = record
        self._version, self._journal, self._clock, self._notices = version, journal, clock, notices
        self._patience = Patience(clock, record.plan.times.api_s)

    def save(self, *, what: str = "", detail: str = "", by: str = "engine", **changes: Any) -> None:
        """Change the record, with a line in the timeline where `what` is given, and store it.

        Raises
        ------
        NotHeld
            Another engine has written since.
        """
        record = self.record.model_copy(update=changes)
        entry = None
        if what:
            entry = Entry(
                at_s=self._clock.now_s(),
                phase=record.phase,
                step=record.step_name,
                what=what,
                detail=short(detail),
                by=by,
                weights=record.weights,
            )
            record = record.with_entry(entry)
        record = record.within()
        self._version = self._patience.call(lambda: self._stored(record))
        self.record = record
        if entry is not None:
            for notice in self._notices:
                notice(record, entry)

    def _stored(self, record: Record) -> str:
        try:
            return self._journal.save(record, self._version)
        except Conflict as error:
            found = self._journal.load()
            if found is None:  # somebody deleted it: what happened so far is still here
                self._version = None
                return self._journal.save(record, None)
            if found.record == record:  # an earlier try was stored, and its answer was lost
                return found.version
            raise NotHeld(f"engine {found.record.engine} has taken over rollout {found.record.id}: this one stops") from error

    def act(self, action: str, detail: str, do: Callable[[], Answer], **changes: Any) -> Answer:
        """Do something that is idempotent, journalled before and after; `changes` hold from before, since it may be killed in between."""
        self.save(intent=Intent(action=action, detail=detail), **changes)
        answer = do()
        self.save(what=action, detail=detail, intent=None)
        return answer

    def move(self, cause: Cause, why: str, *, by: str = "engine", **changes: Any) -> None:
        """Go to the phase where a cause leads, in one write."""
        before, why = self.record.phase, short(why, MAX_WORDS - 100)  # the line names two phases besides
        outcome = outcome_of(before, cause) or self.record.outcome
        now_s = self._clock.now_s()
        after = following(before, cause)
        settled = {"outcome": outcome, "why": why} if outcome != self.record.outcome else {}
        # A moving record begins its phase now; what the caller changes besides comes with it.
        moved = {"phase": after, "since_s": now_s, "progress": "", **settled, **changes}
        self.save(what="phase", detail=f"{before} → {after}: {why}", by=by, **moved)
