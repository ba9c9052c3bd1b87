"""A request that is asked again: nothing is begun twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.rollout.arms import Release
from k8s.rollout.disk import DiskJournal
from k8s.rollout.record import Record, Request
from k8s.rollout.start import begin, held
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
    begin(town.world(), "ranker", plan(), [NEW], "first", key="job-1")
    second = roll_out(town, key="job-2")
    assert roll_out(town, key="job-2") == second
    assert len(DiskJournal(tmp_path / "journal").history()) == 1


def test_what_was_asked_of_the_rollout_before_by_a_clock_that_is_ahead_is_not_asked_of_the_next_one(tmp_path: Path) -> None:
    town = Town(tmp_path)
    journal = DiskJournal(tmp_path / "journal")
    town.on_sleep = lambda town: journal.ask(Request(id="1", wish="abort", by="a person", at_s=town.now_s() + 3600))
    assert roll_out(town).why == "abort, asked by a person"
    town.on_sleep = lambda town: None
    assert roll_out(town).outcome == "promoted"


class Crash(BaseException):
    """The engine's process ends here; not an Exception, since nothing may catch it."""


@pytest.mark.parametrize("point", range(1, 6))
def test_killed_while_it_puts_the_superseded_release_back_the_next_engine_ends_that_and_begins_its_own(point: int, tmp_path: Path) -> None:
    town, newer, calls = Town(tmp_path), Release("newer"), list[str]()

    def crash(call: str) -> None:
        if town.weights.canary:
            raise Crash

    def crash_at_point(call: str) -> None:
        calls.append(call)
        if len(calls) == point:
            raise Crash

    def supersede(name: str) -> Record:
        world = town.world(name)
        with held(world.lease, town, wait_s=0):
            return begin(world, "ranker", plan(), [newer], name, key="job-2", superseded_by="job-2").run()

    town.after = crash
    with pytest.raises(Crash):
        roll_out(town, key="job-1")
    town.after = crash_at_point
    with pytest.raises(Crash):
        supersede("second")
    town.after = lambda call: None
    record = supersede("third")
    first, second = DiskJournal(tmp_path / "journal").history()
    assert (first.title, first.outcome, first.why) == ("new", "rolled_back", "abort, asked by job-2: superseded by newer")
    assert not any("newer" in call for call in calls), "it had begun the next one before the first was put back"
    assert second == record
    assert (second.title, second.outcome) == ("newer", "promoted")
