"Exercises of tables and data sets: each typical mistake is named."
import math
from types import SimpleNamespace

import numpy as np
import pytest
from refusals import not_yet

from rlgen.exercises.tables import (
    check_copied_share,
    check_early_stop,
    check_free_seeds,
    check_images_per_point,
    check_missing_classes,
    check_run_difference,
    check_tail_sizes,
    check_unique_calls,
    copied_share,
    early_stop,
    free_seeds,
    images_per_point,
    missing_classes,
    run_difference,
    tail_sizes,
    unique_calls,
)
from rlgen.experiments.support_arms import draw_all, random_prompts
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


def tail(classes, largest, ratio, first=0, less=1, whole=np.round):
    return whole(largest * float(ratio) ** (-(np.arange(classes) + first) / (classes - less)))


def largest_step(sets):
    "Images of each prompt if a step always began with the first image."
    most = {}
    for prompt, n in (step for steps in sets for step in steps):
        most[prompt] = max(n, most.get(prompt, 0))
    return sum(most.values())


def missed(prompts, classes):
    return classes * (1 - 1 / classes) ** prompts


def distances(one, others):
    return np.linalg.norm(one[:, None] - others, axis=2)


MISTAKES = [
    (check_tail_sizes, lambda k, n, r: tail(k, n, r, less=0), 'divide by K - 1'),
    (check_tail_sizes, lambda k, n, r: tail(k, n, r, first=1), 'count k from 0'),
    (check_tail_sizes, lambda k, n, r: tail(k, n, 1 / r), 'sizes fall'),
    (check_tail_sizes, lambda k, n, r: np.round(np.linspace(n, n / r, k)), 'straight line'),
    (check_tail_sizes, lambda k, n, r: tail(k, n, r, whole=lambda x: x), 'round each size'),
    (check_tail_sizes, lambda k, n, r: tail(k, n, r, whole=np.floor), 'do not cut off'),
    (check_tail_sizes, lambda k, n, r: tail(k, n, r)[::-1], 'largest class comes first'),
    (check_tail_sizes, lambda k, n, r: n, 'one whole number for each class'),
    (check_unique_calls, lambda sets: sum(n for steps in sets for _, n in steps), 'counts every image'),
    (check_unique_calls, largest_step, 'goes on with its next image'),
    (check_unique_calls, lambda sets: len({prompt for steps in sets for prompt, _ in steps}), 'Count images'),
    (check_unique_calls, lambda sets: sum(n for _, n in sets[-1]), 'last set alone'),
    (check_unique_calls, lambda sets: sum(n for _, n in set(sum(sets, ()))), 'each step begins'),
    (check_missing_classes, lambda n, m, k: missed(n, k), 'count prompts, not images'),
    (check_missing_classes, lambda n, m, k: missed(n // m, k), 'one more prompt'),
    (check_missing_classes, lambda n, m, k: missed(n / m, k), 'round up'),
    (check_missing_classes, lambda n, m, k: missed(3 * math.ceil(n / m), k), 'Only the first class'),
    (check_missing_classes, lambda n, m, k: missed(math.ceil(n / m), k) / k, 'for one class'),
    (check_missing_classes, lambda n, m, k: k - missed(math.ceil(n / m), k), 'that have images'),
    (check_missing_classes, lambda n, m, k: max(0, k - math.ceil(n / m)), 'come twice'),
    (check_copied_share, lambda c, t, f: 1 - copied_share(c, t, f), 'the sign'),
    (check_copied_share, lambda c, t, f: copied_share(c, t, f) * len(c), 'a count'),
    (check_copied_share, lambda c, t, f: (distances(t, c).min(1) < distances(f, c).min(1)).mean(), 'each real image'),
    (check_copied_share, lambda c, t, f: (distances(c, t).mean(1) < distances(c, f).mean(1)).mean(), 'mean distance'),
    (check_copied_share, lambda c, t, f: (distances(c, t).min(1) == 0).mean(), 'need not be exact'),
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
    not_yet(check, answer, hint, capsys)


@pytest.mark.parametrize('check, answer', [
    (check_run_difference, run_difference), (check_images_per_point, images_per_point),
    (check_free_seeds, free_seeds), (check_early_stop, early_stop), (check_tail_sizes, tail_sizes),
    (check_unique_calls, unique_calls), (check_missing_classes, missing_classes), (check_copied_share, copied_share),
])
def test_right_answers_pass(check, answer, capsys):
    assert check(answer) and capsys.readouterr().out.startswith('Right')


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


def stand_in(n_images, per_step, classes):
    "What `random_prompts` and `draw_all` look at in a task; it notes the images instead of generating them."
    made = set()
    def generate(action, n_existing, n):
        made.update((task.prompt(action), n_existing + i) for i in range(n))
    task = SimpleNamespace(
        classes=range(classes), domains=('photograph', 'painting'), max_images=n_images, per_step=per_step,
        prompt=lambda action: ' '.join(map(str, action)), generate=generate,
    )
    return task, made


@pytest.mark.parametrize('n_images, per_step, classes', [(104, 4, 20), (105, 4, 20), (30, 7, 5)])
def test_random_sets_miss_as_many_classes_as_expected(n_images, per_step, classes):
    task, _ = stand_in(n_images, per_step, classes)
    found = [classes - len({int(a[1]) for a, _ in random_prompts(task, seed)}) for seed in range(2000)]
    assert np.mean(found) == pytest.approx(missing_classes(n_images, per_step, classes), abs=.1)


def test_unique_calls_are_those_of_the_sets():
    task, made = stand_in(12, 2, 2)
    sets = [random_prompts(task, seed) for seed in range(4)]
    for wanted in sets:
        draw_all(task, wanted)
    told = tuple(tuple((task.prompt(action), n) for action, n in wanted) for wanted in sets)
    assert unique_calls(told) == len(made) < 4 * 12


def test_a_copy_is_found_and_a_sample_is_not():
    rng = np.random.default_rng(3)
    train, fresh, clone = rng.normal(size=(3, 400, 4))
    assert copied_share(train, train, fresh) == 1
    assert copied_share(clone, train, fresh) == pytest.approx(.5, abs=.1)
