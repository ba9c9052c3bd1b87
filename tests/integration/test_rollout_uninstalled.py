"""What a rollout leaves goes with its installation, and what is left of one says nothing about the next of the same name."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from k8s.cluster.journal import ConfigMapJournal
from k8s.cluster.lease import ClusterLease
from k8s.cluster.prometheus import PrometheusAccess
from k8s.errors import NotHeld
from k8s.installation import Installation
from k8s.rollout.start import begin
from tests.clusters import NAMES, Clock, Cluster, api_of, cluster, roll_out_in
from tests.rollouts import plan

JOURNAL, LEASE, STABLE = NAMES.config_map(NAMES.journal), f"{NAMES.leases}/{NAMES.rollout}", NAMES.deployment("stable")
SHORT = plan(step=[{"weight_pct": 10, "samples": 1000}], times={"proven_s": 0, "poll_s": 1, "api_s": 30})


@pytest.fixture
def here() -> Iterator[Cluster]:
    with cluster() as installation:
        yield installation


def _owner(here: Cluster, path: str) -> str:
    (owner,) = here.server.objects[path]["metadata"]["ownerReferences"]
    assert (owner["apiVersion"], owner["kind"], owner["name"]) == ("apps/v1", "Deployment", "ranker-pilotage-stable")
    return str(owner["uid"])


def _collect(here: Cluster) -> None:
    """Delete what nobody owns any more, as the garbage collector does."""
    uids = {found["metadata"].get("uid") for found in here.server.objects.values()}
    for path, found in list(here.server.objects.items()):
        owners = found["metadata"].get("ownerReferences") or []
        if owners and not any(owner["uid"] in uids for owner in owners):
            del here.server.objects[path]


def _install_anew(here: Cluster) -> None:
    """Uninstall and install, before anything is collected."""
    stable = copy.deepcopy(here.server.objects.pop(STABLE))
    for key in ("uid", "resourceVersion", "creationTimestamp"):
        del stable["metadata"][key]
    here.server.put(STABLE, stable)
    here.control()


def _left_under_way(here: Cluster) -> str:
    """Leave a rollout whose canary has weight, and nobody at work on it; its id."""
    installation = Installation(NAMES, api_of(here.server))
    asked = plan(synthetic=None, live={}, warm_up={"requests": 0}, step=[{"weight_pct": 10}])
    world = installation.world(asked, "dead", prometheus=PrometheusAccess("http://127.0.0.1:9"))
    world.lease.acquire()
    engine = begin(world, NAMES.name, asked, installation.releases(["left"], []), "dead")
    while not engine.record.weights.canary:
        engine.tick()
    world.lease.release()
    return engine.record.id


def test_journal_and_lease_go_with_the_installation(here: Cluster) -> None:
    roll_out_in(here.server, SHORT)
    assert {_owner(here, JOURNAL), _owner(here, LEASE)} == {here.stable["metadata"]["uid"]}
    del here.server.objects[STABLE]
    _collect(here)
    assert JOURNAL not in here.server.objects
    assert LEASE not in here.server.objects


def test_whom_they_belong_to_is_asked_once_and_not_at_every_write(here: Cluster) -> None:
    roll_out_in(here.server, SHORT, slow=2.0)
    api = api_of(here.server)
    journal, lease = ConfigMapJournal(api, NAMES), ClusterLease(api, NAMES, Clock(), "engine")
    stored = journal.load()
    assert stored is not None
    lease.acquire()
    here.server.requests.clear()
    version = stored.version
    for number in range(5):
        version = journal.save(stored.record.model_copy(update={"progress": str(number)}), version)
        lease.renew()
        journal.request()
    assert ("GET", STABLE) not in here.server.requests
    assert {_owner(here, JOURNAL), _owner(here, LEASE)} == {here.stable["metadata"]["uid"]}


def test_what_is_left_of_an_earlier_installation_is_not_gone_on_with(here: Cluster) -> None:
    left = _left_under_way(here)
    _install_anew(here)
    assert ConfigMapJournal(api_of(here.server), NAMES).load() is None
    assert ConfigMapJournal(api_of(here.server), NAMES).history() == []
    here.server.requests.clear()
    record = roll_out_in(here.server, SHORT, slow=2.0)
    assert record.outcome == "rolled_back"
    assert record.why.startswith("Failed after")
    assert ("PATCH", STABLE) not in here.server.requests
    assert [each.id for each in ConfigMapJournal(api_of(here.server), NAMES).history()] == [record.id]
    assert left not in here.server.objects[JOURNAL]["data"]["record.json"]
    assert {_owner(here, JOURNAL), _owner(here, LEASE)} == {here.stable["metadata"]["uid"]}


def test_the_history_of_an_earlier_installation_is_not_this_ones(here: Cluster) -> None:
    for _ in range(2):
        roll_out_in(here.server, SHORT, slow=2.0)
    _install_anew(here)
    record = roll_out_in(here.server, SHORT, slow=2.0)
    assert [each.id for each in ConfigMapJournal(api_of(here.server), NAMES).history()] == [record.id]


@pytest.mark.parametrize("is_collected", [False, True])
def test_an_engine_of_an_earlier_installation_stops_where_a_new_one_has_begun(here: Cluster, is_collected: bool) -> None:
    old = ConfigMapJournal(api_of(here.server), NAMES)
    installation = Installation(NAMES, api_of(here.server))
    world = installation.world(SHORT, "old")
    world.lease.acquire()
    engine = begin(world, NAMES.name, SHORT, installation.releases(["old"], []), "old")
    engine.tick()
    world.lease.release()
    _install_anew(here)
    if is_collected:
        _collect(here)
    new = roll_out_in(here.server, SHORT, slow=2.0, name="new")
    here.server.objects[LEASE]["spec"]["holderIdentity"] = "old"  # it does not know yet that its time ran out
    with pytest.raises(NotHeld, match="engine new has taken over"):
        engine.run()
    stored = old.load()
    assert stored is not None
    assert stored.record == new


def test_a_journal_that_an_engine_of_an_earlier_installation_makes_again_is_collected(here: Cluster) -> None:
    installation = Installation(NAMES, api_of(here.server))
    world = installation.world(SHORT, "old")
    world.lease.acquire()
    engine = begin(world, NAMES.name, SHORT, installation.releases(["old"], []), "old")
    before = here.stable["metadata"]["uid"]
    _install_anew(here)
    _collect(here)
    assert JOURNAL not in here.server.objects
    engine._ledger.save(what="asked", detail="whatever")
    assert _owner(here, JOURNAL) == before
    assert ConfigMapJournal(api_of(here.server), NAMES).load() is None


def test_a_journal_that_nobody_owns_is_gone_on_with_and_owned_from_then_on(here: Cluster) -> None:
    left = _left_under_way(here)
    for path in (JOURNAL, LEASE):  # as an earlier version has left them
        del here.server.objects[path]["metadata"]["ownerReferences"]
    world = Installation(NAMES, api_of(here.server))
    stored = world.journal.load()
    assert stored is not None
    assert stored.record.id == left
    lease = ClusterLease(api_of(here.server), NAMES, Clock(), "next")
    lease.acquire()
    world.journal.save(stored.record, stored.version)
    assert {_owner(here, JOURNAL), _owner(here, LEASE)} == {here.stable["metadata"]["uid"]}
