"""Statistics of a trajectory by hand; intervals against known numbers, SciPy's tests, coverage and bad input."""
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings, strategies as st

from rlgen.statistics import (
    HIGHER,
    LOWER,
    UNCLEAR,
    Interval,
    difference,
    holm,
    iqm_interval,
    mean_interval,
    p_value,
    proportion_interval,
    rank_correlation,
    rank_correlation_interval,
    trajectory_statistics,
    verdict,
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
    found = trajectory_statistics(*map(list, zip(*steps, strict=True)))
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


# ---- means over independent runs ----

def test_students_t_by_hand():
    "1, 2, 3: mean 2, standard deviation 1, t with 2 degrees of freedom 4.3027."
    assert mean_interval([1, 2, 3]) == pytest.approx((2, 2 - 4.3027 / 3**.5, 2 + 4.3027 / 3**.5), abs=1e-4)
    found = scipy.stats.ttest_1samp(TEN, 0).confidence_interval()
    assert mean_interval(TEN) == pytest.approx((6.3, found.low, found.high))
    assert isinstance(mean_interval(TEN), Interval) and {type(v) for v in mean_interval(TEN)} == {float}


def test_each_run_is_averaged_over_its_tasks_first():
    scores = np.random.default_rng(0).normal(size=(6, 4))
    assert mean_interval(scores) == pytest.approx(mean_interval(scores.mean(1)))
    assert mean_interval(np.repeat(TEN[:, None], 50, 1)) == pytest.approx(mean_interval(TEN))  # copies are no evidence
    assert mean_interval(scores + [0, 1000, 5, 2])[2] - mean_interval(scores)[2] == pytest.approx(1007 / 4)


def test_runs_that_agree_have_an_interval_of_no_width():
    assert iqm_interval([3., 3, 3]) == mean_interval([3., 3, 3]) == (3, 3, 3)


def shared(rng, runs, tasks):
    "Scores of runs with a level of their own, standard deviation 1; a task's noise is half of that."
    return rng.normal(size=(runs, 1)) + .5 * rng.normal(size=(runs, tasks))


@pytest.mark.parametrize("runs", [3, 5, 10, 20])
@pytest.mark.parametrize("tasks", [1, 10])
def test_coverage(runs, tasks):
    "Of the intervals that decide, 93 to 97 % hold the truth, also where the tasks of a run share what it learned."
    rng = np.random.default_rng(100 * runs + tasks)
    means = [mean_interval(2 + shared(rng, runs, tasks)) for _ in range(1000)]
    assert .93 <= np.mean([low <= 2 <= high for _, low, high in means]) <= .97
    gaps = []
    for _ in range(1000):
        seeds = 10 * rng.normal(size=(runs, 1))  # what run i of both methods shares
        gaps.append(difference(seeds + 1 + shared(rng, runs, tasks), seeds + shared(rng, runs, tasks)))
    assert .93 <= np.mean([low <= 1 <= high for _, low, high in gaps]) <= .97


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 50, 10)
    assert difference(a + 1, a) == pytest.approx((1, 1, 1))
    shuffled = difference(a + 1, rng.permutation(a))
    assert shuffled.low < 0 < shuffled.high
    assert difference(a, a) == (0, 0, 0)
    forth, back = difference(a, a**2), difference(a**2, a)
    assert forth == pytest.approx((-back.estimate, -back.high, -back.low))
    assert difference(np.c_[a, a**2], np.c_[a**2, a]) == pytest.approx((0, 0, 0))  # tasks are averaged within a run


# ---- decisions ----

def test_p_values_are_those_of_the_t_tests():
    rng = np.random.default_rng(0)
    for n in (2, 3, 10, 40):
        a, b = rng.normal(size=(2, n))
        assert p_value(a, b) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
        assert p_value(a, .3) == pytest.approx(scipy.stats.ttest_1samp(a, .3).pvalue)
        assert (p_value(a, b) < .05) == (verdict(difference(a, b)) != UNCLEAR)
    a, b = rng.normal(size=(2, 5, 3))
    assert p_value(a, b) == pytest.approx(scipy.stats.ttest_rel(a.mean(1), b.mean(1)).pvalue)
    assert p_value([1, 2, 3], [1, 2, 3]) == 1 and p_value([2, 2, 2], 1) == 0


def test_holm_by_hand():
    "Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and none below the one before it."
    assert holm([.01, .04, .03, .005]) == pytest.approx([.03, .06, .06, .02])
    assert holm([.6, .7]) == pytest.approx([1, 1]) and holm([.03]) == pytest.approx([.03]) and len(holm([])) == 0
    assert holm([.02, .02, .02]) == pytest.approx([.06, .06, .06])


def test_holm_keeps_the_error_of_a_family():
    "Of families of 20 comparisons between equals, 64 % have a false alarm without the correction, 5 % with it."
    p = np.random.default_rng(3).uniform(size=(1000, 20))
    assert np.mean(p.min(1) < .05) > .6
    assert .03 < np.mean([holm(family).min() < .05 for family in p]) < .07


def test_a_verdict_needs_an_interval_on_one_side_or_a_corrected_p_value():
    assert verdict(Interval(.5, .2, .9)) == HIGHER and verdict(Interval(-.5, -.9, -.2)) == LOWER
    assert verdict(Interval(.5, -.2, .9)) == UNCLEAR and verdict(Interval(.5, 0, .9)) == UNCLEAR
    assert verdict(Interval(.7, .6, .9), than=.5) == HIGHER and verdict(Interval(.7, .6, .9), than=.8) == UNCLEAR
    assert verdict(Interval(.5, .2, .9), p=.06) == UNCLEAR and verdict(Interval(-.5, -.9, -.2), p=.04) == LOWER


