"""A generator that fell behind is found out, and told what to do; a closed loop has nothing to fall behind."""

from __future__ import annotations

from dataclasses import replace

from loadtests.lag import MAX_LAG_MS, assess
from loadtests.recorder import Recorder
from loadtests.samples import Samples


def _samples(*lags_ms: float, open_loop: bool = True) -> Samples:
    recorder = Recorder(open_loop=open_loop)
    for number, lag_ms in enumerate(lags_ms):
        recorder.sent += 1
        recorder.add(number, number + lag_ms / 1000, 50.0, None, 200, "rank", 0, 1, 1)
    return recorder.samples()


def test_a_generator_that_keeps_time_is_valid() -> None:
    lag = assess(_samples(*[0.1] * 199, 40.0))
    assert (lag.valid, lag.reasons, lag.late, lag.late_pct) == (True, (), 1, 0.5)
    assert lag.p99_ms is not None
    assert round(lag.p99_ms, 6) == 0.1


def test_more_than_one_late_request_in_a_hundred_is_not() -> None:
    lag = assess(_samples(*[0.1] * 197, *[MAX_LAG_MS + 0.1] * 3))
    assert (lag.valid, lag.late) == (False, 3)
    (reason,) = lag.reasons
    assert "1.5 % of the requests were sent more than 10 ms late" in reason
    assert "processor time" in reason


def test_requests_that_waited_for_a_user_are_told_apart() -> None:
    (reason,) = assess(replace(_samples(*[500.0] * 10), starved=10)).reasons
    assert "10 found all users busy: give more users" in reason


def test_requests_that_were_never_sent_count_as_late() -> None:
    lag = assess(replace(_samples(*[0.1] * 90), unsent=10, starved=10))
    assert (lag.valid, lag.late, lag.late_pct) == (False, 10, 10.0)


def test_a_lost_worker_makes_a_run_invalid() -> None:
    lag = assess(replace(_samples(*[0.1] * 100), lost_workers=1))
    assert not lag.valid
    assert "1 generator process ended" in lag.reasons[0]


def test_a_closed_loop_has_no_schedule_to_fall_behind() -> None:
    lag = assess(_samples(0.0, 0.0, open_loop=False))
    assert (lag.valid, lag.p50_ms, lag.max_ms) == (True, None, None)


def test_no_samples_say_nothing_about_the_generator() -> None:
    assert assess(_samples()).late_pct == 0.0
