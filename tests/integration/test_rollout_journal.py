"""The journal in a ConfigMap, which takes 1 MiB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8s.cluster.journal import MAX_HISTORY_BYTES, ConfigMapJournal
from k8s.errors import Refused
from k8s.rollout.phases import Phase
from k8s.rollout.record import Record
from tests.clusters import NAMES, Cluster, api_of, cluster
from tests.unit.k8s.test_record_size import large_record


@pytest.fixture
def here() -> Iterator[Cluster]:
    with cluster() as installation:
        yield installation


def _finished(number: int) -> Record:
    return large_record(word="веса ").model_copy(update={"id": f"2026112{number}-000000-aaaa", "phase": Phase.DONE})


def test_one_large_rollout_after_another_is_stored_and_the_history_stays_within_its_share(here: Cluster) -> None:
    journal = ConfigMapJournal(api_of(here.server), NAMES)
    version = None
    for number in range(4):
        version = journal.save(_finished(number).within(), version)
        data = here.server.objects[NAMES.config_map(NAMES.journal)]["data"]
        assert len(data.get("history.json", "").encode()) <= MAX_HISTORY_BYTES
    history = journal.history()
    assert history[-1] == _finished(3).within()
    assert history[-2].id == _finished(2).id
    assert len(history[-2].verdicts) == len(_finished(2).verdicts)
    with pytest.raises(Refused, match="Too long"):
        journal.save(large_record().within().model_copy(update={"id": history[-1].id, "why": "x" * 400_000}), version)
