"""Requests are handed to users: all of them, each once, in their order, to as few users as will do."""

from __future__ import annotations

import time
from collections import Counter

import gevent
import numpy as np

from loadtests.users.dispatch import Dispatcher, Share


def _user(dispatcher: Dispatcher, name: str, taken: list[tuple[str, int]], work_s: float = 0.0) -> None:
    while True:
        due = dispatcher.take()
        taken.append((name, due.index))
        gevent.sleep(work_s)


def _sent(share: Share, users: int, work_s: float = 0.0) -> tuple[list[tuple[str, int]], Dispatcher]:
    dispatcher, taken = Dispatcher(), []
    greenlets = [gevent.spawn(_user, dispatcher, f"user {number}", taken, work_s) for number in range(users)]
    gevent.sleep(0)
    dispatcher.run(share, time.monotonic())
    with gevent.Timeout(30):
        while len(taken) < dispatcher.given:
            gevent.sleep(0.001)
    gevent.killall(greenlets)
    return taken, dispatcher


def test_every_request_is_sent_once_and_in_order() -> None:
    taken, dispatcher = _sent(Share(first=1, step=3, starts_s=np.linspace(0, 0.05, 20)), users=4)
    assert [index for _, index in taken] == list(range(1, 61, 3))
    assert (dispatcher.given, dispatcher.starved) == (20, 0)


def test_as_few_users_as_will_do_are_used() -> None:
    # Ten milliseconds apart, so that the user before is free again: the last that came free is the first to be used.
    taken, _ = _sent(Share(starts_s=np.arange(10) * 0.01), users=50)
    assert len(Counter(name for name, _ in taken)) < 5


def test_requests_that_find_no_free_user_wait_and_are_counted() -> None:
    taken, dispatcher = _sent(Share(starts_s=np.zeros(10)), users=2, work_s=0.001)
    assert [index for _, index in taken] == list(range(10))
    assert dispatcher.starved == 8


def test_a_closed_loop_ends_after_its_count() -> None:
    taken, dispatcher = _sent(Share(first=1, step=2, count=7), users=3)
    assert [index for _, index in taken] == list(range(1, 15, 2))
    assert dispatcher.given == 7


def test_nothing_is_handed_out_after_a_halt() -> None:
    dispatcher, taken = Dispatcher(), []
    user = gevent.spawn(_user, dispatcher, "user", taken)
    gevent.spawn(dispatcher.halt)
    dispatcher.run(Share(starts_s=np.array([0.02, 0.03])), time.monotonic())
    gevent.sleep(0.01)
    user.kill()
    assert taken == []


def test_a_user_that_is_stopped_gets_no_request() -> None:
    dispatcher, taken = Dispatcher(), []
    gone, here = (gevent.spawn(_user, dispatcher, name, taken) for name in ("gone", "here"))
    gevent.spawn_later(0.01, gone.kill)
    dispatcher.run(Share(starts_s=np.array([0.03, 0.03])), time.monotonic())
    gevent.sleep(0.01)
    here.kill()
    assert taken == [("here", 0), ("here", 1)]
