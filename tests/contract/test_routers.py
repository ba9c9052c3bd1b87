"""What every router must keep, whatever it sets weights of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8s.errors import RolloutError
from k8s.rollout.arms import Weights
from k8s.rollout.ports import Router
from tests.contract.routers import ROUTERS, Remake

STABLE = Weights(stable=100)


@pytest.fixture(scope="module", params=sorted(ROUTERS))
def remake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remake]:
    with ROUTERS[request.param](tmp_path_factory.mktemp(request.param)) as remake:
        yield remake


@pytest.fixture
def router(remake: Remake) -> Iterator[Router]:
    router = remake()
    yield router
    router.mirror(0)
    router.write(STABLE)


def test_all_traffic_is_stable_s_at_first(router: Router) -> None:
    assert router.read() == STABLE


@pytest.mark.parametrize(
    "weights", [Weights(90, 5, 5), Weights(50, 0, 50), Weights(0, 0, 100), Weights(0, 50, 50), Weights(99, 1, 0)], ids=str
)
def test_what_is_written_is_in_force_at_once(router: Router, weights: Weights) -> None:
    router.write(weights)
    assert router.read() == weights


def test_writing_the_same_again_changes_nothing(router: Router) -> None:
    for _ in range(2):
        router.write(Weights(80, 10, 10))
        assert router.read() == Weights(80, 10, 10)


def test_weights_go_back_to_what_they_were(router: Router) -> None:
    for weights in (Weights(80, 10, 10), STABLE, Weights(80, 10, 10)):
        router.write(weights)
        assert router.read() == weights


def test_mirroring_leaves_the_weights_alone(router: Router) -> None:
    router.write(Weights(80, 10, 10))
    for pct in (25, 100, 100, 0, 0):
        router.mirror(pct)
        assert router.read() == Weights(80, 10, 10)


def test_an_impossible_share_is_refused_and_changes_nothing(router: Router) -> None:
    router.write(Weights(80, 10, 10))
    for pct in (-1, 101):
        with pytest.raises((RolloutError, ValueError)):
            router.mirror(pct)
    assert router.read() == Weights(80, 10, 10)


def test_a_router_made_anew_goes_on_from_what_is_in_force(router: Router, remake: Remake) -> None:
    router.write(Weights(70, 15, 15))
    router.mirror(10)
    again = remake()
    assert again.read() == Weights(70, 15, 15)
    again.write(Weights(40, 30, 30))
    assert router.read() == Weights(40, 30, 30)


def test_no_user_is_kept_with_an_arm_unless_that_was_asked_for(router: Router) -> None:
    assert router.keeps_users() is False


def test_what_is_put_away_leaves_everything_with_stable(router: Router) -> None:
    router.write(Weights(70, 15, 15))
    router.write(STABLE)
    for _ in range(2):
        router.rest()
        assert router.read() == STABLE
    router.write(Weights(90, 5, 5))
    assert router.read() == Weights(90, 5, 5)
