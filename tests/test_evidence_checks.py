"""Checks of the second half of the RLDF track: typical mistakes get the hint that fits them, right answers pass."""
import numpy as np
import pytest
from refusals import not_yet

from rlgen.exercises.evidence import (
    check_arrivals,
    check_change,
    check_cycle_value,
    check_holm,
    check_policy_sweep,
    check_right_prompts,
    check_slope,
    check_standard_error,
    check_toward,
    check_win_share,
    check_without_word,
)

def sweep(v, s, r, end, policy, discount):
    return (policy * (r + discount * v[s] * ~end)).sum(1)


def sweep_in_place(v, s, r, end, policy, discount):
    v = v.copy()
    for i in range(len(v)):
        v[i] = policy[i] @ (r[i] + discount * v[s[i]] * ~end[i])
    return v


def sweep_into_the_argument(v, s, r, end, policy, discount):
    v[:] = sweep(v, s, r, end, policy, discount)
    return v


def arrivals(next_states, terminated, actions, steps=None):
    arrived, at = np.zeros(len(actions), bool), np.arange(len(actions))
    for _ in range(steps or len(actions)):
        arrived |= terminated[at, actions[at]]
        at = next_states[at, actions[at]]
    return arrived.mean()


def slope(rewards, label, radius):
    low, high = max(label - radius, 0), min(label + radius, len(rewards) - 1)
    return (rewards[high] - rewards[low]) / (high - low)


def clipped(rewards, label, radius):
    return rewards[min(label + radius, len(rewards) - 1)] - rewards[max(label - radius, 0)]


def standard_error(values):
    return values.mean(1).std(ddof=1) / len(values) ** .5


def holm(p, factor=lambda n, k: n - k, running=True, cap=True):
    order, found, worst = np.argsort(p, kind="stable"), np.zeros(len(p)), 0.
    for k, i in enumerate(order):
        value = factor(len(p), k) * p[i]
        worst = max(worst, value) if running else value
        found[i] = min(worst, 1.) if cap else worst
    return found


def once(rewards, discount):
    return sum(discount ** t * reward for t, reward in enumerate(rewards))


def cycle_value(rewards, discount):
    return once(rewards, discount) / (1 - discount ** len(rewards))


def win_share(a, b):
    return (a[:, None] < b).mean() + (a[:, None] == b).mean() / 2


def toward(slopes, goal):
    return np.delete(slopes * (goal - np.arange(len(slopes))), goal)


def right_prompts(goals):
    return np.prod([len(np.unique(axis)) for axis in goals.T])


def change(images):
    return np.abs(np.diff(images.astype(float), axis=0)).mean()


def rest(p, word):
    return np.delete(p, word)


