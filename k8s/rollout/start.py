"""Beginning a rollout, or going on with one: the same command does both, so that a Job that is restarted needs to know nothing."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

from k8s.errors import NotHeld, Refused, RolloutError, Settled, Unfit
from k8s.rollout.arms import CANARIES, Release
from k8s.rollout.engine import Engine
from k8s.rollout.ledger import Ledger
from k8s.rollout.patience import Patience
from k8s.rollout.plan import REFUSALS, Plan
from k8s.rollout.plan_tables import Times
from k8s.rollout.ports import Clock, Journal, Lease, Stored
from k8s.rollout.record import Record, Request, Wish
from k8s.rollout.world import Silence, World
from serving.contract.errors import SettingsError

LEASE_WAIT_S = 60.0
"""For the lease of an engine that died: it runs out after `LEASE_S` (30 s) of the cluster's lease, and clocks differ by some seconds."""


def engine_name() -> str:
    """Name this engine unlike all others, and so that a person finds it."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def person() -> str:
    """Name whoever asks, as far as this machine knows; in a pod nobody may have a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


@contextmanager
def held(lease: Lease, clock: Clock, wait_s: float = LEASE_WAIT_S) -> Iterator[None]:
    """Hold the lease in the block; take it as soon as whoever has it lets it go or dies.

    Raises
    ------
    NotHeld
        Another engine is alive.
    """
    patience, until_s = Patience(clock, Times().api_s), clock.now_s() + wait_s
    while True:
        try:
            patience.call(lease.acquire)
            break
        except NotHeld:
            if clock.now_s() >= until_s:
                raise
            clock.sleep(Times().poll_s)
    try:
        yield
    finally:
        with suppress(RolloutError):  # it runs out by itself
            lease.release()


def begin(
    world: World,
    service: str,
    plan: Plan,
    releases: Sequence[Release],
    name: str,
    *,
    key: str | None = None,
    superseded_by: str | None = None,
) -> Engine:
    """Begin a rollout; where one of these releases is under way, go on with that, by the plan it began with. The lease must be held.

    Parameters
    ----------
    releases
        One, or several that are tried at the same time, the preferred one first.
    key
        Names this request. Where the last rollout has the same and is over, nothing is begun: the engine returned has its record, and
        nothing to do. So whoever did not hear the end of it can ask again.
    superseded_by
        Who asks, where another release that is under way is to be put back first; None: it is left alone, and this one refused.

    Raises
    ------
    Refused
        Others are under way, or there is nothing to go back to.
    Unfit
        The plan copies requests, and the gateway cannot.
    SettingsError
        The plan has no room for so many, or two have one name.
    Settled
        There is nothing to roll out.
    """
    patience = Patience(world.clock, plan.times.api_s)
    stored = patience.call(world.journal.load)
    if stored is not None and stored.record.is_over and key is not None and stored.record.key == key:
        return _engine(world, stored, name)
    if stored is not None and not stored.record.is_over and stored.record.releases == tuple(releases):
        _check_sources(world, stored.record.plan)
        return _engine(world, stored, name, key)
    under_way = stored.record if stored is not None and not stored.record.is_over else None
    if under_way is not None and superseded_by is None:
        raise Refused(
            f"rollout {under_way.id} of {under_way.title} is {under_way.phase}: abort it, wait until it is over, or have it put"
            " back first (--supersede)"
        )
    _require_fit(world, plan, releases)
    notes = [patience.call(lambda: _check_mirror(world, plan))]
    if plan != plan.for_kept_users() and patience.call(world.router.keeps_users):
        plan = _asking_kept_users(plan)
        notes.append("refused requests of live traffic are not judged: a cookie keeps users, and all mistakes of one, with an arm")
    if under_way is not None and superseded_by is not None:
        why, now_s = f"superseded by {', '.join(release.name for release in releases)}", world.clock.now_s()
        patience.call(lambda: ask(world.journal, under_way, "abort", by=superseded_by, at_s=now_s, reason=why))
        put_back(world, under_way, name)
        stored = patience.call(world.journal.load)
    before = patience.call(world.journal.request)
    fresh = _fresh(world, service, plan, tuple(releases), name)
    # What was asked of the rollout before is not asked of this one, whatever the clock of the asker said.
    fresh = fresh.model_copy(update={"key": key, "handled": before.id if before else None})
    ledger = Ledger(fresh, stored.version if stored else None, world.journal, world.clock, world.notices)
    ledger.save(what="started", detail=f"{fresh.title} by plan {plan.name}, over {ledger.record.old_release.name}")
    for note in notes:
        if note:
            ledger.save(what="note", detail=note)
    return Engine(world, ledger, name)


