"""Statistics of a trajectory by hand, and intervals held against known vectors, known laws and bad input."""
import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings, strategies as st

from rlgen.statistics import (
    Interval,
    difference,
    interval_table,
    iqm_interval,
    mean_interval,
    proportion_interval,
    rank_correlation,
    rank_correlation_interval,
    trajectory_statistics,
)

TEN = np.array([7., 1, 9, 3, 2, 8, 30, 4, 5, -6])


# ---- one trajectory ----

def test_a_trajectory_by_hand():
    found = trajectory_statistics([4, 3, 3, 2], fine=[True, False, True, True], coarse=[False, False, False, True])
    assert (
        found
        == pytest.approx({"D_T": 2, "D_max": 4, "D_min": 2, "rho": .5**.5, "sigma2": .5, "conv": 0, "F": 3, "C": 1})
    )
    assert (
        list(found) == ["D_T", "D_max", "D_min", "rho", "sigma2", "conv", "F", "C"]
        and {type(v) for v in found.values()} == {float}
    )


def test_a_visit_of_the_goal_counts_wherever_it_is():
    for distances in ([0, 5, 6], [5, 0, 6], [5, 6, 0]):
        assert trajectory_statistics(distances, [0] * 3, [0] * 3)["conv"] == 1
    assert (
        trajectory_statistics([5], [1], [0])
        == {"D_T": 5, "D_max": 5, "D_min": 5, "rho": 0, "sigma2": 0, "conv": 0, "F": 1, "C": 0}
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 25), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_what_holds_for_every_trajectory(steps):
    found = trajectory_statistics(*map(list, zip(*steps)))
    assert found["D_min"] <= found["D_T"] <= found["D_max"] and found["rho"] ** 2 == pytest.approx(found["sigma2"])
    assert (
        found["sigma2"] <= (found["D_max"] - found["D_min"]) ** 2 / 4 + 1e-9
        and 0 <= found["F"] <= len(steps) >= found["C"]
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (([], [], []), "at least one"),
        (([[1, 2]], [[0, 0]], [[0, 0]]), "one number for each step"),
        (([1, 2], [True], [True, False]), "one of each"),
        (([1, -1], [0, 0], [0, 0]), "negative"),
        (([1, np.nan], [0, 0], [0, 0]), "no number"),
        (([np.inf], [0], [0]), "infinite"),
    ],
)
def test_impossible_trajectories(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        trajectory_statistics(*arguments)


# ---- intervals ----

def test_the_interquartile_mean_of_a_known_vector():
    assert (
        iqm_interval(TEN).estimate
        == pytest.approx(scipy.stats.trim_mean(TEN, .25))
        == pytest.approx((2 + 3 + 4 + 5 + 7 + 8) / 6)
    )
    assert mean_interval(TEN).estimate == pytest.approx(6.3)
    for n in (2, 3, 4, 5, 8, 11):
        x = np.random.default_rng(n).normal(size=(n, 3))
        assert iqm_interval(x).estimate == pytest.approx(scipy.stats.trim_mean(x, .25, axis=None))


@pytest.mark.parametrize("measure", [iqm_interval, mean_interval])
def test_an_interval_is_its_seeds_and_nobody_elses_luck_changes(measure):
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    first = measure(TEN)
    assert (np.random.get_state()[1] == state).all()
    np.random.seed(99)
    assert measure(TEN) == first == measure(list(TEN)) == measure(TEN[:, None]) and measure(TEN, seed=1) != first
    assert isinstance(first, Interval) and first.low < first.estimate < first.high


def test_intervals_are_percentiles_of_all_draws():
    "Three runs have 27 draws, two tasks of two runs have 16: their percentiles can be worked out."
    def percentiles(values):
        values = np.sort(values)
        return values[int(np.ceil(.025 * len(values))) - 1], values[int(np.ceil(.975 * len(values))) - 1]
    a, b = np.array([0., 1, 5]), np.array([2., 0, 1])
    draws = np.array([*itertools.product(range(3), repeat=3)])
    assert mean_interval(a, repetitions=20_000)[1:] == pytest.approx(percentiles(a[draws].mean(1)), abs=1e-9)
    both = a[draws].mean(1) - b[draws].mean(1)
    assert difference(a, b, "mean", repetitions=20_000)[1:] == pytest.approx(percentiles(both), abs=1e-9)
    two = np.array([[0., 10], [1, 30]])
    strata = [(two[i, 0] + two[j, 0] + two[k, 1] + two[m, 1]) / 4 for i, j, k, m in itertools.product((0, 1), repeat=4)]
    assert mean_interval(two, repetitions=20_000)[1:] == pytest.approx(percentiles(np.array(strata)), abs=1e-9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.sampled_from(["iqm", "mean"]))
def test_the_interval_lies_within_the_scores(scores, statistic):
    found = interval_table({"x": scores}, statistic, repetitions=200)["x"]
    assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9
    assert all(type(v) is float for v in found)


def test_runs_that_agree_have_an_interval_of_no_width():
    assert iqm_interval([3., 3, 3]) == mean_interval([3., 3, 3]) == (3, 3, 3)


def test_several_measures_at_once_are_those_measures():
    x, y = np.random.default_rng(0).normal(size=(2, 12, 2))
    found = interval_table({"x": x, "y": 10 * y + 100})
    assert (
        found["x"] == pytest.approx(iqm_interval(x), abs=.15)
        and found["y"] == pytest.approx(iqm_interval(10 * y + 100), abs=1.5)
    )
    assert found["x"].estimate == iqm_interval(x).estimate and interval_table({}) == {}


def test_goals_are_strata():
    "Two goals of very different difficulty: runs of one are never drawn for the other, so their gap adds no width."
    noise = np.random.default_rng(0).normal(size=(20, 2))
    near, far = mean_interval(noise), mean_interval(noise + [0, 1000])
    assert (
        far.high - far.low == pytest.approx(near.high - near.low) and far.estimate == pytest.approx(near.estimate + 500)
    )


@pytest.mark.parametrize("statistic", ["iqm", "mean"])
def test_coverage(statistic):
    "Of intervals of 20 runs from a known law nearly 95 % hold the truth, and no more than the rest of luck misses it."
    rng = np.random.default_rng(7)
    held = [
        i.low <= 2 <= i.high
        for i in (interval_table({"x": rng.normal(2, 3, 20)}, statistic, k, 200)["x"] for k in range(150))
    ]
    assert .86 <= np.mean(held) <= .99


def test_coverage_of_differences():
    rng, held, alone = np.random.default_rng(8), [], []
    for k in range(150):
        starts = rng.normal(0, 10, 20)  # shared luck, ten times the effect
        a, b = starts + rng.normal(1, 1, 20), starts + rng.normal(0, 1, 20)
        found = difference(a, b, "mean", k, 200)
        held.append(found.low <= 1 <= found.high)
        alone.append(found.high - found.low < 2)
    assert .86 <= np.mean(held) <= .99 and np.mean(alone) > .95


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: iqm_interval([1.]), "2 runs or more"),
        (lambda: mean_interval([]), "0 runs"),
        (lambda: iqm_interval(3.), "give \\[runs\\]"),
        (lambda: iqm_interval([1., np.nan, 2]), "NaN"),
        (lambda: mean_interval([1., np.inf]), "infinity"),
        (lambda: iqm_interval(np.zeros((2, 2, 2))), "shape"),
        (lambda: interval_table({"a": [1, 2], "b": [1, 2, 3]}), "differ in shape"),
        (lambda: interval_table({"a": [1, 2]}, "median"), "choose one of iqm, mean"),
        (lambda: difference([1, 2], [1, 2, 3]), "as many of each"),
        (lambda: difference([1, np.nan], [1, 2]), "NaN"),
        (lambda: difference([1], [1]), "2 runs"),
        (lambda: difference([1, 2], [1, 2], "median"), "choose one of"),
        (lambda: proportion_interval([]), "at least 1"),
        (lambda: proportion_interval([.5]), "True or False"),
        (lambda: proportion_interval([np.nan]), "True or False"),
        (lambda: rank_correlation_interval([1, 2], [1, 2]), "3 or more"),
        (lambda: rank_correlation_interval([1, 2, 3], [1, 2]), "one length"),
        (lambda: rank_correlation_interval([1, 2, np.nan], [1, 2, 3]), "NaN"),
    ],
)
def test_errors_are_sentences(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


# ---- shares, differences, order ----

def test_shares_by_wilsons_formula():
    z = scipy.stats.norm.ppf(.975)
    for k, n in ((0, 10), (3, 10), (10, 10), (1, 1), (55, 100)):
        p, half = k / n, z / (1 + z * z / n) * np.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        assert proportion_interval([1] * k + [0] * (n - k)) == pytest.approx(
            (p, centre - half, centre + half), abs=1e-9
        )
    assert proportion_interval(np.ones((5, 2), bool)) == proportion_interval(np.ones(10))


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 50, 10)
    assert difference(a + 1, a, "mean") == pytest.approx((1, 1, 1))
    shuffled = difference(a + 1, rng.permutation(a), "mean")
    assert shuffled.low < 0 < shuffled.high
    assert difference(a, a) == (0, 0, 0)
    forth, back = difference(a, a**2), difference(a**2, a)
    assert forth == pytest.approx((-back.estimate, -back.high, -back.low)) and difference(a, a**2) == forth


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, y = rng.integers(0, 6, 15), rng.integers(0, 6, 15)
        assert rank_correlation(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert rank_correlation([1, 2, 3], [4, 4, 4]) == 0 and rank_correlation([1, 2, 3], [1, 8, 27]) == pytest.approx(1)
    x, y = rng.normal(size=(2, 30))
    strong, none = rank_correlation_interval(x, np.exp(x)), rank_correlation_interval(x, y)
    assert strong == pytest.approx((1, 1, 1)) and none.low < 0 < none.high and none == rank_correlation_interval(x, y)


def test_the_module_is_quick_to_import():
    code = (
        "import sys, rlgen.metrics; print([m for m in ('torch', 'diffusers', 'pandas', 'matplotlib', "
        "'PIL') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
