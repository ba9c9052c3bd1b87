"""The engine: takes a release through its plan, and puts everything back when it is worse.

It looks, does at most what its phase is for, and looks again. What it does is idempotent and journalled before and after; what it knows and
is not in the journal (evidence of a step, memory of a warm process) it can do without: a new engine begins the step's analysis anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from k8s.errors import Conflict, Refused, RolloutError
from k8s.rollout.hands import Hands
from k8s.rollout.health import HealthWatch
from k8s.rollout.jury import Jury, samples, together
from k8s.rollout.ledger import Ledger
from k8s.rollout.phases import TRANSITIONS, Cause, Phase
from k8s.rollout.ports import Arm, ArmState, Look, Source, Weights
from k8s.rollout.record import Judged, Record
from k8s.rollout.world import World
from loadtests.judge import Verdict

PROGRESS_EVERY_S = 5.0
"""Between two writes of how far a step is; each is a write to the API server."""

ADVANCES = (Cause.READY, Cause.WARM, Cause.PASSED, Cause.COMPLETE, Cause.SHOWN, Cause.UNDECIDED, Cause.PROVEN)
"""What a paused rollout does not do. It still goes back where the release turns out to be bad."""

WISHES = {"promote": Cause.PROMOTE, "abort": Cause.ABORT, "resume": Cause.RESUME}


@dataclass
class _Attempt:
    """What an engine knows of the phase that it is in; a new engine knows nothing of it, and begins it anew."""

    done: set[str] = field(default_factory=set)
    jury: Jury | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    warmed: dict[Arm, int] = field(default_factory=dict)
    missing_since_s: float | None = None
    proven_since_s: float | None = None
    restarts: int = 0


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
        self._health = HealthWatch(ledger.record.plan.health)
        self._attempt = _Attempt()
        self._progress_s = 0.0
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
        except (Refused, Conflict) as error:
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
        if request.wish == "pause":
            self._ledger.save(what="asked", detail=said, paused=True, **heard)
        elif request.wish == "resume" and self.record.paused:
            # Time spent waiting for a person is not the release's: what is timed begins again.
            now_s = self._clock.now_s()
            self._ledger.save(what="asked", detail=said, paused=False, since_s=now_s, step_since_s=now_s, **heard)
        elif WISHES[request.wish] in TRANSITIONS[self.record.phase]:
            self._ledger.save(paused=False)
            self._move(WISHES[request.wish], said, extensions=0, conclusion=None, **heard)
        else:
            self._ledger.save(what="asked", detail=f"{said}; not possible while {self.record.phase}", **heard)

    # Phases.

    def _prepare(self) -> None:
        self._once("home", self._hands.send_home)
        self._once("floor", lambda: self._hands.floor(self.record.stable_ready))
        if self._arms_ready():
            self._health.restart()
            self._move(Cause.READY, "all arms are ready")

    def _warm(self) -> None:
        plan = self.record.plan
        if not self._canary_lives():
            return
        if not plan.warm_up.requests:
            self._move(Cause.WARM, "the plan warms nothing up")
            return
        self._once("mirror", lambda: self._hands.mirror(plan.warm_up.mirror_pct))
        self._once("begin", lambda: self._hands.begin_traffic(plan.warm_up.as_step()))
        for _, look in self._seen():
            for arm, requests in zip(plan.arms, (look["canary"].batch.canary, look["canary"].batch.baseline), strict=True):
                self._attempt.warmed[arm] = self._attempt.warmed.get(arm, 0) + int(requests.ok.sum())
        answered = min(self._attempt.warmed.get(arm, 0) for arm in plan.arms)
        if answered >= plan.warm_up.requests:
            self._hands.end_traffic()
            self._hands.mirror(0)
            self._move(Cause.WARM, f"{answered} requests of each arm were answered")
        elif self._over(plan.warm_up.timeout_s):
            late = f"{answered} of {plan.warm_up.requests} requests were answered within {plan.warm_up.timeout_s:g} s"
            # Where the generator died, nothing is known of the release.
            self._move(Cause.FAILED, f"not warm: {late}", conclusion="inconclusive" if "blind" in self._attempt.done else "fail")

    def _step(self) -> None:
        if not self._canary_lives():
            return
        if self._attempt.jury is not None and not self._keep_weights():
            return
        if not self._arms_ready():
            return
        plan = self.record.plan
        step = plan.steps[self.record.step]
        if self._attempt.jury is None:
            if self.record.paused:
                return
            self._once("mirror", lambda: self._hands.mirror(step.mirror_pct))
            if not self._keep_weights():
                return
            attempt = self.record.attempt + 1
            begun_s = self._clock.now_s()
            self._ledger.save(what="analysis", detail=f"step {step.title}, attempt {attempt}", attempt=attempt, step_since_s=begun_s)
            self._attempt.jury = Jury(plan, attempt, self._world.answers(plan, attempt) if self._world.answers else None)
            self._hands.begin_traffic(step)
        seen = self._seen()
        for source, look in seen:
            self._attempt.jury.add(source, look["canary"])
        if seen or not self._attempt.verdicts:
            self._attempt.verdicts = self._attempt.jury.verdicts()
        self._decide(self._attempt.verdicts)

    def _seen(self) -> list[tuple[Source, Mapping[Arm, Look]]]:
        """What came since the last look; why a source cannot be looked at is told once."""
        seen, blind = self._hands.looks()
        for said in blind:
            self._once("blind", lambda said=said: self._ledger.save(what="blind", detail=said))  # type: ignore[misc]
        return seen

    def _decide(self, verdicts: Mapping[str, Verdict]) -> None:
        record = self.record
        step, rounds = record.plan.steps[record.step], 1 + record.extensions
        status, seen = together(verdicts), samples(verdicts)
        lasted_s = self._clock.now_s() - record.step_since_s
        baked = lasted_s >= step.bake_s
        if status == "fail":
            failed = next(each.sentence for each in verdicts.values() if each.status == "fail")
            self._judged(Cause.FAILED, failed, verdicts, conclusion="fail")
        elif record.paused:
            self._tell_progress(f"{step.title}: paused, {seen} requests an arm, {status}")
        elif status == "pass" and baked:
            self._passed(verdicts)
        elif (baked and seen >= rounds * step.samples) or lasted_s >= rounds * step.timeout_s:
            why = " ".join(each.sentence for each in verdicts.values() if each.status != "pass") or "The bake time is not over."
            self._undecided(verdicts, f"{why} ({lasted_s:.0f} s)")
        else:
            self._tell_progress(f"{step.title}: {seen} of {rounds * step.samples} requests an arm, {lasted_s:.0f} s, {status}")

    def _passed(self, verdicts: Mapping[str, Verdict]) -> None:
        plan, number = self.record.plan, self.record.step
        said = f"step {self.record.step_name}: " + " ".join(each.sentence for each in verdicts.values())
        if number + 1 < len(plan.steps):
            self._judged(Cause.PASSED, said, verdicts, step=number + 1, attempt=0, extensions=0)
        elif plan.finish == "hold":
            self._judged(Cause.UNDECIDED, f"{said} The plan ends here: promote or abort", verdicts, conclusion="pass")
        else:
            self._judged(Cause.COMPLETE if plan.finish == "promote" else Cause.SHOWN, said, verdicts, conclusion="pass")

    def _undecided(self, verdicts: Mapping[str, Verdict], why: str) -> None:
        rule = self.record.plan.inconclusive
        if self.record.extensions < rule.extend:
            self._ledger.save(what="extended", detail=why, by="judge", extensions=self.record.extensions + 1)
        elif rule.then == "hold":
            self._judged(Cause.UNDECIDED, f"{why} A person decides within {rule.hold_s:g} s", verdicts, conclusion="inconclusive")
        else:
            self._judged(Cause.FAILED, why, verdicts, conclusion="inconclusive")

    def _hold(self) -> None:
        if not self._canary_lives() or not self._keep_weights():
            return
        hold_s = self.record.plan.inconclusive.hold_s
        if self._over(hold_s):
            self._move(Cause.FAILED, f"nobody decided within {hold_s:g} s", conclusion="inconclusive")

    def _promote(self) -> None:
        record = self.record
        canary, stable = self._hands.state("canary"), self._hands.state("stable")
        complaint = self._health.complaint(canary, stable)
        if not canary.ready or complaint:
            self._move(Cause.FAILED, complaint or f"the canary has no ready endpoint{_because(canary)}", conclusion="fail")
            return
        self._once("mirror", lambda: self._hands.mirror(0))
        self._once("ensure", lambda: self._hands.ensure("stable", record.release.name))
        if not self._keep_weights():
            return
        if not _runs(stable, record.release.name, record.stable_ready):
            self._attempt.proven_since_s = None
            if self._over(record.plan.times.promote_s):
                found = f"{stable.ready} of {max(stable.wanted, record.stable_ready)} are ready{_because(stable)}"
                self._move(Cause.FAILED, f"stable does not run {record.release.name}: {found}", conclusion="fail")
            return
        now_s = self._clock.now_s()
        if self._attempt.proven_since_s is None or stable.restarts != self._attempt.restarts:
            self._attempt.proven_since_s, self._attempt.restarts = now_s, stable.restarts
        if now_s - self._attempt.proven_since_s >= record.plan.times.proven_s:
            self._move(Cause.PROVEN, f"stable runs {record.release.name}, {stable.ready} ready")

    def _revert(self) -> None:
        record = self.record
        if not self._home():
            return
        self._once("ensure", lambda: self._hands.ensure("stable", record.old_release.name))
        stable = self._hands.state("stable")
        if _runs(stable, record.old_release.name, 1):
            self._move(Cause.REVERTED, f"stable runs {record.old_release.name} again")
        elif self._over(record.plan.times.promote_s):
            raise RolloutError(f"stable does not go back to {record.old_release.name}{_because(stable)}; mend it, then start again")

    def _go_home(self) -> None:
        if self._home():
            self._move(Cause.RETURNED, "all live traffic is stable's")

    def _clean(self) -> None:
        self._hands.rest()
        self._hands.remove("canary")
        self._hands.remove("baseline")
        self._hands.floor(None)
        self._move(Cause.CLEANED, f"{self.record.outcome}: {self.record.why}", ended_s=self._clock.now_s())

    # Conditions that phases share.

    def _home(self) -> bool:
        """Send traffic home, unless stable cannot take it and the canary can."""
        stable = self._hands.state("stable")
        if not stable.ready and self._hands.state("canary").ready:
            if self._over(self.record.plan.times.ready_s):
                raise RolloutError(
                    f"stable has no ready endpoint{_because(stable)}: the canary keeps its weight; mend it, then start again"
                )
            return False
        self._once("home", self._hands.send_home)
        return True

    def _keep_weights(self) -> bool:
        """Set the weights of the step, and set them again where somebody else changed them. False: that led elsewhere."""
        record = self.record
        wanted = record.plan.weights_of(record.step)
        if wanted.baseline and not self._hands.state("baseline").ready:
            wanted = Weights(stable=wanted.stable + wanted.baseline, canary=wanted.canary)
        if wanted.stable and not self._hands.state("stable").ready:
            return True  # no weight is moved to an arm that is not there: as it was, until it is
        found = self._hands.weights()
        if found != record.weights and "weights" in self._attempt.done:
            drifts = record.drifts + 1
            self._ledger.save(what="drift", detail=f"somebody else set {found}", drifts=drifts)
            if drifts > record.plan.max_drifts:
                self._move(Cause.FAILED, f"somebody else set the weights {drifts} times", conclusion="inconclusive")
                return False
        self._attempt.done.add("weights")
        if found != wanted or record.weights != wanted:
            self._hands.set_weights(wanted)
        return True

    def _arms_ready(self) -> bool:
        """Start what is to run beside stable, and say whether it is ready; False may have led elsewhere."""
        record = self.record
        names: dict[Arm, str] = {"canary": record.release.name}
        if record.plan.baseline:
            names = {"baseline": record.old_release.name, **names}
        states = {arm: self._hands.state(arm) for arm in names}
        size = record.plan.replicas_of(record.step)
        for arm, name in names.items():
            begun = f"ensure {arm}" in self._attempt.done or (states[arm].release, states[arm].wanted) == (name, size)
            if not begun or not states[arm].wanted:
                self._attempt.done.add(f"ensure {arm}")
                self._hands.ensure(arm, name)
        complaint = self._health.complaint(states["canary"], self._hands.state(record.plan.arms[1]))
        if complaint:
            self._move(Cause.FAILED, complaint, conclusion="fail")
            return False
        # What was all there once may lose a process for a while: the others go on.
        all_of_it = self._attempt.jury is None
        missing = [arm for arm, name in names.items() if not (_runs(states[arm], name, size) if all_of_it else states[arm].ready)]
        if not self._hands.state("stable").ready:
            missing.append("stable")
        now_s = self._clock.now_s()
        if not missing or record.paused or self._attempt.missing_since_s is None:
            self._attempt.missing_since_s = now_s if missing else None
        elif now_s - self._attempt.missing_since_s > record.plan.times.ready_s:
            reasons = "; ".join(f"{arm}{_because(self._hands.state(arm))}" for arm in missing)
            conclusion = "fail" if missing == ["canary"] else "inconclusive"
            self._move(Cause.FAILED, f"not ready after {record.plan.times.ready_s:g} s: {reasons}", conclusion=conclusion)
        return not missing

    def _canary_lives(self) -> bool:
        """Whether the canary is there and well. False: that led elsewhere, where its weight is taken first of all."""
        record = self.record
        canary = self._hands.state("canary")
        complaint = self._health.complaint(canary, self._hands.state(record.plan.arms[1]))
        if complaint:
            self._move(Cause.FAILED, complaint, conclusion="fail")
        elif not canary.ready:
            lost = f"the canary has no ready endpoint{_because(canary)}"
            if record.losses >= record.plan.health.max_losses:
                self._move(Cause.FAILED, lost, conclusion="fail")
            else:
                self._move(Cause.LOST, lost, losses=record.losses + 1)
        return not complaint and canary.ready > 0

    # Bookkeeping.

    def _judged(self, cause: Cause, why: str, verdicts: Mapping[str, Verdict], **changes: Any) -> None:
        record, at_s = self.record, self._clock.now_s()
        kept = tuple(Judged.of(at_s, record.step_name, record.attempt, source, verdict) for source, verdict in verdicts.items())
        self._move(cause, why, by="judge", verdicts=(*record.verdicts, *kept), **changes)

    def _move(self, cause: Cause, why: str, *, by: str = "engine", **changes: Any) -> None:
        if self.record.paused and cause in ADVANCES:
            return
        self._ledger.move(cause, why, by=by, **changes)
        self._hands.end_traffic()
        self._attempt = _Attempt()

    def _once(self, name: str, do: Callable[[], None]) -> None:
        """Do something once in a phase, by this engine; the next engine does it again."""
        if name not in self._attempt.done:
            do()
            self._attempt.done.add(name)

    def _over(self, limit_s: float) -> bool:
        return not self.record.paused and self._clock.now_s() - self.record.since_s > limit_s

    def _tell_progress(self, progress: str) -> None:
        now_s = self._clock.now_s()
        if progress != self.record.progress and now_s - self._progress_s >= PROGRESS_EVERY_S:
            self._progress_s = now_s
            self._ledger.save(progress=progress)


def _runs(state: ArmState, name: str, least: int) -> bool:
    return state.release == name and state.is_ready and state.ready >= least


def _because(state: ArmState) -> str:
    return f": {state.reason}" if state.reason else ""
