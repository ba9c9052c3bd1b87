"""What the engine does to the world: each action waits for the other side within bounds, and is journalled before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from k8s.errors import Ignored, Refused, RolloutError, Unavailable
from k8s.rollout.arms import Arm, ArmState, Release, Weights
from k8s.rollout.ledger import Ledger
from k8s.rollout.patience import Patience
from k8s.rollout.phases import TRANSITIONS, Cause
from k8s.rollout.plan_tables import Copied, Source, Step
from k8s.rollout.ports import Lease, Look
from k8s.rollout.world import World

Answer = TypeVar("Answer")

RENEW_EVERY_S = 5.0
"""Between two renewals of the lease, which lasts several times as long."""

SURE_S = 20.0
"""After its last renewal an engine still acts: a lease lasts 30 s, and an action takes 10 s at most until its answer."""


class Hands:
    """Acts, and reads.

    Parameters
    ----------
    ledger
        Where it is written down.
    """

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world, self._ledger = world, ledger
        self._patience = Patience(world.clock, ledger.record.plan.times.api_s, self.renew_if_due)
        self._renewed_s = 0.0
        self._seen: dict[Arm, ArmState] = {}

    def look_again(self) -> None:
        """Forget what was read: a new look begins."""
        self._seen = {}

    def state(self, arm: Arm) -> ArmState:
        """How an arm is, read once a look."""
        if arm not in self._seen:
            self._seen[arm] = self.patiently(lambda: self._world.fleet.state(arm))
        return self._seen[arm]

    def weights(self) -> Weights:
        """Weights in force."""
        return self.patiently(self._world.router.read)

    def patiently(self, do: Callable[[], Answer]) -> Answer:
        """Do something as soon as the other side lets it."""
        # Going back has no alternative to going back: even what is refused is tried again, as long as the plan waits.
        return self._patience.call(lambda: self._holding(do), refusals=self._going_back)

    def _holding(self, do: Callable[[], Answer]) -> Answer:
        """Do it if the lease is held for certain: frozen since its last write to the journal, an engine hears here that another goes on."""
        self.renew_if_due()
        old_s = self._world.clock.now_s() - self._renewed_s
        if old_s > SURE_S:
            raise Unavailable("the lease cannot be renewed, and another engine may have it")
        return do()

    @property
    def _going_back(self) -> bool:
        return Cause.FAILED not in TRANSITIONS[self._ledger.record.phase]

    def renew_if_due(self) -> None:
        """Keep the lease."""
        now_s = self._world.clock.now_s()
        if now_s - self._renewed_s >= RENEW_EVERY_S and renewed(self._world.lease):
            self._renewed_s = now_s

    # Weights.

    def set_weights(self, weights: Weights) -> None:
        """Share out live traffic."""
        record = self._ledger.record
        if record.weights == weights and record.intent is None and self.weights() == weights:
            return
        write = self._world.router.write
        self._ledger.act("weights", str(weights), lambda: self.patiently(lambda: self._route(lambda: write(weights))), weights=weights)

    def mirror(self, pct: int, to: Copied = "canary") -> None:
        """Copy this share of the live requests that go by weight."""
        record = self._ledger.record
        if pct or record.mirror_pct or record.intent is not None:
            write = self._world.router.mirror
            said = f"{pct} % to the {to}" if pct else "0 %"
            self._ledger.act("mirror", said, lambda: self.patiently(lambda: self._route(lambda: write(pct, to))), mirror_pct=pct)

    def stop_copies(self) -> None:
        """Have no copies sent to an engine that ends: some gateways fail requests whose copies have nowhere to go. The next begins anew."""
        if self._ledger.record.mirror_pct and self._ledger.record.plan.collects:
            with suppress(RolloutError):
                self._world.router.mirror(0)

    def send_home(self) -> None:
        """All live traffic to stable, and no copies: the one state that is right before and after everything."""
        self.set_weights(Weights())
        self.mirror(0)

    def _route(self, write: Callable[[], None]) -> None:
        """Write weights or copies. On the way back, what is not taken is withdrawn.

        That is, what a gateway looked at and refused, or what none ever looked at. A gateway that does not answer is another matter: what
        it took before is in force, and taking the canary away would fail its users.
        """
        try:
            write()
        except (Refused, Ignored) as error:
            if not self._going_back:
                raise
            self._world.router.withdraw()
            self._ledger.save(what="withdrawn", detail=f"not by weights, but without them: {error}")

    def rest(self) -> None:
        """Put away what only a rollout needs."""
        self._ledger.act("rest", "the route is as it was before", lambda: self.patiently(self._world.router.rest))

    # Arms.

    def ensure(self, arm: Arm, release: Release) -> None:
        """Make an arm run a release."""
        record = self._ledger.record
        replicas = None if arm == "stable" else record.plan.replicas_of(record.step)
        size = "" if replicas is None else f", replicas: {replicas}"
        do = self._world.fleet.ensure
        self._ledger.act("ensure", f"{arm} runs {release.name}{size}", lambda: self.patiently(lambda: do(arm, release, replicas)))

    def floor(self, replicas: int | None) -> None:
        """Keep scalers from taking stable down, or no longer."""
        detail = "stable has its own bounds again" if replicas is None else f"no scaler takes stable below {replicas}"
        self._ledger.act("floor", detail, lambda: self.patiently(lambda: self._world.fleet.floor(replicas)))

    def remove(self, arm: Arm) -> None:
        """Take an arm away."""
        self._ledger.act("remove", arm, lambda: self.patiently(lambda: self._world.fleet.remove(arm)))

    # Requests of a step.

    def begin_traffic(self, step: Step, compared: Mapping[Source, Sequence[Arm]]) -> None:
        """Begin to load, or to watch, for each source the canaries and what they are compared with."""
        for source, arms in compared.items():
            traffic = self._world.traffic[source]
            self.patiently(lambda traffic=traffic, arms=arms: traffic.begin(step, arms))  # type: ignore[misc]

    def end_traffic(self) -> None:
        """Stop to; what cannot be stopped has an end of its own."""
        for traffic in self._world.traffic.values():
            with suppress(RolloutError):
                traffic.end()

    def looks(self, sources: Iterable[Source]) -> tuple[list[tuple[Source, Mapping[Arm, Look]]], list[str]]:
        """Look at sources. One that cannot be looked at sees nothing: the step's time runs, and nothing passes.

        Returns
        -------
            What was seen, and what could not be looked at, in words.
        """
        found: list[tuple[Source, Mapping[Arm, Look]]] = []
        blind: list[str] = []
        for source in sources:
            try:
                look = self._world.traffic[source].look()
            except RolloutError as error:
                blind.append(f"{source} traffic cannot be looked at: {error}")
                continue
            if look:
                found.append((source, look))
        return found, blind


def renewed(lease: Lease) -> bool:
    """Renew a lease, and say whether that was done; whoever cannot be reached cannot give it to another one either.

    Raises
    ------
    NotHeld
        Another engine has it.
    RolloutError
        It was refused, which says nothing of the release.
    """
    try:
        lease.renew()
    except Unavailable:
        return False
    except Refused as error:
        raise RolloutError(f"the lease cannot be kept: {error}") from error
    return True