# ---- the interquartile mean ----

def test_the_interquartile_mean_of_a_known_vector():
    assert iqm_interval(TEN).estimate == pytest.approx((2 + 3 + 4 + 5 + 7 + 8) / 6)
    for n in (2, 3, 4, 5, 8, 11):
        x = np.random.default_rng(n).normal(size=(n, 3))
        assert iqm_interval(x).estimate == pytest.approx(scipy.stats.trim_mean(x, .25, axis=None))


def test_the_bootstrap_resamples_whole_runs():
    "Two runs with two tasks: a resample is one run twice or both, so it never mixes the tasks of two runs otherwise."
    found = iqm_interval([[0, 0, 0, 0], [8, 8, 8, 8]])
    assert found == (4, 0, 8)
    runs = np.random.default_rng(0).normal(size=20)
    alone, copied = iqm_interval(runs), iqm_interval(np.repeat(runs[:, None], 8, 1))
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=.1)  # copies are no evidence


def test_an_interval_of_the_bootstrap_is_its_seeds():
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    first = iqm_interval(TEN)
    assert (np.random.get_state()[1] == state).all()
    assert iqm_interval(list(TEN)) == first == iqm_interval(TEN[:, None]) and iqm_interval(TEN, seed=1) != first
    assert first.low < first.estimate < first.high


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_the_interval_of_the_bootstrap_lies_within_the_scores(scores):
    found = iqm_interval(scores, repetitions=200)
    assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9
    assert all(type(v) is float for v in found)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: iqm_interval([1.]), "2 runs or more"),
        (lambda: mean_interval([]), "2 runs or more"),
        (lambda: iqm_interval(3.), "2 runs or more"),
        (lambda: iqm_interval([1., np.nan, 2]), "NaN"),
        (lambda: mean_interval([1., np.inf]), "infinity"),
        (lambda: iqm_interval(np.zeros((2, 2, 2))), "give \\[runs\\] or \\[runs, tasks\\]"),
        (lambda: difference([1, 2], [1, 2, 3]), "as many of each"),
        (lambda: difference([1, np.nan], [1, 2]), "NaN"),
        (lambda: difference([1], [1]), "2 runs"),
        (lambda: p_value([1], 0), "2 runs"),
        (lambda: holm([.5, 1.5]), "numbers from 0 to 1"),
        (lambda: holm([.5, np.nan]), "numbers from 0 to 1"),
        (lambda: proportion_interval([]), "at least 1"),
        (lambda: proportion_interval([.5]), "True or False"),
        (lambda: proportion_interval([np.nan]), "True or False"),
        (lambda: rank_correlation_interval([1, 2, 3, 4], [1, 2, 3, 4]), "5 or more"),
        (lambda: rank_correlation_interval([1, 2, 3], [1, 2]), "one length"),
        (lambda: rank_correlation_interval([1, 2, 3, 4, np.nan], [1, 2, 3, 4, 5]), "NaN"),
    ],
)
def test_errors_are_sentences(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


# ---- shares and order ----

def test_shares_by_wilsons_formula():
    z = scipy.stats.norm.ppf(.975)
    for k, n in ((0, 10), (3, 10), (10, 10), (1, 1), (55, 100)):
        p, half = k / n, z / (1 + z * z / n) * np.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        assert proportion_interval([1] * k + [0] * (n - k)) == pytest.approx(
            (p, centre - half, centre + half), abs=1e-9
        )
    assert proportion_interval(np.ones((5, 2), bool)) == proportion_interval(np.ones(10))


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, y = rng.integers(0, 6, 15), rng.integers(0, 6, 15)
        assert rank_correlation(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert rank_correlation([1, 2, 3], [4, 4, 4]) == 0 and rank_correlation([1, 2, 3], [1, 8, 27]) == pytest.approx(1)
    x, y = rng.normal(size=(2, 30))
    strong, none = rank_correlation_interval(x, np.exp(x)), rank_correlation_interval(x, y)
    assert strong == pytest.approx((1, 1, 1)) and none.low < 0 < none.high


def test_the_interval_of_a_rank_correlation_by_hand():
    "r = 0 of 5 pairs: z is 0, its standard error the root of 1 / 2, the ends tanh(1.96 * .7071) = .8825."
    assert rank_correlation_interval([1, 2, 3, 4, 5], [3, 3, 3, 3, 3]) == pytest.approx((0, -.8825, .8825), abs=1e-3)


@pytest.mark.parametrize("n", [10, 30])
@pytest.mark.parametrize("r", [0, .5, .8])
def test_coverage_of_rank_correlations(n, r):
    rng = np.random.default_rng(n)
    x, noise = rng.normal(size=(2, 600, n))
    y, truth = r * x + (1 - r * r)**.5 * noise, 6 / np.pi * np.arcsin(r / 2)
    found = [rank_correlation_interval(*pair) for pair in zip(x, y, strict=True)]
    assert .92 <= np.mean([low <= truth <= high for _, low, high in found]) <= .99


def test_the_module_is_quick_to_import():
    code = (
        "import sys, rlgen.metrics, rlgen.statistics; print([m for m in ('torch', 'diffusers', 'pandas', 'matplotlib') "
        "if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
