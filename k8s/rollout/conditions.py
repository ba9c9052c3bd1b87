"""What several phases ask of the arms and the weights before they do their own work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from k8s.errors import RolloutError
from k8s.rollout.arms import Arm, ArmState, Release, Weights
from k8s.rollout.hands import Hands
from k8s.rollout.health import HealthWatch
from k8s.rollout.ledger import Ledger
from k8s.rollout.phases import TRANSITIONS, Cause
from k8s.rollout.ports import Clock
from k8s.rollout.record import Dropped, Judged


class Turn(Exception):
    """What was found leads to another phase; the engine goes there.

    Parameters
    ----------
    changes
        Of the record, made together with the move.
    """

    def __init__(self, cause: Cause, why: str, *, by: str = "engine", **changes: Any) -> None:
        super().__init__(why)
        self.cause, self.why, self.by, self.changes = cause, why, by, changes


class Conditions:
    """Made anew for each phase, whose beginnings it remembers; a new engine begins them anew.

    Parameters
    ----------
    healths
        One for each canary; they outlive the phase.
    """

    def __init__(self, clock: Clock, ledger: Ledger, hands: Hands, healths: dict[Arm, HealthWatch]) -> None:
        self._clock, self._ledger, self._hands, self._healths = clock, ledger, hands, healths
        self._done: set[str] = set()
        self._missing_since_s: float | None = None

    def once(self, name: str, do: Callable[[], None]) -> None:
        """Do something once in a phase, by this engine; the next engine does it again."""
        if name not in self._done:
            do()
            self._done.add(name)

    def over(self, limit_s: float) -> bool:
        """Whether the phase has lasted longer; never while it is paused."""
        record = self._ledger.record
        return not record.paused and self._clock.now_s() - record.since_s > limit_s

    def home(self) -> bool:
        """Send traffic home, unless stable cannot take it and whoever has some of it can."""
        record = self._ledger.record
        stable = self._hands.state("stable")
        if not stable.ready and "home" not in self._done:
            found = self._hands.weights()
            serving = [arm for arm in ("baseline", *record.arms) if found.of(arm) and self._hands.state(arm).ready]
            if serving and self.over(record.plan.times.ready_s):
                kept = f"the {serving[0]} keeps its weight" if len(serving) == 1 else f"{' and '.join(serving)} keep their weight"
                raise RolloutError(f"stable has no ready endpoint{because(stable)}: {kept}; mend it, then start again")
            if serving:
                return False
        if "home" in self._done and stable.ready:
            self._set_again(Weights())
        self.once("home", self._hands.send_home)
        return True

    def _set_again(self, wanted: Weights) -> None:
        """Set weights, again where somebody else changed them since; on the way back he is left alone in the end, for the route goes."""
        record, found = self._ledger.record, self._hands.weights()
        if found != record.weights and self._done & {"home", "weights"}:
            goes_back = Cause.FAILED not in TRANSITIONS[record.phase]
            if goes_back and record.drifts > record.plan.max_drifts:
                return
            drifts = record.drifts + 1
            self._ledger.save(what="drift", detail=f"somebody else set {found}", drifts=drifts)
            if drifts > record.plan.max_drifts and not goes_back:
                raise Turn(Cause.FAILED, f"somebody else set the weights {drifts} times", conclusion="inconclusive")
        if found != wanted or record.weights != wanted:
            self._hands.set_weights(wanted)

    def keep_weights(self) -> None:
        """Set the weights of the step, and set them again where somebody else changed them."""
        record = self._ledger.record
        self._keep(record.plan.weights_of(record.step, record.canaries))

    def keep_last_weights(self) -> None:
        """Keep the weights of the step before while arms get ready for this one; what a dropped release had goes to stable."""
        self._keep(self._ledger.record.weights)

    def _keep(self, wanted: Weights) -> None:
        """Have no weight with an arm that is not tried, or not there."""
        there: tuple[Arm, ...] = self._ledger.record.canaries
        if self._hands.state("baseline").ready:
            there = (*there, "baseline")
        shares = {arm: wanted.of(arm) for arm in there}
        wanted = Weights.shared(shares | {"stable": 100 - sum(shares.values())})
        if wanted.stable and not self._hands.state("stable").ready:
            return  # no weight is moved to an arm that is not there: as it was, until it is
        self._set_again(wanted)
        self._done.add("weights")

    def arms_ready(self, *, all_of_it: bool) -> bool:
        """Start what is to run beside stable, and say whether it is ready.

        Parameters
        ----------
        all_of_it
            Whether all processes of an arm are waited for; what was all there once may lose one for a while, and the others go on.
        """
        record = self._ledger.record
        wanted: dict[Arm, Release] = {"baseline": record.old_release} if record.plan.baseline else {}
        wanted |= {arm: record.release_of(arm) for arm in record.canaries}
        states = {arm: self._hands.state(arm) for arm in wanted}
        size = record.plan.replicas_of(record.step)
        for arm, release in wanted.items():
            begun = f"ensure {arm}" in self._done or (states[arm].release, states[arm].wanted) == (release.name, size)
            if not begun or not states[arm].wanted:
                self._done.add(f"ensure {arm}")
                self._hands.ensure(arm, release)
        missing = [
            arm for arm, release in wanted.items() if not (runs(states[arm], release.name, size) if all_of_it else states[arm].ready)
        ]
        if not self._hands.state("stable").ready:
            missing.append("stable")
        now_s, limit_s = self._clock.now_s(), record.plan.times.ready_s
        if not missing or record.paused or self._missing_since_s is None:
            self._missing_since_s = now_s if missing else None
        elif now_s - self._missing_since_s > limit_s:
            self._missing_since_s = None
            said = {arm: f"{arm}{because(self._hands.state(arm))}" for arm in missing}
            if any(arm not in record.canaries for arm in missing):
                raise Turn(Cause.FAILED, f"not ready after {limit_s:g} s: {'; '.join(said.values())}", conclusion="inconclusive")
            for arm in missing:
                self.drop(arm, f"not ready after {limit_s:g} s: {said[arm]}", "fail")
        return not missing

    def canaries_live(self) -> None:
        """Check that each canary is there and well, and what it is to be. One that is not loses its weight first of all."""
        self._no_strangers()
        self.drop_unwell()
        record = self._ledger.record
        for arm in record.canaries:
            canary = self._hands.state(arm)
            if canary.ready:
                continue
            lost = f"the {arm} has no ready endpoint{because(canary)}"
            if record.losses < record.plan.health.max_losses:
                raise Turn(Cause.LOST, lost, losses=record.losses + 1)
            self.drop(arm, lost, "fail")

    def _no_strangers(self) -> None:
        """Check that no arm was given another release by somebody else: verdicts, and weight, would be for what nobody asked about."""
        record = self._ledger.record
        wanted: dict[Arm, Release] = {"stable": record.old_release, record.plan.beside: record.old_release}
        wanted |= {arm: record.release_of(arm) for arm in record.canaries}
        for arm, release in wanted.items():
            found = self._hands.state(arm)
            if not found.ready or found.release in (None, release.name):
                continue
            said = f"somebody else gave {arm} {found.release}, in place of {release.name}"
            if arm != "stable" and record.losses < record.plan.health.max_losses:
                raise Turn(Cause.LOST, said, losses=record.losses + 1)
            if arm in record.canaries:
                self.drop(arm, said, "inconclusive")
            else:
                raise Turn(Cause.FAILED, said, conclusion="inconclusive")

    def drop_unwell(self) -> None:
        """Drop canaries that are restarted again and again, or grow."""
        for arm in self._ledger.record.canaries:
            complaint = self.complaint(arm)
            if complaint:
                self.drop(arm, complaint, "fail")

    def complaint(self, arm: Arm) -> str | None:
        """Say what is wrong with a canary beside what it is compared with; None: nothing."""
        return self._healths[arm].complaint(self._hands.state(arm), self._hands.state(self._ledger.record.plan.beside))

    def drop(
        self, arm: Arm, why: str, conclusion: Literal["fail", "inconclusive"], *, by: str = "engine", verdicts: Iterable[Judged] = ()
    ) -> None:
        """Try a release no longer; without any left the rollout has failed."""
        record = self._ledger.record
        kept = (*record.verdicts, *verdicts)
        if record.canaries == (arm,):
            raise Turn(Cause.FAILED, why, by=by, conclusion=conclusion, verdicts=kept)
        dropped = (*record.dropped, Dropped(arm=arm, why=why, conclusion=conclusion))
        said = f"{record.release_of(arm).name} is tried no longer: {why}"
        self._ledger.save(what="dropped", detail=said, by=by, dropped=dropped, verdicts=kept)

    def put_away(self) -> None:
        """Remove the arms of dropped releases, once they have no weight; not in the middle of a step, whose requests they still get."""
        for each in self._ledger.record.dropped:
            if not self._ledger.record.weights.of(each.arm) and self._hands.state(each.arm).wanted:
                self.once(f"remove {each.arm}", lambda arm=each.arm: self._hands.remove(arm))  # type: ignore[misc]


def runs(state: ArmState, name: str, least: int) -> bool:
    """Whether an arm runs this release, with so many processes at least."""
    return state.release == name and state.is_ready and state.ready >= least


def because(state: ArmState) -> str:
    """Say why an arm is not ready, for the end of a sentence."""
    return f": {state.reason}" if state.reason else ""
