"""What the formulas promise, checked against exact sums or by simulation with seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, chi2
from scipy.stats import t as student

from benchmarks.judge_traffic import outages
from loadtests.judge.bets import Bets
from loadtests.judge.blocks import Block, Latencies, arm_block
from loadtests.judge.difference import SharePair
from loadtests.judge.dispersion import DesignEffect, Dispersion, _chi_square_95, tempered
from loadtests.judge.increase import IncreaseTest
from loadtests.judge.mixture import log_evidence_above, log_evidence_below
from loadtests.judge.ratio import RatioTest
from loadtests.judge.scale import LATENCY, Counts, Scale, cells_between, edge_with_share
from loadtests.judge.scores import band
from loadtests.judge.slowdown import REQUESTS_PER_NAT, SlowdownTest


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5])
def test_the_mean_evidence_against_a_true_share_is_one(share: float) -> None:
    events = np.arange(201)
    chance = binom.logpmf(events, 200, share)
    for evidence in (log_evidence_above, log_evidence_below):
        assert np.exp(chance + evidence(events, 200, share, 1000.0)).sum() == pytest.approx(1.0, abs=1e-6)
    # Further inside the null it is less.
    assert np.exp(binom.logpmf(events, 200, share * 0.8) + log_evidence_above(events, 200, share, 1000.0)).sum() < 1


@pytest.mark.parametrize(("canary", "baseline"), [(10, 10), (4, 16), (16, 4)])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
@pytest.mark.parametrize("tolerated", [0.0, 0.05])
def test_the_mean_gain_of_a_bet_on_equal_arms_is_at_most_one(canary: int, baseline: int, share: float, tolerated: float) -> None:
    k_c, k_b = np.meshgrid(np.arange(canary + 1), np.arange(baseline + 1), indexing="ij")
    chance = binom.pmf(k_c, canary, share + tolerated) * binom.pmf(k_b, baseline, share)
    lanes = k_c.size
    for expected in (0.01, 0.25, 0.5):
        bets = Bets(lanes, ((1.5, 1.0), (10.0, 1.0)), [1.0], tolerated)
        sizes = np.full(lanes, canary), np.full(lanes, baseline)
        bets.add(k_c.reshape(-1, 1), sizes[0], k_b.reshape(-1, 1), sizes[1], np.full((lanes, 1), expected))
        assert (chance.ravel() * np.exp(bets.log_wealth())).sum() <= 1 + 1e-9


def test_bets_win_where_the_canary_has_more_events_and_lose_where_it_has_fewer() -> None:
    bets = Bets(2, ((2.0, 1.0),), [1.0])
    for _ in range(100):
        size = np.array([10, 10])
        bets.add(np.array([[2], [0]]), size, np.array([[0], [2]]), size, np.full((2, 1), 0.1))
    assert bets.log_wealth()[0] > 20
    assert bets.log_wealth()[1] < 0


def test_a_block_without_one_arm_settles_nothing() -> None:
    bets = Bets(1, ((2.0, 1.0),), [1.0])
    bets.add(np.array([[5]]), np.array([10]), np.array([[0]]), np.array([0]), np.full((1, 1), 0.1))
    assert bets.log_wealth()[0] == pytest.approx(0.0)


def test_nine_failures_against_none_are_enough_with_the_default_weights() -> None:
    latency, none = np.ones((1, 10)), np.zeros((1, 10), dtype=bool)
    failures = IncreaseTest(1, tolerated=0.0001)
    for number in range(180):
        failed = none.copy()
        failed[0, 3] = number % 20 == 10
        failures.add(Block(arm_block(latency, failed), arm_block(latency, none)))
    assert failures.happened.tolist() == [[9, 0]]
    assert failures.log_evidence()[0] > np.log(1 / 0.0065)


def test_dispersion_is_one_for_independent_requests_and_the_cluster_for_clusters() -> None:
    draw = np.random.default_rng(1)
    independent, clustered = Dispersion(200, 1), Dispersion(200, 1)
    for block in range(400):
        events = draw.binomial(10, 0.1, (200, 1))
        independent.add(events - 1.0, events * 0.9, events)
        bursts = 10 * (draw.random((200, 1)) < 0.1) if block % 2 == 0 else bursts  # noqa: F821
        clustered.add(bursts - 1.0, bursts * 0.9, bursts)
    # One in twenty looks correlated by chance at each of seven lengths.
    assert np.quantile(independent.effect().size, 0.75) == 1.0
    assert independent.effect().size.mean() == pytest.approx(1.0, abs=0.15)
    assert clustered.effect().size.mean() == pytest.approx(20, rel=0.25)


def test_dispersion_of_a_dozen_independent_failures_is_one_mostly() -> None:
    draw = np.random.default_rng(3)
    rare = Dispersion(1000, 1)
    for _ in range(300):
        failures = draw.binomial(10, 0.005, (1000, 1))
        rare.add(failures - 0.05, failures * 0.995, failures)
    # One in twenty at each of seven lengths, most of which agree: 6 % here; without the events' share of the error, a quarter.
    assert (rare.effect().size > 1).mean() < 0.1


def test_a_design_effect_is_that_of_the_differences_between_neighbouring_sums() -> None:
    draw = np.random.default_rng(4)
    scores = np.repeat(draw.choice([-4.0, 4.0], 50), 4)
    dispersion = Dispersion(1, 1)
    for score in scores:
        dispersion.add(np.full((1, 1), score), np.full((1, 1), 4.0), np.full((1, 1), 1000))
    errors = {}
    for scale in (2, 4, 8, 16):
        sums = np.array([scores[first : first + scale].sum() for first in range(0, 200 - scale + 1, scale // 2)])
        differences = sums[2:] - sums[:-2]
        ratio = (differences**2).mean() / 2 / (scale * 4.0)
        errors[ratio] = (3.5 - 3 / len(differences)) / len(differences) + ratio / 200_000
    chosen = max(errors, key=lambda ratio: ratio / (1 + errors[ratio] ** 0.5))
    found = dispersion.effect()
    assert found.size[0, 0] == pytest.approx(chosen)
    assert found.squared_error[0, 0] == pytest.approx(errors[chosen])


def test_the_error_of_a_design_effect_is_what_its_estimates_scatter_by() -> None:
    draw = np.random.default_rng(5)
    dispersion = Dispersion(4000, 1)
    # Blocks that are alike in pairs: a sum over four varies twice as much as it would.
    for _ in range(50):
        score = draw.standard_normal((4000, 1))
        for _ in range(2):
            dispersion.add(score, np.full((4000, 1), 1.0), np.full((4000, 1), 10_000))
    count = dispersion._counts[2]
    found = dispersion._squares[2] / (count * 4)
    assert found.mean() == pytest.approx(2.0, rel=0.02)
    # A pair of blocks is half of a sum over four, and pairs are independent of each other.
    assert (found.std() / found.mean()) ** 2 == pytest.approx((3.5 - 3 / count) / count, rel=0.1)


def test_a_canary_that_breaks_half_way_is_not_taken_for_correlated_traffic() -> None:
    draw = np.random.default_rng(6)
    latencies = Latencies(20, Scale(low=0.01, high=1000.0, step=0.005, logarithmic=True))
    slowdown, none = SlowdownTest(latencies, 1.05), np.zeros((20, 10), dtype=bool)
    for number in range(200):
        times = (3.0 if number >= 100 else 1.0), 1.0
        block = Block(*(arm_block(each * np.exp(0.5 * draw.standard_normal((20, 10))), none, scale=latencies.scale) for each in times))
        slowdown.add(block)
        latencies.add(block)
        slowdown.learn()
    assert (slowdown.log_evidence() > np.log(400)).all()


@pytest.mark.parametrize("freedom", [3.0, 4.0, 10.0, 100.0])
def test_evidence_by_an_estimated_design_effect_is_no_larger_than_chance_allows(freedom: float) -> None:
    deviate = np.linspace(0.1, 200.0, 20_000)
    evidence = tempered(deviate**2 / 2, 2 / freedom)
    assert (evidence <= deviate**2 / 2).all()
    # How often Student's t is as large, in both directions.
    assert (2 * student.sf(deviate, freedom) <= np.exp(-evidence)).all()
    assert (2 * student.sf(deviate, freedom) > np.exp(-(deviate**2) / 2)).any()


def test_evidence_by_a_known_design_effect_and_evidence_for_the_null_stay() -> None:
    evidence = np.array([-3.0, 0.0, 5.0])
    assert tempered(evidence, 0.0).tolist() == evidence.tolist()
    assert tempered(evidence, 0.5)[:2].tolist() == [-3.0, 0.0]
    wealth = np.array([[[4.0, 8.0], [4.0, 8.0]]])
    worth = DesignEffect(np.array([[1.0, 2.0]]), np.array([[0.0, 0.5]])).temper(wealth)
    assert worth[0, 0].tolist() == [4.0, 8.0]
    assert worth[0, 1] == pytest.approx(np.log1p(0.5 * wealth[0, 1] / 2) / 0.5)


def test_the_percentile_that_correlation_must_exceed_is_that_of_chi_square() -> None:
    freedom = np.array([4.0, 10.0, 50.0])
    assert _chi_square_95(2 / freedom) == pytest.approx(chi2.ppf(0.95, freedom) / freedom, rel=0.005)


def test_an_arm_that_met_no_stall_counts_as_correlated_as_the_other() -> None:
    draw = np.random.default_rng(7)
    canary, baseline = np.exp(0.1 * draw.standard_normal((2, 1, 1000)))
    for first in (150, 500, 900):
        canary[0, first : first + 20] *= 30
    ratio = _fed(canary, baseline, 0.99)
    assert ratio.effect().size[0] > 10
    # Three stalls against none, 2 % against none of the requests: nothing for one that a stall every 500 requests may be chance.
    assert ratio.log_evidence_slower(1.05)[0] < np.log(20)


def test_outages_of_each_arm_raise_no_more_alarms_than_promised() -> None:
    draw = np.random.default_rng(8)
    lanes, count, length = 400, 3000, 100
    failed = [outages(draw, (lanes, count), length / count, length) for _ in range(2)]
    latency, failures, most = np.ones((lanes, 10)), IncreaseTest(lanes, tolerated=0.0001), np.zeros(lanes)
    for first in range(0, count, 10):
        columns = slice(first, first + 10)
        failures.add(Block(*(arm_block(latency, arm[:, columns]) for arm in failed)))
        if first >= 190:
            most = np.maximum(most, failures.log_evidence())
    # 0.65 % promised: more than 7 of 400 would happen once in 200 times if it were just kept.
    assert (most >= np.log(1 / 0.0065)).sum() <= 7


def test_evidence_of_slowness_grows_no_faster_than_requests_vouch_for() -> None:
    latencies = Latencies(1)
    slowdown = SlowdownTest(latencies, 1.05)
    none = np.zeros((1, 10), dtype=bool)
    draw = np.random.default_rng(9)
    for _ in range(30):
        block = Block(*(arm_block(times * np.exp(0.1 * draw.standard_normal((1, 10))), none) for times in (3.0, 1.0)))
        slowdown.add(block)
        latencies.add(block)
        slowdown.learn()
    assert 0 < slowdown.log_evidence()[0] <= 300 / REQUESTS_PER_NAT


def test_a_share_pair_covers_the_difference() -> None:
    pair = SharePair(30.0, 3000.0, 3.0, 3000.0, 10_000.0)
    low, high = pair.interval(np.log(20))
    assert 0 < low < 0.009 < high < 0.02
    mirrored = pair.swapped().interval(np.log(20))
    assert mirrored == pytest.approx((-high, -low), abs=1e-5)
    # Nothing is known without a request.
    assert SharePair(0.0, 0.0, 0.0, 0.0, 1000.0).interval(np.log(20)) == pytest.approx((-1.0, 1.0), abs=1e-5)


def test_counts_are_exact_at_edges_whatever_order_samples_come_in() -> None:
    draw = np.random.default_rng(2)
    latency = np.exp(draw.standard_normal((1, 5000)))
    counts = Counts(1, LATENCY)
    for part in np.array_split(latency, 7, axis=1):
        counts.add(LATENCY.place(part))
    tail = counts.at_or_above()[0]
    assert tail[0] == 5000
    assert tail[-1] == 0
    for cell in range(0, LATENCY.cells, 97):
        assert tail[cell] == (LATENCY.place(latency) >= cell).sum()
    edge = int(edge_with_share(counts.at_or_above(), 0.01)[0])
    assert LATENCY.edge(edge) == pytest.approx(np.quantile(latency, 0.99, method="inverted_cdf"), rel=0.006)


def test_values_beyond_a_scale_count_in_its_outer_cells_and_missing_ones_nowhere() -> None:
    scale = Scale(low=0.0, high=1.0, step=0.1, logarithmic=False)
    assert scale.place(np.array([-5.0, 5.0, np.nan])).tolist() == [0, scale.cells - 1, -1]
    assert LATENCY.place(np.array([0.0, 1e12, np.nan])).tolist() == [0, LATENCY.cells - 1, -1]


def test_a_margin_is_never_made_smaller_by_the_scale() -> None:
    assert cells_between(1.0) == 0
    assert np.exp(cells_between(1.05) * 0.005) >= 1.05


def _fed(canary: np.ndarray, baseline: np.ndarray, quantile: float) -> RatioTest:
    latencies = Latencies(len(canary))
    ratio = RatioTest(latencies, quantile, 10_000)
    none = np.zeros((len(canary), 10), dtype=bool)
    for first in range(0, canary.shape[1], 10):
        columns = slice(first, first + 10)
        block = Block(arm_block(canary[:, columns], none), arm_block(baseline[:, columns], none))
        ratio.add(block)
        latencies.add(block)
        ratio.learn()
    return ratio


def test_the_interval_of_a_ratio_covers_it_and_shrinks() -> None:
    draw = np.random.default_rng(3)
    baseline, canary = np.exp(0.5 * draw.standard_normal((1, 8000))), 1.3 * np.exp(0.5 * draw.standard_normal((1, 8000)))
    for quantile in (0.5, 0.95, 0.99):
        short = _fed(canary[:, :2000], baseline[:, :2000], quantile).interval(np.log(20))
        long = _fed(canary, baseline, quantile).interval(np.log(20))
        assert short[0] < 1.3 < short[1]
        assert short[0] <= long[0] * 1.1 < 1.3 * 1.1
        assert long[1] - long[0] < short[1] - short[0]


def test_the_quick_bound_of_the_evidence_is_never_below_it() -> None:
    draw = np.random.default_rng(4)
    for times in (1.0, 1.2, 1.5):
        ratio = _fed(times * np.exp(draw.standard_normal((8, 1500))), np.exp(draw.standard_normal((8, 1500))), 0.9)
        assert (ratio.most_evidence_slower(1.05) >= ratio.log_evidence_slower(1.05) - 1e-9).all()


def test_both_ends_of_a_ratio_agree_with_what_is_shown() -> None:
    draw = np.random.default_rng(5)
    ratio = _fed(1.5 * np.exp(0.5 * draw.standard_normal((1, 3000))), np.exp(0.5 * draw.standard_normal((1, 3000))), 0.5)
    low, high = ratio.interval(np.log(20))
    assert ratio.log_evidence_slower(low * 0.99)[0] >= np.log(20) > ratio.log_evidence_slower(low * 1.02)[0]
    assert ratio.log_evidence_faster(high * 1.01)[0] >= np.log(20) > ratio.log_evidence_faster(high * 0.98)[0]


def test_identical_arms_with_correlated_latencies_raise_no_more_alarms_than_promised() -> None:
    draw = np.random.default_rng(6)
    lanes, count, correlation = 200, 1000, 0.5
    noise = draw.standard_normal((2, lanes, count))
    for step in range(1, count):
        noise[:, :, step] = correlation * noise[:, :, step - 1] + np.sqrt(1 - correlation**2) * noise[:, :, step]
    latency = np.exp(0.5 * noise)
    scale = Scale(low=0.01, high=1000.0, step=0.005, logarithmic=True)
    latencies = Latencies(lanes, scale)
    slowdown = SlowdownTest(latencies, 1.05)
    most = np.zeros(lanes)
    for first in range(0, count, 10):
        columns, none = slice(first, first + 10), np.zeros((lanes, 10), dtype=bool)
        block = Block(*(arm_block(latency[number][:, columns], none, scale=scale) for number in (0, 1)))
        slowdown.add(block)
        latencies.add(block)
        slowdown.learn()
        if first >= 190:
            most = np.maximum(most, slowdown.log_evidence())
    # 1 % promised: more than 6 of 200 would happen once in 200 times if it were just kept.
    assert (most >= np.log(100)).sum() <= 6


def test_the_band_around_a_distribution_is_that_of_the_paper() -> None:
    expected = 0.85 * np.sqrt((np.log(np.log(np.e * 10_000 / 100)) + 0.8 * np.log(1612 / 0.05)) / 10_000)
    assert band(np.array([10_000.0]), 0.05)[0] == pytest.approx(expected)
    assert band(np.array([10.0]), 0.05)[0] == 1.0
