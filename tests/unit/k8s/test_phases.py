"""The table of transitions."""

from __future__ import annotations

import pytest

from k8s.errors import RolloutError
from k8s.rollout.phases import TRANSITIONS, Cause, Phase, following, outcome_of


def _reachable(start: Phase) -> set[Phase]:
    found = {start}
    while True:
        more = {to for phase in found for to in TRANSITIONS[phase].values()} | found
        if more == found:
            return found
        found = more


def test_every_phase_can_be_reached_and_every_one_can_end() -> None:
    assert _reachable(Phase.PREPARING) == set(Phase)
    assert all(Phase.DONE in _reachable(phase) for phase in Phase)


def test_a_release_reaches_stable_only_from_phases_in_which_it_was_warm() -> None:
    assert {phase for phase, ways in TRANSITIONS.items() if Phase.PROMOTING in ways.values()} == {
        Phase.WARMING,
        Phase.STEPPING,
        Phase.HOLDING,
    }


def test_a_promotion_that_fails_gives_stable_its_old_release_before_anything_else() -> None:
    assert following(Phase.PROMOTING, Cause.FAILED) is Phase.REVERTING
    assert set(TRANSITIONS[Phase.REVERTING]) == {Cause.REVERTED}


def test_only_a_proven_stable_is_promoted_and_every_failure_is_rolled_back() -> None:
    settled = {(phase, cause): outcome_of(phase, cause) for phase, ways in TRANSITIONS.items() for cause in ways}
    assert [way for way, outcome in settled.items() if outcome == "promoted"] == [(Phase.PROMOTING, Cause.PROVEN)]
    assert all(outcome == "rolled_back" for (_, cause), outcome in settled.items() if cause in (Cause.FAILED, Cause.ABORT))


def test_what_leads_nowhere_says_what_would_lead_somewhere() -> None:
    with pytest.raises(RolloutError, match="returning cannot be moved by abort; what moves it is returned"):
        following(Phase.RETURNING, Cause.ABORT)
