"""A request that is asked again: nothing is begun twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.rollout.disk import DiskJournal
from k8s.rollout.start import begin
from tests.rollouts import NEW, Town, plan, roll_out


@pytest.mark.parametrize(("slow", "outcome"), [(1.0, "promoted"), (2.0, "rolled_back")])
def test_a_request_whose_rollout_is_over_begins_nothing_and_hears_what_came_of_it(slow: float, outcome: str, tmp_path: Path) -> None:
    town = Town(tmp_path, slow=slow)
    first = roll_out(town, key="job-1")
    done = list(town.facts["log"])
    again = roll_out(town, key="job-1", traffic={})  # nothing is looked at
    assert again == first
    assert again.outcome == outcome
    assert town.facts["log"] == done


@pytest.mark.parametrize("key", ["job-2", None])
def test_another_request_begins_anew(key: str | None, tmp_path: Path) -> None:
    town = Town(tmp_path, slow=2.0)
    first = roll_out(town, key="job-1")
    second = roll_out(town, key=key)
    assert second.id != first.id
    assert second.key == key


def test_a_request_without_a_key_is_never_taken_for_another_one_without(tmp_path: Path) -> None:
    town = Town(tmp_path, slow=2.0)
    assert roll_out(town).id != roll_out(town).id


def test_whoever_goes_on_with_a_rollout_is_told_its_end_when_he_asks_again(tmp_path: Path) -> None:
    town = Town(tmp_path, slow=2.0)
    begin(town.world(), "ranker", plan(), NEW, "first", key="job-1")
    second = roll_out(town, key="job-2")
    assert roll_out(town, key="job-2") == second
    assert len(DiskJournal(tmp_path / "journal").history()) == 1
