"""What is learnt from requests: whether the arms are warm, and what the judge makes of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from k8s.rollout.arms import Arm
from k8s.rollout.conditions import Conditions, Turn
from k8s.rollout.hands import Hands
from k8s.rollout.jury import Jury, Trial
from k8s.rollout.ledger import Ledger
from k8s.rollout.phases import Cause
from k8s.rollout.plan_tables import Source
from k8s.rollout.ports import Look
from k8s.rollout.record import Judged, Record
from k8s.rollout.world import World

PROGRESS_EVERY_S = 5.0
"""Between two writes of how far a step is; each is a write to the API server."""

MAX_ATTEMPTS = 10
"""At a step. Each begins its time anew, with half of the risk of the one before: the tenth could hardly show anything, and an engine that
dies again and again must not keep a release in front of users for ever."""

HELD: tuple[Source, ...] = ("live",)
"""What is looked at while a person decides."""


class Analysis:
    """Made anew for each phase; what it has learnt goes with it.

    Every conclusion is raised as a `Turn`.
    """

    def __init__(self, world: World, ledger: Ledger, hands: Hands, here: Conditions) -> None:
        self._world, self._clock, self._ledger, self._hands, self._here = world, world.clock, ledger, hands, here
        self._trial: Trial | None = None
        self._compared: Mapping[Source, tuple[Arm, ...]] = {}
        self._warmed: dict[Arm, int] = {}
        self._blind, self._unseen = False, list[str]()
        self._progress_s = 0.0

    @property
    def _record(self) -> Record:
        return self._ledger.record

    def warm(self) -> None:
        """Warm the arms up."""
        plan = self._record.plan
        self._here.canaries_live()
        if not self._here.home():
            return
        if not plan.warm_up.requests:
            raise Turn(Cause.WARM, "the plan warms nothing up")
        self._here.once("mirror", lambda: self._hands.mirror(plan.warm_up.mirror_pct))
        compared = dict.fromkeys(plan.sources, (*self._record.canaries, plan.beside))
        self._here.once("begin", lambda: self._hands.begin_traffic(plan.warm_up.as_step(), compared))
        for _, looks in self._seen(plan.sources):
            for arm, look in looks.items():
                self._warmed[arm] = self._warmed.get(arm, 0) + int(look.batch.canary.ok.sum())
            self._warmed[plan.beside] = self._warmed.get(plan.beside, 0) + max(int(look.batch.baseline.ok.sum()) for look in looks.values())
        answered = {arm: self._warmed.get(arm, 0) for arm in (*self._record.canaries, plan.beside)}
        if min(answered.values()) >= plan.warm_up.requests:
            self._hands.end_traffic()
            self._hands.mirror(0)
            raise Turn(Cause.WARM, f"{min(answered.values())} requests of each arm were answered")
        elif self._here.over(plan.warm_up.timeout_s):
            late = f"not warm: {{}} of {plan.warm_up.requests} requests were answered within {plan.warm_up.timeout_s:g} s"
            if self._blind or answered[plan.beside] < plan.warm_up.requests:  # nothing is known of the releases
                raise Turn(Cause.FAILED, late.format(min(answered.values())), conclusion="inconclusive" if self._blind else "fail")
            for arm in [arm for arm in self._record.canaries if answered[arm] < plan.warm_up.requests]:
                self._here.drop(arm, late.format(answered[arm]), "fail")

    def step(self) -> None:
        """Load the arms of the step's weight, and judge what is seen."""
        self._here.canaries_live()
        if self._trial is None:
            self._here.keep_last_weights()
        else:
            self._here.keep_weights()
        if not self._here.arms_ready(all_of_it=self._trial is None):
            return
        plan = self._record.plan
        step = plan.steps[self._record.step]
        if self._trial is None:
            if self._record.paused:
                return
            attempt = self._record.attempt + 1
            if attempt > MAX_ATTEMPTS:
                raise Turn(Cause.FAILED, f"step {step.title} was begun {MAX_ATTEMPTS} times, and never decided", conclusion="inconclusive")
            self._here.once("mirror", lambda: self._hands.mirror(*plan.copies(step)))
            self._here.keep_weights()
            begun_s = self._clock.now_s()
            self._ledger.save(what="analysis", detail=f"step {step.title}, attempt {attempt}", attempt=attempt, step_since_s=begun_s)
            self._compared = plan.compared(plan.weights_of(self._record.step, self._record.canaries), self._record.canaries)
            tried = len(self._record.releases)
            self._trial = Trial.of_step(plan, attempt, self._record.canaries, tried, self._world.answers, self._compared)
            self._here.put_away()
            self._hands.begin_traffic(step, self._compared)
        self._trial.add(self._seen(self._compared))
        self._decide(self._trial)

    def hold(self) -> None:
        """Go on judging the users' own requests while a person decides: a release that begins to fail goes back, and none is promoted.

        What they are shown to be good by is forgotten, and judging begins anew: hours of good requests would outweigh the bad ones.
        """
        plan, canaries = self._record.plan, self._record.canaries
        if plan.live is None:
            return
        step = plan.steps[self._record.step]
        compared = {source: arms for source, arms in plan.compared(self._record.weights, canaries).items() if source in HELD}
        if self._trial is None or compared != self._compared:
            self._here.once("held", lambda: self._ledger.save(what="analysis", detail=f"held at {step.title}, live requests alone"))
            self._hands.begin_traffic(step, compared)
            self._compared, self._trial = compared, Trial({arm: self._holding_jury() for arm in canaries})
        self._trial.add(self._seen(compared))
        self._drop_failed(self._trial)
        seen = self._trial.samples(self._record.canaries)
        self._tell_progress(f"{step.title}: held, {seen} live requests an arm since they were last shown to be good")
        for arm in self._record.canaries:
            if self._trial.status(arm) == "pass":
                self._trial.replace(arm, self._holding_jury())

    def _holding_jury(self) -> Jury:
        number = self._record.watches + 1
        self._ledger.save(watches=number)
        return Jury(self._record.plan, {"live": self._record.plan.holding_judge(number, len(self._record.releases))})

    def _seen(self, sources: Iterable[Source]) -> list[tuple[Source, Mapping[Arm, Look]]]:
        """What came since the last look; why a source cannot be looked at is told once."""
        seen, self._unseen = self._hands.looks(sources)
        for said in self._unseen:
            self._blind = True
            self._here.once("blind", lambda said=said: self._ledger.save(what="blind", detail=said))  # type: ignore[misc]
        return seen

    def _drop_failed(self, trial: Trial) -> None:
        for arm in self._record.canaries:
            if trial.status(arm) == "fail":
                failed = next(each.sentence for each in trial.verdicts(arm).values() if each.status == "fail")
                self._here.drop(arm, failed, "fail", by="judge", verdicts=self._judged(trial, [arm]))

    def _decide(self, trial: Trial) -> None:
        self._drop_failed(trial)
        record = self._record
        step, rounds = record.plan.steps[record.step], 1 + record.extensions
        open_ = [arm for arm in record.canaries if trial.status(arm) != "pass"]
        status, seen = "inconclusive" if open_ else "pass", trial.samples(record.canaries)
        lasted_s = self._clock.now_s() - record.step_since_s
        baked = lasted_s >= step.bake_s
        if record.paused:
            self._tell_progress(f"{step.title}: paused, {seen} requests an arm, {status}")
        elif baked and not open_ and not self._unseen:
            self._passed(trial)
        elif (baked and open_ and seen >= rounds * step.samples) or lasted_s >= rounds * step.timeout_s:
            self._undecided(trial, open_, lasted_s)
        else:
            self._tell_progress(f"{step.title}: {seen} of {rounds * step.samples} requests an arm, {lasted_s:.0f} s, {status}")

    def _passed(self, trial: Trial) -> None:
        plan, number, canaries = self._record.plan, self._record.step, self._record.canaries
        self._end_copies()
        said = f"step {self._record.step_name}: {self._sentences(trial, canaries)}"
        kept: dict[str, Any] = {"by": "judge", "verdicts": (*self._record.verdicts, *self._judged(trial, canaries))}
        if number + 1 < len(plan.steps):
            raise Turn(Cause.PASSED, said, step=number + 1, attempt=0, extensions=0, **kept)
        if plan.finish == "hold":
            raise Turn(Cause.UNDECIDED, f"{said} The plan ends here: promote or abort", conclusion="pass", **kept)
        if plan.finish == "discard":
            raise Turn(Cause.SHOWN, said, conclusion="pass", **kept)
        raise Turn(Cause.COMPLETE, said, conclusion="pass", chosen=canaries[0], **kept)

    def _undecided(self, trial: Trial, undecided: list[Arm], lasted_s: float) -> None:
        record, rule = self._record, self._record.plan.inconclusive
        # What passed by requests of before, and cannot be looked at now, has not been baked.
        unsaid = "; ".join(self._unseen) or "The bake time is not over."
        why = f"{self._sentences(trial, undecided, but='pass') or unsaid} ({lasted_s:.0f} s)"
        kept = self._judged(trial, undecided)
        if record.extensions < rule.extend:
            self._ledger.save(what="extended", detail=why, by="judge", extensions=record.extensions + 1)
        elif rule.then == "hold":
            self._end_copies()
            why += f" A person decides within {rule.hold_s:g} s"
            raise Turn(Cause.UNDECIDED, why, by="judge", conclusion="inconclusive", verdicts=(*record.verdicts, *kept))
        elif undecided:
            for arm in undecided:
                self._here.drop(arm, why, "inconclusive", by="judge", verdicts=self._judged(trial, [arm]))
        else:
            raise Turn(Cause.FAILED, why, by="judge", conclusion="inconclusive", verdicts=(*record.verdicts, *kept))

    def _end_copies(self) -> None:
        """Between steps the engine takes none."""
        if self._record.plan.collects:
            self._hands.mirror(0)

    def _judged(self, trial: Trial, canaries: Iterable[Arm]) -> tuple[Judged, ...]:
        at_s, record = self._clock.now_s(), self._record
        return tuple(
            Judged.of(at_s, record, record.release_of(arm).name, source, verdict)
            for arm in canaries
            for source, verdict in trial.verdicts(arm).items()
        )

    def _sentences(self, trial: Trial, canaries: Iterable[Arm], but: str = "") -> str:
        """What the juries say; whose it is, is said where several releases are tried."""
        several = len(self._record.releases) > 1
        return " ".join(
            (f"{self._record.release_of(arm).name}: " if several else "") + each.sentence
            for arm in canaries
            for each in trial.verdicts(arm).values()
            if each.status != but
        )

    def _tell_progress(self, progress: str) -> None:
        now_s = self._clock.now_s()
        if progress != self._record.progress and now_s - self._progress_s >= PROGRESS_EVERY_S:
            self._progress_s = now_s
            self._ledger.save(progress=progress)
