"""The engine: takes a release through its plan, and puts everything back when it is worse.

It looks, does at most what its phase is for, and looks again. What it does is idempotent and journalled before and after; what it knows and
is not in the journal (evidence of a step, memory of a warm process) it can do without: a new engine begins the step's analysis anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k8s.errors import Conflict, Ignored, NotHeld, Refused, RolloutError
from k8s.rollout.analysis import Analysis
from k8s.rollout.arms import Arm
from k8s.rollout.conditions import Conditions, Turn, because, runs
from k8s.rollout.hands import Hands
from k8s.rollout.health import HealthWatch
from k8s.rollout.ledger import Ledger
from k8s.rollout.phases import TRANSITIONS, Cause, Phase, following
from k8s.rollout.record import Record, Request
from k8s.rollout.world import World

ADVANCES = (Cause.READY, Cause.WARM, Cause.PASSED, Cause.COMPLETE, Cause.SHOWN, Cause.UNDECIDED, Cause.PROVEN)
"""What a paused rollout does not do. It still goes back where the release turns out to be bad."""

WISHES = {"promote": Cause.PROMOTE, "abort": Cause.ABORT, "resume": Cause.RESUME}


class Engine:
    """Carries out the rollout that is in the journal; the lease must be held.

    Parameters
    ----------
    ledger
        With the record, and the version that was loaded.
    name
        Of this engine, unlike all others; it stands in the record.
    """

    def __init__(self, world: World, ledger: Ledger, name: str) -> None:
        self._world, self._clock, self._ledger, self._name = world, world.clock, ledger, name
        self._hands = Hands(world, ledger)
        self._handlers: dict[Phase, Callable[[], None]] = {
            Phase.PREPARING: self._prepare,
            Phase.WARMING: self._warm,
            Phase.STEPPING: self._step,
            Phase.HOLDING: self._hold,
            Phase.PROMOTING: self._promote,
            Phase.RETURNING: self._go_home,
            Phase.REVERTING: self._revert,
            Phase.ROLLING_BACK: self._go_home,
            Phase.CLEANING: self._clean,
        }
        self._proven_since_s: float | None = None
        self._restarts = 0
        self._watch_health()
        self._begin_phase()

    @property
    def record(self) -> Record:
        """What is known of the rollout."""
        return self._ledger.record

    def run(self) -> Record:
        """Carry the rollout on until it is over.

        Raises
        ------
        NotHeld
            Another engine has taken over.
        RolloutError
            The other side did not answer for longer than the plan waits. The record stands, and whoever starts again goes on from it.
        """
        try:
            if not self.record.is_over:
                # The first write: from here on an engine that was thought dead cannot write any more.
                self._ledger.save(what="took over", detail=f"engine {self._name}, {self.record.phase}", engine=self._name)
            while not self.record.is_over:
                self.tick()
                if not self.record.is_over:
                    self._clock.sleep(self.record.plan.times.poll_s)
        except NotHeld:  # another engine takes the copies now
            raise
        except BaseException:
            self._hands.stop_copies()
            raise
        finally:
            self._hands.end_traffic()
        return self.record

    def tick(self) -> None:
        """Look once, and do what is to be done."""
        self._hands.renew_if_due()
        self._hands.look_again()
        phase = self.record.phase
        try:
            self._obey()
            if self.record.phase is phase:
                self._handlers[phase]()
        except Turn as turn:
            self._move(turn.cause, turn.why, by=turn.by, **turn.changes)
        except (Refused, Conflict, Ignored) as error:
            if Cause.FAILED not in TRANSITIONS[self.record.phase]:
                raise
            self._move(Cause.FAILED, f"refused: {error}", conclusion="inconclusive")

    def _obey(self) -> None:
        """Do what a person asked for."""
        request = self._hands.patiently(self._world.journal.request)
        if request is None or request.id == self.record.handled or request.at_s < self.record.started_s:
            return
        said = f"{request.wish}, asked by {request.by}" + (f": {request.reason}" if request.reason else "")
        heard: dict[str, Any] = {"by": request.by, "handled": request.id}
        if request.wish == "pause" and Cause.FAILED in TRANSITIONS[self.record.phase]:
            self._ledger.save(what="asked", detail=said, paused=True, **heard)
        elif request.wish == "resume" and self.record.paused:
            # Time spent waiting for a person is not the release's: what is timed begins again.
            now_s = self._clock.now_s()
            self._ledger.save(what="asked", detail=said, paused=False, since_s=now_s, step_since_s=now_s, **heard)
        elif request.wish == "pause" or WISHES[request.wish] not in TRANSITIONS[self.record.phase]:
            self._ledger.save(what="asked", detail=f"{said}; not possible while {self.record.phase}", **heard)
        elif request.wish == "promote" and self._asked_for(request) is None:
            found = f"{said}; {request.release} is not among what is tried: {self.record.title}"
            self._ledger.save(what="asked", detail=found, **heard)
        else:
            chosen: dict[str, Any] = {"chosen": self._asked_for(request)} if request.wish == "promote" else {}
            self._ledger.save(paused=False)
            self._move(WISHES[request.wish], said, extensions=0, conclusion=None, **heard, **chosen)

    def _asked_for(self, request: Request) -> Arm | None:
        """Arm of the release that a person wants promoted; None: it is not there."""
        fit = (arm for arm in self.record.canaries if request.release in (None, self.record.release_of(arm).name))
        return next(fit, None)

    # Phases.

    def _prepare(self) -> None:
        if not self._here.home():
            return
        self._here.once("floor", lambda: self._hands.floor(self.record.stable_ready))
        self._here.drop_unwell()
        self._here.put_away()
        if self._here.arms_ready(all_of_it=True):
            self._watch_health()
            self._move(Cause.READY, "all arms are ready")

    def _warm(self) -> None:
        self._analysis.warm()

    def _step(self) -> None:
        self._analysis.step()

    def _hold(self) -> None:
        self._here.canaries_live()
        self._here.keep_weights()
        self._here.put_away()
        self._analysis.hold()
        hold_s = self.record.plan.inconclusive.hold_s
        if self._here.over(hold_s):
            self._move(Cause.FAILED, f"nobody decided within {hold_s:g} s", conclusion="inconclusive")

    def _promote(self) -> None:
        record = self.record
        (arm,) = record.canaries
        release, canary, stable = record.release_of(arm), self._hands.state(arm), self._hands.state("stable")
        complaint = self._here.complaint(arm)
        if not canary.ready or complaint:
            raise Turn(Cause.FAILED, complaint or f"the {arm} has no ready endpoint{because(canary)}", conclusion="fail")
        self._here.once("mirror", lambda: self._hands.mirror(0))
        self._here.once("ensure", lambda: self._hands.ensure("stable", release))
        self._here.keep_weights()
        if not runs(stable, release.name, record.stable_ready):
            self._proven_since_s = None
            if self._here.over(record.plan.times.promote_s):
                found = f"{stable.ready} of {max(stable.wanted, record.stable_ready)} are ready{because(stable)}"
                raise Turn(Cause.FAILED, f"stable does not run {release.name}: {found}", conclusion="fail")
            return
        now_s = self._clock.now_s()
        if self._proven_since_s is None or stable.restarts != self._restarts:
            self._proven_since_s, self._restarts = now_s, stable.restarts
        if now_s - self._proven_since_s >= record.plan.times.proven_s:
            self._move(Cause.PROVEN, f"stable runs {release.name}, {stable.ready} ready")

    def _revert(self) -> None:
        old = self.record.old_release
        if not self._hands.state("stable").ready:  # the new release took it away: weight can only go there once the old one is back
            self._here.once("ensure", lambda: self._hands.ensure("stable", old))
        if not self._here.home():
            return
        self._here.once("ensure", lambda: self._hands.ensure("stable", old))
        stable = self._hands.state("stable")
        if runs(stable, old.name, 1):
            self._move(Cause.REVERTED, f"stable runs {old.name} again")
        elif self._here.over(self.record.plan.times.promote_s):
            raise RolloutError(f"stable does not go back to {old.name}{because(stable)}; mend it, then start again")

    def _go_home(self) -> None:
        if self._here.home():
            self._move(Cause.RETURNED, "all live traffic is stable's")

    def _clean(self) -> None:
        self._hands.rest()
        for arm in self.record.arms:
            self._hands.remove(arm)
        self._hands.remove("baseline")
        self._hands.floor(None)
        self._move(Cause.CLEANED, f"{self.record.outcome}: {self.record.why}", ended_s=self._clock.now_s())

    # Bookkeeping.

    def _move(self, cause: Cause, why: str, *, by: str = "engine", **changes: Any) -> None:
        if self.record.paused and cause in ADVANCES:
            return
        if Cause.FAILED not in TRANSITIONS[following(self.record.phase, cause)]:
            changes["paused"] = False  # what goes back goes back, and says so where it cannot
        self._ledger.move(cause, why, by=by, **changes)
        self._hands.end_traffic()
        self._begin_phase()

    def _begin_phase(self) -> None:
        """Forget what is of one phase alone."""
        self._here = Conditions(self._clock, self._ledger, self._hands, self._healths)
        self._analysis = Analysis(self._world, self._ledger, self._hands, self._here)
        self._proven_since_s = None

    def _watch_health(self) -> None:
        """Begin to watch arms that are new, or newly warm."""
        self._healths = {arm: HealthWatch(self.record.plan.health, arm) for arm in self.record.arms}