RIGHT = [
    (check_cycle_value, cycle_value), (check_win_share, win_share), (check_change, change),
    (check_toward, lambda slopes, goal: (toward(slopes, goal) > 0).mean()), (check_right_prompts, right_prompts),
    (check_without_word, lambda p, word: rest(p, word) / rest(p, word).sum()),
    (check_policy_sweep, sweep), (check_arrivals, arrivals), (check_slope, slope),
    (check_standard_error, standard_error), (check_holm, holm), (check_holm, lambda p: holm(p).tolist()),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    assert check(answer)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize("check, answer, hint", [
    (check_policy_sweep, lambda v, s, r, end, p, g: (r + g * v[s] * ~end).max(1), "sweep of value iteration"),
    (check_policy_sweep, lambda v, s, r, end, p, g: (r + g * v[s] * ~end).mean(1), "weighted with the probabilities"),
    (check_policy_sweep, lambda v, s, r, end, p, g: (p * (r + g * v[s])).sum(1), "Nothing follows"),
    (check_policy_sweep, lambda v, s, r, end, p, g: (p * r).sum(1), "is missing"),
    (check_policy_sweep, sweep_in_place, "already changed"),
    (check_policy_sweep, sweep_into_the_argument, "changed the array"),
    (check_policy_sweep, lambda v, s, r, end, p, g: r, "of shape [6]"),
    (check_arrivals, lambda s, end, a: end[np.arange(len(a)), a].mean(), "with the first step"),
    (check_arrivals, lambda s, end, a: arrivals(s, end, a, 10), "Ten steps are not enough"),
    (check_arrivals, lambda s, end, a: arrivals(s, end, a, 20), "Twenty steps are not enough"),
    (check_arrivals, lambda s, end, a: end.any(1).mean(), "Any action that terminates"),
    (check_arrivals, lambda s, end, a: end.mean(), "share of all pairs"),
    (check_arrivals, lambda s, end, a: 1 - arrivals(s, end, a), "never terminates"),
    (check_arrivals, lambda s, end, a: 1., "as many steps as there are states"),
    (check_slope, lambda r, x, k: clipped(r, x, k) / (2 * k), "real distance"),
    (check_slope, clipped, "divide it by the distance"),
    (check_slope, lambda r, x, k: -slope(r, x, k), "Look at the sign"),
    (check_slope, lambda r, x, k: (r[(x + k) % len(r)] - r[(x - k) % len(r)]) / (2 * k), "at the other end"),
    (check_standard_error, lambda x: x.std(ddof=1) / x.size ** .5, "counted as independent"),
    (check_standard_error, lambda x: x.std() / x.size ** .5, "counted as independent"),
    (check_standard_error, lambda x: x.mean(1).std(ddof=1) / x.size ** .5, "n counts runs"),
    (check_standard_error, lambda x: x.mean(0).std(ddof=1) / x.shape[1] ** .5, "not the seed"),
    (check_standard_error, lambda x: x.mean(1).std() / len(x) ** .5, "ddof=1"),
    (check_standard_error, lambda x: x.mean(1).std(ddof=1), "standard deviation of the goals"),
    (check_holm, lambda p: holm(p, lambda n, k: n), "Bonferroni"),
    (check_holm, lambda p: holm(p, running=False), "running maximum"),
    (check_holm, lambda p: np.sort(holm(p)), "in the order in which they came"),
    (check_holm, lambda p: holm(p, cap=False), "at most 1"),
    (check_holm, lambda p: holm(p, lambda n, k: k + 1), "largest factor"),
    (check_holm, lambda p: p, "times n, n - 1"),
    (check_cycle_value, lambda r, g: once(r, g) / (1 - g), "to the power of their number"),
    (check_cycle_value, once, "one round"),
    (check_cycle_value, lambda r, g: g * cycle_value(r, g), "first reward is not discounted"),
    (check_cycle_value, lambda r, g: sum(r) / (1 - g ** len(r)), "within a round"),
    (check_cycle_value, lambda r, g: sum(r) / len(r) / (1 - g), "which reward comes first"),
    (check_win_share, lambda a, b: (a[:, None] < b).mean(), "one half for each."),
    (check_win_share, lambda a, b: (a[:, None] <= b).mean(), "not a whole"),
    (check_win_share, lambda a, b: (a < b).mean() + (a == b).mean() / 2, "not in pairs"),
    (check_win_share, lambda a, b: win_share(b, a), "direction"),
    (check_win_share, lambda a, b: float(a.mean() < b.mean()), "compares the means"),
    (check_toward, lambda s, g: (s * (g - np.arange(len(s))) > 0).mean(), "own label out"),
    (check_toward, lambda s, g: (toward(s, g) < 0).mean(), "point away"),
    (check_toward, lambda s, g: (toward(s, g) >= 0).mean(), "points nowhere"),
    (check_toward, lambda s, g: (np.delete(s, g) > 0).mean(), "has to be negative"),
    (check_right_prompts, lambda goals: len(goals) ** goals.shape[1], "counts once"),
    (check_right_prompts, lambda goals: sum(len(np.unique(axis)) for axis in goals.T), "multiply them"),
    (check_right_prompts, len, "from one goal"),
    (check_change, lambda x: np.abs(x[1:] - x[:-1]).mean(), "wraps around"),
    (check_change, lambda x: np.diff(x.astype(float), axis=0).mean(), "before the mean"),
    (check_change, lambda x: np.abs(x[1:].astype(float) - x[0]).mean(), "not every image"),
    (check_change, lambda x: np.abs(x[-1].astype(float) - x[0]).mean(), "not the last image"),
    (check_change, lambda x: (np.diff(x.astype(float), axis=0) ** 2).mean(), "mean square"),
    (check_without_word, rest, "add up to 1"),
    (check_without_word, lambda p, w: rest(p, w) + p[w] / (len(p) - 1), "not equally"),
    (check_without_word, lambda p, w: np.exp(rest(p, w)) / np.exp(rest(p, w)).sum(), "softmax"),
    (check_without_word, lambda p, w: rest(p, w) / p[w], "what is left, 1 - p"),
])
def test_the_mistake_is_named(check, answer, hint, capsys):
    not_yet(check, answer, hint, capsys)