def plan_under_way(journal: Journal, clock: Clock, releases: Sequence[Release], asked: Plan) -> Plan:
    """Return the plan by which a rollout of these releases is under way, whose world is to be set up; where none is, the one asked for."""
    stored = Patience(clock, asked.times.api_s).call(journal.load)
    under_way = stored is not None and not stored.record.is_over and stored.record.releases == tuple(releases)
    return stored.record.plan if stored is not None and under_way else asked


def ask(journal: Journal, record: Record, wish: Wish, *, by: str, at_s: float, reason: str, release: str | None = None) -> None:
    """Write down what is asked of a rollout; its engine does it at its next look."""
    # Clocks of two machines differ: what is asked of a rollout is never older than the rollout.
    at_s = max(at_s, record.started_s)
    journal.ask(Request(id=secrets.token_hex(4), wish=wish, by=by, at_s=at_s, reason=reason, release=release))


def put_back(world: World, record: Record, name: str) -> Record:
    """Carry a rollout that was asked to abort to its end. The lease must be held.

    Going back loads nothing, and looks at no traffic: what the record's plan would look at need not be set up.

    Raises
    ------
    RolloutError
        It is not in the journal any more.
    """
    stored = Patience(world.clock, Times().api_s).call(world.journal.load)
    if stored is None:
        raise RolloutError("there is no rollout to go on with: start one")
    traffic = {source: world.traffic.get(source, Silence()) for source in record.plan.sources}
    return _engine(replace(world, traffic=traffic), stored, name).run()


def _engine(world: World, stored: Stored, name: str, key: str | None = None) -> Engine:
    record = stored.record
    if key is not None:  # stored by the engine's first write
        record = record.model_copy(update={"key": key})
    return Engine(world, Ledger(record, stored.version, world.journal, world.clock, world.notices), name)


def _check_mirror(world: World, plan: Plan) -> str | None:
    """What is not known of the router's copying, in words; nothing where the plan copies nothing, or all is known."""
    steps = [plan.warm_up.as_step(), *plan.steps] if plan.warm_up.requests else plan.steps
    shares = [share for step in steps if (share := plan.copies(step)[0])]
    return world.router.check_mirror(min(shares)) if shares else None


def _check_sources(world: World, plan: Plan) -> None:
    missing = [source for source in plan.sources if source not in world.traffic]
    if missing:
        raise Refused(f"the plan looks at {', '.join(missing)} traffic, which is not set up here")
    if plan.collects and not world.collects:
        raise Unfit(
            "the plan compares answers to copies of live requests (answers.mirror_pct), which do not reach this engine: let the chart's Job"
            " run the rollout (rollout.job.enabled), or compare recorded requests (mirror_pct = 0, --requests-file)"
        )
    if plan.answers is not None and world.answers is None:
        raise Unfit("the plan compares answers, and there are no requests to compare them on: give recorded ones (--requests-file)")


def _asking_kept_users(plan: Plan) -> Plan:
    """Return the plan without what they cannot be asked; one that asks nothing else does not begin."""
    left = plan.for_kept_users()
    if left.live is not None and not left.live.objectives.keys() - {"policy"}:
        raise Unfit(f"[live.objectives] ask {REFUSALS} alone, which tells nothing where a cookie keeps users with an arm: ask more of it")
    return left


def _require_fit(world: World, plan: Plan, releases: Sequence[Release]) -> None:
    """Check that the plan can be carried out here, for so many releases."""
    _check_sources(world, plan)
    if not 1 <= len(releases) <= len(CANARIES):
        raise SettingsError(f"{len(releases)} releases cannot be tried at the same time: 1 to {len(CANARIES)} can")
    names = [release.name for release in releases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"two releases are called {', '.join(twice)}: a verdict would be nobody's")
    plan.require_room(len(releases))


def _fresh(world: World, service: str, plan: Plan, releases: tuple[Release, ...], name: str) -> Record:
    patience = Patience(world.clock, plan.times.api_s)
    old, stable = patience.call(world.fleet.stable_release), patience.call(lambda: world.fleet.state("stable"))
    names = [release.name for release in releases]
    if names == [old.name]:
        raise Settled(f"stable runs {old.name} already, so that nothing is to be done; another release has another name")
    if old.name in names:
        raise Refused(f"stable runs {old.name} already, and is what the others are compared with: leave it out")
    if not stable.ready:
        raise Refused(f"stable has no ready endpoint ({stable.reason or 'not told why'}): there is nothing to go back to")
    now_s = world.clock.now_s()
    stamp = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%d-%H%M%S")
    return Record(
        id=f"{stamp}-{secrets.token_hex(2)}",
        service=service,
        engine=name,
        plan=plan,
        releases=releases,
        old_release=old,
        started_s=now_s,
        since_s=now_s,
        step_since_s=now_s,
        # In the middle of an update there are more than wanted for a while: nobody may wait for those to come back.
        stable_ready=min(stable.ready, max(stable.wanted, 1)),
    )
