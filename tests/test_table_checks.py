"Exercises of the pages with the evidence: each typical mistake is named."
import math

import numpy as np
import pytest

from rlgen.exercises.tables import (
    check_early_stop,
    check_free_seeds,
    check_images_per_point,
    check_run_difference,
    early_stop,
    free_seeds,
    images_per_point,
    run_difference,
)
from rlgen.statistics import difference

def paired(ours, theirs, ddof=1):
    gaps = (ours - theirs).mean(1)
    return [gaps.mean(), gaps.std(ddof=ddof) / np.sqrt(len(gaps))]


def pairs_as_units(ours, theirs):
    gaps = ours - theirs
    return [gaps.mean(), gaps.std(ddof=1) / np.sqrt(gaps.size)]


def pairs_averaged_over_runs(ours, theirs):
    gaps = (ours - theirs).mean(0)
    return [gaps.mean(), gaps.std(ddof=1) / np.sqrt(len(gaps))]


def unpaired(ours, theirs):
    a, b = ours.mean(1), theirs.mean(1)
    return [a.mean() - b.mean(), np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))]


def stopped_where(scores, patience):
    return min(early_stop(scores, patience) + patience, len(scores) - 1)


def stop_at_first_fall(scores, patience):
    return next((i - 1 for i in range(1, len(scores)) if scores[i] <= scores[i - 1]), len(scores) - 1)


def last_of_equals(scores, patience):
    best = 0
    for i, score in enumerate(scores):
        if score >= scores[best]:
            best = i
        elif i - best >= patience:
            break
    return best


MISTAKES = [
    (check_run_difference, pairs_as_units, 'Average each run over its pairs first'),
    (check_run_difference, pairs_averaged_over_runs, 'average over axis 1'),
    (check_run_difference, unpaired, 'paired by their seeds'),
    (check_run_difference, lambda a, b: paired(a, b, ddof=0), 'n - 1'),
    (check_run_difference, lambda a, b: [paired(a, b)[0], paired(a, b)[1] * np.sqrt(len(a))], 'times smaller'),
    (check_run_difference, lambda a, b: paired(b, a), 'ours minus theirs'),
    (check_run_difference, lambda a, b: paired(a, b)[0], 'of shape [2]'),
    (check_images_per_point, lambda a, b, n: (n / (a - b)).mean(), 'Divide the means'),
    (check_images_per_point, lambda a, b, n: n.sum() / (a - b).mean(), 'the sum of both'),
    (check_images_per_point, lambda a, b, n: n.mean() / a.mean(), 'without the set'),
    (check_images_per_point, lambda a, b, n: (a - b).mean() / n.mean(), 'turn it round'),
    (check_images_per_point, lambda a, b, n: n.mean() / (a - b).mean() / 100, 'a point is 1'),
    (check_images_per_point, lambda a, b, n: n.mean() / (b - a).mean(), 'the sign'),
    (check_free_seeds, lambda b, n: max(0, 256 ** b // 2 ** math.ceil(math.log2(n))), 'two digits of one number'),
    (check_free_seeds, lambda b, n: -(-256 ** b // n), 'Round down'),
    (check_free_seeds, lambda b, n: 256 ** b / n, 'round down'),
    (check_free_seeds, lambda b, n: 256 * b // n, '256 ** n'),
    (check_free_seeds, lambda b, n: 2 ** b // n, '8 bits'),
    (check_free_seeds, lambda b, n: 256 ** b, 'one for every state'),
    (check_early_stop, lambda scores, patience: int(np.argmax(scores)), 'After the stop there are none'),
    (check_early_stop, stopped_where, 'where training stops'),
    (check_early_stop, stop_at_first_fall, 'first fall'),
    (check_early_stop, last_of_equals, 'no improvement'),
    (check_early_stop, lambda scores, patience: early_stop(scores, patience + 1), 'Look at the patience'),
    (check_early_stop, lambda scores, patience: len(scores) - 1, 'last checkpoint'),
]


@pytest.mark.parametrize('check, answer, hint', MISTAKES)
def test_the_mistake_is_named(check, answer, hint, capsys):
    assert check(answer) is False
    said = capsys.readouterr().out
    assert said.startswith('Not yet: ') and said.count('\n') == 1 and hint in said, said


@pytest.mark.parametrize('check, answer', [
    (check_run_difference, run_difference), (check_images_per_point, images_per_point),
    (check_free_seeds, free_seeds), (check_early_stop, early_stop),
])
def test_right_answers_pass(check, answer, capsys):
    assert check(answer) is True and capsys.readouterr().out.startswith('Right')


def test_the_standard_error_is_that_of_the_interval():
    "Student's t on the run means is what the tables have."
    import scipy.stats
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(2, 6, 10))
    mean, error = run_difference(ours, theirs)
    half = scipy.stats.t(5).ppf(.975) * error
    assert tuple(difference(ours.mean(1), theirs.mean(1))) == pytest.approx((mean, mean - half, mean + half))


def test_a_rule_cannot_look_ahead():
    "Whatever comes after the stop changes nothing."
    assert early_stop([1, 3, 2, 2, 9], 2) == early_stop([1, 3, 2, 2, -9], 2) == 1
