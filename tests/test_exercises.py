"""The checks of the RLDF track, of soft Q-learning and of support sets:
typical mistakes get the hint that fits them, right answers of any form pass.

That every stub of a notebook fails and every solution passes stands in test_walkthroughs.py.
"""
import json
import math
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from refusals import not_yet
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.special import entr, logsumexp, softmax

from rlgen.exercises import rldf
from rlgen.exercises.checks import report_check
from rlgen.exercises.preference import (
    check_polyak,
    check_shaped_rewards,
    check_v2_targets,
    check_value,
    episodes,
    networks,
    polyak_reference,
    shaped_reference,
    soft_value,
    steps_of_rewards,
    v2_reference,
)
from rlgen.exercises.rldf import (
    NVEC,
    check_multi_semantic,
    check_propose,
    check_q_learning_update,
    check_sarsa_update,
    check_training_statistics,
    check_vocabulary_order,
    clustered,
    columns_reference,
    multi_semantic,
    proposed,
    search_goals,
    trail,
    transitions,
    vocabularies,
    way,
)
from rlgen.exercises.support import (
    answer_cases,
    batch_cases,
    check_clipped_objective,
    check_entropy,
    check_gae,
    check_support_reward,
    clipped_reference,
    entropy_reference,
    gae_reference,
    run_cases,
    step_cases,
    support_reward_reference,
)
from rlgen.grammar import Grammar
from rlgen.statistics import trajectory_statistics

ROOT = Path(__file__).resolve().parents[1]


# Updates. Here q is the table, s and a the state and action, r the reward, g the discount, t the next state, b the next
# action and k the step size.

def q_update(q, s, a, r, g, t, k):
    return q[s, a] + k*(r + g*q[t].max() - q[s, a])


def sarsa_update(q, s, a, r, g, t, b, k):
    return q[s, a] + k*(r + g*q[t, b] - q[s, a])


def as_table(update):
    "An update that returns a new table."
    def updated(q, s, a, *rest):
        new = q.copy()
        new[s, a] = update(q, s, a, *rest)
        return new
    return updated


def in_place(update, back):
    "An update that writes into the table that it was given, and may return it."
    def updated(q, s, a, *rest):
        q[s, a] = update(q, s, a, *rest)
        return q if back else None
    return updated


def whole_row(q, s, a, *rest):
    new = q.copy()
    new[s] = q_update(q, s, a, *rest)
    return new


def other_entry(q, s, a, r, g, t, k):
    new = q.copy()
    new[t, a] = q_update(q, s, a, r, g, t, k) + 1
    return new


@pytest.mark.parametrize('check, update', [(check_q_learning_update, q_update), (check_sarsa_update, sarsa_update)])
def test_values_and_tables_are_right_answers(check, update, capsys):
    forms = [update, as_table(update), lambda *x: as_table(update)(*x).tolist(), lambda *x: np.array(update(*x))]
    assert all(check(form) for form in forms)
    assert capsys.readouterr().out.count('Right: it is the update of') == len(forms)


@pytest.mark.parametrize('update, hint', [
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + q[t].max() - q[s, a]), 'nothing comes after an end'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + .9*q[t].max() - q[s, a]), 'line 10'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + (g or .9)*q[t].max() - q[s, a]), 'end of an episode'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*g*(r + q[t].max()) - k*q[s, a], 'not the reward'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q[s].max() - q[s, a]), 'in the state after the step'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q.max() - q[s, a]), 'not over the whole table'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q[:, a].max() - q[s, a]), 'one value for each action'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q[t, a] - q[s, a]), 'not the same action again'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q[t].argmax() - q[s, a]), 'np.argmax says which'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*max(0, *q[t]) - q[s, a]), 'may be negative'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q[t].max() - q[s].max()), 'of the action that was taken'),
    (lambda q, s, a, r, g, t, k: q[s].max() + k*(r + g*q[t].max() - q[s].max()), 'of the action that was taken'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q[t].max() - q[t, a]), 'of the action that was taken'),
    (lambda q, s, a, r, g, t, k: r + g*q[t].max(), 'step size: the old value moves a part'),
    (lambda q, s, a, r, g, t, k: k*q[s, a] + (1 - k)*(r + g*q[t].max()), '1 - step_size'),
    (lambda q, s, a, r, g, t, k: k*(r + g*q[t].max() - q[s, a]), 'This is the change'),
    (lambda q, s, a, r, g, t, k: r + g*q[t].max() - q[s, a], 'This is the error'),
    (lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q[t].max()), 'what is subtracted'),
    (lambda q, s, a, r, g, t, k: q[s, a] - k*(r + g*q[t].max() - q[s, a]), 'Look at the sign'),
    (in_place(q_update, back=True), 'table.copy()'),
    (in_place(q_update, back=False), 'table.copy()'),
    (as_table(lambda q, s, a, r, g, t, k: q[s, a] + k*(r + g*q[s].max() - q[s, a])), 'in the state after the step'),
    (whole_row, 'which entry is learnt'),
    (other_entry, 'which entry is learnt'),
    (lambda *x: None, 'is there a return'),
    (lambda q, s, a, *rest: q[s], 'one number, or a new table of shape [3, 2]'),
    (lambda *x: 'one', "not 'one'"),
    (lambda *x: float('nan'), 'it is nan'),
    (lambda q, s: 0., 'TypeError')])
def test_wrong_q_learning_gets_a_hint(update, hint, capsys):
    not_yet(check_q_learning_update, update, hint, capsys)


@pytest.mark.parametrize('update, hint', [
    (lambda q, s, a, r, g, t, b, k: q[s, a] + k*(r + g*q[t].max() - q[s, a]), 'This is Q-learning'),
    (lambda q, s, a, r, g, t, b, k: q[s, a] + k*(r + g*q[t, a] - q[s, a]), 'not of the one that was taken before'),
    (lambda q, s, a, r, g, t, b, k: q[s, a] + k*(r + g*q[s, b] - q[s, a]), 'in the state after the step'),
    (lambda q, s, a, r, g, t, b, k: q[s, a] + k*(r + g*q[t].mean() - q[s, a]), 'expected SARSA'),
    (lambda q, s, a, r, g, t, b, k: q[s, a] + k*(r + q[t, b] - q[s, a]), 'nothing comes after an end'),
    (lambda q, s, a, r, g, t, b, k: q[s, a] + k*(r + (g or 1)*q[t, b] - q[s, a]), 'end of an episode'),
    (lambda q, s, a, r, g, t, b, k: q[s, a] + k*(r + g*q[t, b] - q[s, b]), 'of the action that was taken'),
    (lambda q, s, a, r, g, t, b, k: q[s, a] + k*(r + g*b - q[s, a]), 'not its number'),
    (lambda q, s, a, r, g, t, b, k: q[s, a] + .5*(r + g*q[t, b] - q[s, a]), 'line 14'),
    (in_place(sarsa_update, back=True), 'table.copy()')])
def test_wrong_sarsa_gets_a_hint(update, hint, capsys):
    not_yet(check_sarsa_update, update, hint, capsys)


def test_sarsa_in_q_learning_is_told_so(capsys):
    "Q-learning is not told the next action, but may find it in its own way."
    actions = iter([x.next_action for x in transitions()])
    not_yet(
        check_q_learning_update,
        lambda q, s, a, r, g, t, k: sarsa_update(q, s, a, r, g, t, next(actions), k),
        'This is SARSA',
        capsys,
    )


def test_transitions_hold_the_edge_cases():
    cases = transitions()
    assert [sarsa_update(*x) for x in cases[:2]] == pytest.approx([1.95, 1.5])
    assert [q_update(*x[:6], x.step_size) for x in cases[:2]] == pytest.approx([2.85, 1.5])
    assert any(x.discount == 0 for x in cases[2:]) and any(x.state == x.next_state for x in cases)
    assert any((x.table < 0).all() for x in cases) and any(x.step_size == 1 for x in cases)
    assert any(x.table[x.next_state].argmax() != x.next_action for x in cases)


# The multi-semantic reward

@pytest.mark.parametrize(
    'reward, hint',
    [
        (
            lambda e, goal, i, C, C_s: C * np.delete(e == goal, i).sum() + C_s * (e[i] == goal[i]),
            'the reward -C_s, not 0',
        ),
        (
            lambda e, goal, i, C, C_s: C * np.delete(e == goal, i).sum() - C_s * (2 * (e[i] == goal[i]) - 1),
            'sign in equation 4',
        ),
        (lambda e, goal, i, C, C_s: C * (e == goal).sum() + C_s * (2 * (e[i] == goal[i]) - 1), 'none of the objects'),
        (lambda e, goal, i, C, C_s: C * (e == goal).sum(), 'none of the objects'),
        (
            lambda e, goal, i, C, C_s: C * np.delete(e == goal, i).any() + C_s * (2 * (e[i] == goal[i]) - 1),
            'for each element',
        ),
        (
            lambda e, goal, i, C, C_s: C * np.delete(e == goal, i).mean() + C_s * (2 * (e[i] == goal[i]) - 1),
            'for each element',
        ),
        (
            lambda e, goal, i, C, C_s: C * np.sum(2 * np.delete(e == goal, i) - 1) + C_s * (2 * (e[i] == goal[i]) - 1),
            'has the reward 0',
        ),
        (lambda e, goal, i, C, C_s: multi_semantic(e, goal, i, C_s, C), 'C is for objects'),
        (lambda e, goal, i, C, C_s: multi_semantic(e, goal, i), 'need not be 1'),
        (lambda e, goal, i, C, C_s: multi_semantic(e, goal, -1, C, C_s), 'need not be the last'),
        (
            lambda e, goal, i, C, C_s: (
                C * len([x for x in np.delete(e, i) if x in np.delete(goal, i)]) + C_s * (2 * (e[i] == goal[i]) - 1)
            ),
            'axis by axis',
        ),
        (lambda e, goal, i, C, C_s: C * np.delete(e == goal, i).sum(), 'that of the scene is missing'),
        (lambda e, goal, i, C, C_s: C_s * (2 * (e[i] == goal[i]) - 1), 'that of the objects is missing'),
        (lambda e, goal, i, C, C_s: -np.abs(e - goal).sum(), 'equations 2 to 4'),
        (lambda e, goal, i, C, C_s: C * (e == goal), 'a number'),
        (lambda e, goal, i, C, C_s: None, 'is there a return'),
    ],
)
def test_wrong_rewards_get_a_hint(reward, hint, capsys):
    not_yet(check_multi_semantic, reward, hint, capsys)


# Orders of vocabularies

def nearest_left(labels, vectors):
    "Always on to the nearest label that is left."
    order = [0]
    while len(order) < len(labels):
        order.append(
            min({*range(len(labels))} - {*order}, key=lambda i: np.linalg.norm(vectors[i] - vectors[order[-1]]))
        )
    return order


def shortest(labels, vectors):
    "The best order of all, by dynamic programming over sets of labels."
    n, gaps = len(labels), np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    best = {(1 << i, i): (0., (i,)) for i in range(n)}
    for held in range(1, 1 << n):
        for last in (i for i in range(n) if held >> i & 1):
            for to in (i for i in range(n) if not held >> i & 1):
                longer = (best[held, last][0] + gaps[last, to], (*best[held, last][1], to))
                best[held | 1 << to, to] = min(best.get((held | 1 << to, to), longer), longer)
    return min(best[(1 << n) - 1, i] for i in range(n))[1]


@pytest.mark.parametrize('method', ['single', 'complete', 'average', 'ward'])
def test_every_usual_clustering_is_good_enough(method, capsys):
    assert check_vocabulary_order(lambda labels, vectors: leaves_list(linkage(vectors, method, optimal_ordering=True)))
    assert check_vocabulary_order(
        lambda labels, vectors: leaves_list(linkage(vectors, method, optimal_ordering=True))[::-1].tolist()
    )
    capsys.readouterr()
    not_yet(
        check_vocabulary_order,
        lambda labels, vectors: leaves_list(linkage(vectors, method)),
        'optimal_ordering',
        capsys,
    )


def test_shortest_order_is_good_enough():
    assert check_vocabulary_order(shortest)
    for vectors in vocabularies():
        best = way(vectors, shortest(range(len(vectors)), vectors))
        if len(vectors) < 7:
            assert best == pytest.approx(min(way(vectors, order) for order in permutations(range(len(vectors)))))
        assert best <= way(vectors, clustered(vectors, 'average')) + 1e-9


def test_order_of_the_grammar_passes():
    def order(labels, vectors):
        grammar = Grammar.from_string('S -> "a" Noun\nNoun -> ' + ' | '.join(f'"{label}"' for label in labels))
        return [labels.index(label) for label in grammar.ordered_by(lambda words: vectors).axes[0].labels]
    assert check_vocabulary_order(order)


@pytest.mark.parametrize('order, hint', [
    (lambda labels, vectors: list(range(len(labels))), 'in which the labels came'),
    (lambda labels, vectors: np.argsort(vectors[:, 0]), 'all coordinates'),
    (lambda labels, vectors: np.argsort(vectors.sum(1)), 'all coordinates'),
    (lambda labels, vectors: np.argsort(np.linalg.norm(vectors, axis=1)), 'length of a vector'),
    (lambda labels, vectors: np.argsort(np.linalg.norm(vectors - vectors[0], axis=1)), 'equally far from the first'),
    (nearest_left, 'leaves far ones behind'),
    (lambda labels, vectors: np.random.default_rng(0).permutation(len(labels)), 'leaves_list'),
    (lambda labels, vectors: np.argsort(clustered(vectors, 'average')), 'the other way round'),
    (lambda labels, vectors: [labels[i] for i in clustered(vectors, 'average')], 'it returned the labels'),
    (lambda labels, vectors: np.array(labels)[clustered(vectors, 'average')], 'it returned the labels'),
    (lambda labels, vectors: vectors[clustered(vectors, 'average')], 'it returned vectors'),
    (lambda labels, vectors: np.add(clustered(vectors, 'average'), 1), 'counts from 1'),
    (lambda labels, vectors: [0]*len(labels), 'once'),
    (lambda labels, vectors: clustered(vectors, 'average')[1:], 'once'),
    (lambda labels, vectors: labels.sort(), 'is there a return')])
def test_wrong_orders_get_a_hint(order, hint, capsys):
    not_yet(check_vocabulary_order, order, hint, capsys)


# Table 3

def from_distances(distance, **changes):
    "Columns of Table 3 with another distance or with other columns."
    def statistics(walk, goal):
        columns = rldf.columns_of(distance(walk, goal))
        return columns | {name: change(columns, walk, goal) for name, change in changes.items()}
    return statistics


def steps(walk, goal):
    return np.abs(walk - goal).sum(1)


@pytest.mark.parametrize(
    'statistics, hint',
    [
        (lambda walk, goal: rldf.columns_of(steps(walk, goal), ddof=1), 'not by T - 1'),
        (
            from_distances(
                steps, sigma2=lambda c, walk, goal: float(np.var(steps(walk, goal), ddof=1)) if len(walk) > 1 else 0.
            ),
            'not by T - 1',
        ),
        (from_distances(lambda walk, goal: np.linalg.norm(walk - goal, axis=1)), 'not the Euclidean'),
        (from_distances(lambda walk, goal: ((walk - goal) ** 2).sum(1)), 'not of squares'),
        (from_distances(lambda walk, goal: np.abs(walk - goal).max(1)), 'not the greatest'),
        (from_distances(lambda walk, goal: (walk != goal).sum(1)), 'labels that are wrong'),
        (from_distances(lambda walk, goal: (walk - goal).sum(1)), 'cancel out'),
        (from_distances(lambda walk, goal: np.abs(walk - goal).sum(0)), 'axis=1'),
        (from_distances(steps, rho=lambda c, *_: c['sigma2'], sigma2=lambda c, *_: c['rho']), 'square root'),
        (from_distances(steps, rho=lambda c, *_: c['sigma2']), 'square root'),
        (from_distances(steps, D_T=lambda c, walk, goal: steps(walk, goal)[0]), 'from the last state'),
        (
            from_distances(steps, D_max=lambda c, *_: c['D_min'], D_min=lambda c, *_: c['D_max']),
            'the greatest distance of the run',
        ),
        (from_distances(steps, conv=lambda c, *_: c['D_T'] == 0), 'has gone on from there'),
        (from_distances(steps, conv=lambda c, *_: c['D_min'] > 0), 'the other way round'),
        (
            from_distances(steps, D_min=lambda c, walk, goal: min(steps(walk, goal)[1:], default=0)),
            'The distances of the states',
        ),
        (lambda walk, goal: tuple(columns_reference(walk, goal).values()), 'a dictionary'),
        (lambda walk, goal: {'D_T': 0}, 'lacks D_max'),
        (lambda walk, goal: columns_reference(walk, goal) | {'D_T': steps(walk, goal)}, 'a number for D_T'),
    ],
)
def test_wrong_statistics_get_a_hint(statistics, hint, capsys):
    not_yet(check_training_statistics, statistics, hint, capsys)


def test_a_sample_of_one_is_met_last(capsys):
    "Who asks for the variance of a sample hears about that, and not about the run of one state that makes it fail."
    from statistics import variance

    def sample(walk, goal):
        spread = variance(steps(walk, goal).tolist())
        return columns_reference(walk, goal) | {'sigma2': spread, 'rho': spread**.5}
    not_yet(check_training_statistics, sample, 'not by T - 1', capsys)


def test_reference_agrees_with_the_experiments():
    for walk, goal in rldf.runs():
        nothing = np.zeros(len(walk), bool)
        theirs = trajectory_statistics(steps(walk, goal), nothing, nothing)
        assert columns_reference(walk, goal) == pytest.approx({name: theirs[name] for name in rldf.EXERCISE_COLUMNS})


def test_conv_may_be_a_truth_value():
    assert check_training_statistics(from_distances(steps, conv=lambda c, *_: c['D_min'] == 0))


# Search

def one_label(asked, values, nvec):
    "The best state so far with one label exchanged."
    if not asked:
        return (0,)*len(nvec)
    best = asked[values.index(max(values))]
    return next(
        s
        for axis, n in enumerate(nvec)
        for label in range(n)
        if (s := (*best[:axis], label, *best[axis + 1:])) not in asked
    )


def at_random(asked, values, nvec):
    return np.random.default_rng([7, len(asked)]).integers(nvec)


def forgetful(asked, values, nvec):
    "Goes back to the best state before each new one."
    return asked[values.index(max(values))] if asked and len(asked) % 2 else at_random(asked, values, nvec)


@pytest.mark.parametrize(
    'propose, hint',
    [
        (at_random, 'had been asked for before'),
        (lambda asked, values, nvec: (0, 0, 0, 0), '40 landscapes, 40 of which it never found'),
        (forgetful, 'had been asked for before'),
        (lambda asked, values, nvec: np.unravel_index(len(asked), nvec), 'whatever they are worth'),
        (
            lambda asked, values, nvec: np.unravel_index((len(asked) * 7 + int(sum(values[:1]))) % 480, nvec),
            'more, less or the same',
        ),
        (lambda asked, values, nvec: asked[int(np.argmax(values))], 'Look at the first call'),
        (
            lambda asked, values, nvec: values.index(max(values, default=0)) if asked else (0, 0, 0, 0),
            'after 1 states it proposed 0',
        ),
        (lambda asked, values, nvec: tuple(nvec), 'from 0 to below'),
        (lambda asked, values, nvec: (0, -1, 0, 0), 'from 0 to below'),
        (lambda asked, values, nvec: (0., 0., 0., 0.), 'whole numbers'),
        (lambda asked, values, nvec: (0, 0, 0), '4 whole numbers'),
        (lambda asked, values, nvec: None, 'without a return'),
    ],
)
def test_wrong_searches_get_a_hint(propose, hint, capsys):
    not_yet(check_propose, propose, hint, capsys)


def test_figure_of_a_search_is_told(capsys):
    assert check_propose(one_label)
    said = capsys.readouterr().out
    prices = [len(set(trail(one_label, goal)[0])) for goal in search_goals()]
    assert f'it needs {np.median(prices):.4g} different states' in said and '240.5' in said and np.median(prices) < 80
    assert not check_propose(lambda asked, values, nvec: np.unravel_index(479 - len(asked), nvec))
    prices = [480 - np.ravel_multi_index(goal, NVEC) for goal in search_goals()]
    assert f'it needs {np.median(prices):.4g} different states' in capsys.readouterr().out


def test_searches_are_given_copies():
    "Who clears or extends the lists only harms the copy."
    def clears(asked, values, nvec):
        state = one_label(asked, values, nvec)
        asked.clear()
        values.append(9.)
        return state
    assert all(trail(clears, goal) == trail(one_label, goal) for goal in search_goals(5))
    assert proposed(lambda *x: np.array([1, 19, 2, 3], np.int8), [], []) == (1, 19, 2, 3)


def test_landscapes_are_those_of_the_reward():
    goals = search_goals()
    assert sorted(np.bincount([goal[1] for goal in goals], minlength=20).tolist()) == [2]*20
    worth = [multi_semantic(state, goals[0], 3) for state in np.ndindex(*NVEC)]
    assert max(worth) == 4 and worth.count(4) == 1 and min(worth) == -1


# Soft Q-learning: the value. Here l are logits.

def naive(l):
    return np.log(np.exp(l).sum())


def safe(l):
    return l.max() + np.log(np.exp(l - l.max()).sum())


@pytest.mark.parametrize(
    'value', [safe, logsumexp, soft_value, lambda l: np.logaddexp.reduce(l), lambda l: float(safe(l))]
)
def test_right_values_pass(value, capsys):
    assert check_value(value)
    assert 'it is the logsumexp' in capsys.readouterr().out


@pytest.mark.parametrize('value, hint', [
    (naive, 'Subtract the largest logit'),
    (np.max, 'always takes the best action'),
    (lambda l: np.log(np.exp(l - l.max()).sum()), 'must be added after'),
    (lambda l: safe(l) - np.log(len(l)), 'Do not divide'),
    (lambda l: np.log(np.exp(l).mean()), 'Do not divide'),
    (lambda l: np.nansum(softmax(l)*np.where(np.isfinite(l), l, 0)), 'entropy is missing'),
    (lambda l: l.max() + np.log2(np.exp(l - l.max()).sum()), 'natural logarithm'),
    (lambda l: l.max() + np.log10(np.exp(l - l.max()).sum()), 'natural logarithm'),
    (lambda l: -safe(l), 'not its negative'),
    (lambda l: np.exp(l).sum(), 'exponential, sum, logarithm'),
    (lambda l: l - l.max(), 'a number'),
    (lambda l: None, 'is there a return'),
    (lambda: 0., 'TypeError')])
def test_wrong_values_get_a_hint(value, hint, capsys):
    not_yet(check_value, value, hint, capsys)


@settings(deadline=None)
@given(arrays(float, array_shapes(max_dims=3, max_side=5), elements=st.floats(-1e4, 1e4)), st.floats(-1e3, 1e3))
def test_soft_value_is_logsumexp(logits, shift):
    value = soft_value(logits)
    assert value == pytest.approx(logsumexp(logits, axis=-1))
    assert (value >= logits.max(-1)).all() and (value <= logits.max(-1) + np.log(logits.shape[-1]) + 1e-9).all()
    assert soft_value(logits + shift) == pytest.approx(value + shift, abs=1e-6)


# The targets of v2. Here r is the reward and v the values of the target logits.

def of_values(targets):
    "Targets as a function of values and reward."
    return lambda l, r: targets(soft_value(l), r)


def subtracting(l, r):
    "Right, but writes into what it was given."
    l -= soft_value(l)[:, None]
    return v2_reference(l, r)


@pytest.mark.parametrize('targets', [v2_reference, lambda l, r: v2_reference(l, r).tolist(),
                                     lambda l, r: np.diff(np.append(logsumexp(l, axis=1), r))])
def test_right_targets_pass(targets, capsys):
    assert check_v2_targets(targets)


@pytest.mark.parametrize('targets, hint', [
    (of_values(lambda v, r: np.append(v[1:], r)), 'targets of v1'),
    (of_values(lambda v, r: np.append(np.diff(v), r)), 'has a value before it'),
    (of_values(lambda v, r: np.diff(np.append(v, 0))), 'takes the place of'),
    (of_values(lambda v, r: np.append(v[1:] + r, r) - v), 'once, at the end'),
    (of_values(lambda v, r: np.append(v[1:], 0) - v + r*(np.arange(len(v)) == 0)), 'not at the first step'),
    (of_values(lambda v, r: v - np.append(v[1:], r)), 'Look at the sign'),
    (lambda l, r: np.diff(np.append(l.max(1), r)), 'not the largest'),
    (lambda l, r: np.diff(np.append(l.mean(1), r)), 'not their mean'),
    (of_values(lambda v, r: r - v), 'targets of v3'),
    (of_values(lambda v, r: np.append(.99*v[1:], r) - v), 'no discount'),
    (of_values(lambda v, r: np.diff(np.append(v, r))[::-1]), 'Look at the order'),
    (of_values(lambda v, r: np.append(v[1:], r)*v), 'r in the place of'),
    (lambda l, r: r, 'a target for each step, of shape [2]'),
    (lambda l, r: l, 'a target for each step, of shape [2]'),
    (lambda l, r: ['a', 'b'], 'a target for each step'),
    (lambda l, r: [[1.], [2., 3.]], 'a target for each step'),
    (lambda l, r: None, 'is there a return'),
    (subtracting, 'it has changed the target logits')])
def test_wrong_targets_get_a_hint(targets, hint, capsys):
    not_yet(check_v2_targets, targets, hint, capsys)


def test_targets_of_v2_add_up_to_v3():
    for logits, reward in episodes():
        assert v2_reference(logits, reward).sum() == pytest.approx(reward - logsumexp(logits[0]))
    assert {len(logits) for logits, _ in episodes()} >= {1, 2, 6}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 5))
def test_optimum_meets_its_targets(seed, n, vocabulary):
    """Where logits are the optimal values of a tree of rewards, each advantage is its target,
    and the policy is softmax(rewards).
    """
    values = np.random.default_rng(seed).normal(0, 3, (vocabulary,)*n)
    sequence, logits = ((vocabulary - 1, 0)*n)[:n], []
    reward = values[sequence]
    while values.ndim:
        logits.insert(0, values[sequence[:values.ndim - 1]])
        values = soft_value(values)
    advantages = [l[a] - logsumexp(l) for l, a in zip(logits, sequence, strict=True)]
    assert v2_reference(np.array(logits), reward) == pytest.approx(advantages)
    assert sum(advantages) == pytest.approx(reward - values)


# Polyak averaging. Here t is the target network, o the online one and k the rate.

def each(rule):
    "Averaging, array by array."
    return lambda t, o, k: {name: rule(t[name], o[name], k) for name in t}


def moves(t, o, k):
    for name in t:
        t[name] += k*(o[name] - t[name])
    return t


def clears(t, o, k):
    answer = polyak_reference(t, o, k)
    t.clear()
    return answer


@pytest.mark.parametrize(
    'average',
    [
        polyak_reference,
        each(lambda t, o, k: t + k * (o - t)),
        each(lambda t, o, k: ((1 - k) * t + k * o).tolist()),
        clears,
    ],
)
def test_right_averages_pass(average, capsys):
    assert check_polyak(average)


@pytest.mark.parametrize('average, hint', [
    (each(lambda t, o, k: k*t + (1 - k)*o), 'nearly all'),
    (each(lambda t, o, k: t + k*o), 'grows for ever'),
    (each(lambda t, o, k: (1 - k)*t + o), 'counts with the rate'),
    (each(lambda t, o, k: t - k*(o - t)), 'Look at the sign'),
    (each(lambda t, o, k: k*(o - t)), 'This is the change'),
    (each(lambda t, o, k: o), 'copies the online network'),
    (each(lambda t, o, k: t), 'leaves the target'),
    (each(lambda t, o, k: (t + o)/2), 'half of the way'),
    (each(lambda t, o, k: t*o), 'array by array'),
    (each(lambda t, o, k: t.mean()), 'numbers for weight, of shape [1]'),
    (lambda t, o, k: {'weight': polyak_reference(t, o, k).get('weight')}, 'hidden.weight, hidden.bias'),
    (lambda t, o, k: list(polyak_reference(t, o, k).values()), 'a dictionary with the names'),
    (lambda t, o, k: None, 'is there a return'),
    (moves, 'it has changed the target network')])
def test_wrong_averages_get_a_hint(average, hint, capsys):
    not_yet(check_polyak, average, hint, capsys)


# Standardised rewards

def by_prompt(rule):
    "Standardised rewards, prompt by prompt, then shaped."
    def shaped(rewards, prompts, scale, shift):
        answer = np.zeros(len(rewards))
        for prompt in set(prompts.tolist()):
            answer[prompts == prompt] = rule(rewards[prompts == prompt])
        return scale*answer + shift
    return shaped


def over_all(rewards, prompts, scale, shift):
    return scale*(rewards - rewards.mean())/rewards.std() + shift


def unlike(change):
    "Shaped rewards with a change: function of standardised rewards, rewards, prompts, scale and shift."
    return lambda *x: change(shaped_reference(*x[:2], 1., 0.), *x)


def no_spread(rewards, prompts):
    return np.array([np.ptp(rewards[prompts == prompt]) == 0 for prompt in prompts])


@pytest.mark.parametrize('shape', [
    shaped_reference, lambda *x: shaped_reference(*x).tolist(),
    by_prompt(lambda r: (r - r.mean())/(r.std() + 1e-8)), by_prompt(lambda r: (r - r.mean())/max(r.std(), 1e-9)),
    by_prompt(lambda r: (r - r.mean())/(r.std() if r.std() > 1e-12 else 1))])
def test_right_shapings_of_rewards_pass(shape, capsys):
    assert check_shaped_rewards(shape)


@pytest.mark.parametrize(
    'shape, hint',
    [
        (by_prompt(lambda r: (r - r.mean()) / r.std()), '0 / 0'),
        (over_all, 'of its own prompt'),
        (by_prompt(lambda r: (r - r.mean()) / r.std(ddof=1)), 'ddof=0'),
        (by_prompt(lambda r: (r - r.mean()) / r.std(ddof=1) if np.ptp(r) else 0 * r), 'ddof=0'),
        (by_prompt(lambda r: r / r.std()), 'subtracted before'),
        (by_prompt(lambda r: r / r.std() if np.ptp(r) else 0 * r), 'subtracted before'),
        (by_prompt(lambda r: r - r.mean()), 'is divided by it'),
        (by_prompt(lambda r: (r - r.mean()) / r.std() if r.std() else 0 * r), '1.4e-17'),
        (
            lambda r, p, scale, shift: np.nan_to_num(by_prompt(lambda r: (r - r.mean()) / r.std())(r, p, scale, shift)),
            '*before* the shaping',
        ),
        (unlike(lambda z, r, p, scale, shift: np.where(no_spread(r, p), r, scale * z + shift)), '*before* the shaping'),
        (unlike(lambda z, r, p, scale, shift: z), 'undoes it'),
        (lambda r, p, scale, shift: shaped_reference(scale * r + shift, p, 1., 0.), 'undoes it'),
        (unlike(lambda z, r, p, scale, shift: scale * z), 'shift is missing'),
        (unlike(lambda z, r, p, scale, shift: z + shift), 'scale is missing'),
        (unlike(lambda z, r, p, scale, shift: scale * (z + shift)), 'multiplies the standardised reward alone'),
        (unlike(lambda z, r, p, scale, shift: shift - scale * z), 'above the mean is positive'),
        (lambda r, p, scale, shift: scale * r + shift, 'by themselves'),
        (
            lambda r, p, scale, shift: shaped_reference(r, p, scale, shift)[:-1],
            'a reward for each sample, of shape [4]',
        ),
        (lambda r, p, scale, shift: r.sort(), 'is there a return'),
        (
            lambda r, p, scale, shift: np.multiply(r, 2, out=r) + shaped_reference(r, p, scale, shift),
            'it has changed the rewards',
        ),
    ],
)
def test_wrong_shapings_of_rewards_get_a_hint(shape, hint, capsys):
    not_yet(check_shaped_rewards, shape, hint, capsys)


def test_reference_of_polyak_agrees_with_the_trainer():
    import torch

    from rlgen.agents.softq import polyak_update
    for target, online, rate in networks():
        nets = [
            torch.nn.ParameterList(torch.tensor(array) for array in network.values()) for network in (target, online)
        ]
        polyak_update(*nets, rate)
        for array, moved in zip(polyak_reference(target, online, rate).values(), nets[0], strict=True):
            assert array == pytest.approx(moved.detach().numpy())


def test_equal_blocks_are_told_from_prompts(capsys):
    def blocks(rewards, prompts, scale, shift):
        groups = np.arange(len(prompts))//max(1, len(prompts)//len(set(prompts.tolist())))
        return shaped_reference(rewards, groups, scale, shift)
    not_yet(check_shaped_rewards, blocks, 'side by side', capsys)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5).map(lambda x: round(x, 2)), st.integers(0, 2)), min_size=1, max_size=12),
    st.floats(.1, 20),
    st.floats(-3, 3),
)
def test_shaped_rewards_have_mean_shift_and_deviation_scale(samples, scale, shift):
    rewards, prompts = map(np.array, zip(*samples, strict=True))
    shaped = shaped_reference(rewards, prompts, scale, shift)
    for prompt in set(prompts.tolist()):
        group = shaped[prompts == prompt]
        assert group.mean() == pytest.approx(shift, abs=1e-6)
        assert group.std() == pytest.approx(scale*(np.ptp(rewards[prompts == prompt]) > 0), rel=1e-6, abs=1e-9)


def test_rewards_hold_the_edge_cases():
    cases = steps_of_rewards()
    assert any(
        no_spread(rewards, prompts).any() and rewards[no_spread(rewards, prompts)].std()
        for rewards, prompts, *_ in cases
    )
    assert all(not no_spread(rewards, prompts).any() for rewards, prompts, *_ in cases[:-2])


FIXTURE = {  # one case of the reference trainer: two episodes of two tokens, a vocabulary of five
    'logits': [
        [
            [-0.22993287444114685, 1.0796445608139038, -2.346050500869751, 0.21458320319652557, 3.138068199157715],
            [1.566560983657837, -0.5004274845123291, 0.15910020470619202, 1.2138214111328125, 1.833898901939392],
        ],
        [
            [2.2811713218688965, -0.10092978179454803, 2.993767261505127, 1.3775413036346436, 7.3091912269592285],
            [-0.44042453169822693, 1.4553420543670654, 0.6157031059265137, 1.015284538269043, 4.058261871337891],
        ],
    ],
    'target_logits': [
        [
            [0.11120063066482544, -0.20305676758289337, 1.2870991230010986, -2.6043577194213867, 1.8591063022613525],
            [5.729093551635742, -4.734190940856934, 1.5213901996612549, 0.6090369820594788, -0.6132683157920837],
        ],
        [
            [-1.2364137172698975, 2.0621261596679688, 1.8715355396270752, 3.4308338165283203, -0.3643101751804352],
            [1.8791974782943726, -5.862278938293457, -3.6648974418640137, -0.9912548661231995, -1.2729047536849976],
        ],
    ],
    'actions': [[4, 2], [2, 0]],
    'rewards': [-10.962634086608887, 1.0616533756256104],
    'loss': 115.29118707302435,
}


def test_references_give_the_loss_of_the_reference_trainer():
    "v2 from value and targets of these exercises."
    losses = []
    for logits, target, actions, reward in zip(
        *(FIXTURE[key] for key in ('logits', 'target_logits', 'actions', 'rewards')), strict=True
    ):
        advantages = np.array(logits)[[0, 1], actions] - soft_value(logits)
        losses.append(((advantages - v2_reference(target, reward))**2).sum())
    assert np.mean(losses) == pytest.approx(FIXTURE['loss'], abs=1e-9)


# Support sets: the mean entropy. Here p are probabilities.

def entropies(p):
    return -(p*np.log(np.where(p > 0, p, 1))).sum(1)


def bare(p):
    return -(p*np.log(p)).sum(1)


def filled(p):
    "Right, but writes into what it was given."
    p[p == 0] = 1e-300
    return bare(p).mean()


@pytest.mark.parametrize(
    'entropy',
    [
        entropy_reference,
        lambda p: entropies(p).mean(),
        lambda p: entr(p).sum(1).mean(),
        lambda p: -np.nansum(p * np.log(p)) / len(p),
        lambda p: float(-(p * np.log(p + 1e-8)).sum(1).mean()),
        lambda p: bare(np.clip(p, 1e-12, 1)).mean(),
        lambda p: sum(-x * math.log(x) for x in p.ravel() if x) / len(p),
        lambda p: np.array(entropies(p).mean()),
    ],
)
def test_right_entropies_pass(entropy, capsys):
    assert check_entropy(entropy)
    assert 'it is the mean entropy' in capsys.readouterr().out


@pytest.mark.parametrize('entropy, hint', [
    (lambda p: bare(p).mean(), '0 log 0 counts as 0'),
    (lambda p: -(p*np.log(p)).sum()/len(p), '0 log 0 counts as 0'),
    (lambda p: bare(p)[np.isfinite(bare(p))].mean() if np.isfinite(bare(p)).any() else np.nan, 'and they count'),
    (lambda p: np.nan_to_num(bare(p)).mean(), 'and they count'),
    (lambda p: entropies(p).mean()/np.log(2), 'natural logarithm'),
    (lambda p: -(p*np.log10(np.where(p > 0, p, 1))).sum(1).mean(), 'natural logarithm'),
    (lambda p: -entropies(p).mean(), 'Look at the sign'),
    (lambda p: entropies(p).sum(), 'Divide by their number'),
    (lambda p: -(p*np.log(np.where(p > 0, p, 1))).mean(), 'Over the classes of each it is a sum'),
    (lambda p: entr(p).sum(0).mean(), 'Look at the axis'),
    (lambda p: entr(p.mean(0)).sum(), 'entropy of the mean answer'),
    (lambda p: -np.log(p).sum(1).mean(), 'weighted with its probability'),
    (lambda p: -np.log(p).mean(), 'weighted with its probability'),
    (lambda p: -np.log(p.max(1)).mean(), 'greatest probability'),
    (lambda p: entropies(p).mean()/np.log(p.shape[1]), 'share of the greatest'),
    (lambda p: entropies(softmax(p, 1)).mean(), 'no softmax'),
    (lambda p: 1 - (p**2).sum(1).mean(), "Gini's"),
    (lambda p: p.max(), 'minus the sum of p log p'),
    (entropies, 'a number, the mean over the images'),
    (lambda p: 'much', "not 'much'"),
    (lambda p: None, 'is there a return'),
    (lambda: 0., 'TypeError'),
    (filled, 'it has changed the probabilities')])
def test_wrong_entropies_get_a_hint(entropy, hint, capsys):
    not_yet(check_entropy, entropy, hint, capsys)


@settings(deadline=None)
@given(arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(0, 1)))
def test_mean_entropy_is_within_bounds(weights):
    p = (weights + np.eye(*weights.shape) + (weights.sum(1, keepdims=True) == 0))
    p /= p.sum(1, keepdims=True)
    assert entropy_reference(p) == pytest.approx(entr(p).sum(1).mean(), abs=1e-12)
    assert (
        -1e-12
        <= entropy_reference(p)
        <= entropy_reference(p.mean(0, keepdims=True)) + 1e-9
        <= np.log(p.shape[1]) + 2e-9
    )


# The rewards of a run. Here a and e are accuracies and entropies, a0 and e0 those of the pretrained classifier.

def changes(a, e, a0, e0):
    return np.diff(a, prepend=a0), np.diff(e, prepend=e0)


def paid_by(rule):
    "Rewards as a function of both changes."
    return lambda *run: rule(*changes(*run))


def zeroed(reward):
    def first_is_nothing(*run):
        rewards = reward(*run)
        rewards[0] = 0
        return rewards
    return first_is_nothing


def one_by_one(a, e, a0, e0):
    rewards = []
    for accuracy, entropy in zip(a, e, strict=True):
        rewards.append(accuracy - a0 - (entropy - e0))
        a0, e0 = accuracy, entropy
    return rewards


def shifts(a, e, a0, e0):
    rewards = support_reward_reference(a, e, a0, e0)
    e[:] = e - e0
    return rewards


@pytest.mark.parametrize('reward', [support_reward_reference, one_by_one, paid_by(lambda da, de: (da - de).tolist())])
def test_right_rewards_of_a_run_pass(reward, capsys):
    assert check_support_reward(reward)


@pytest.mark.parametrize('reward, hint', [
    (paid_by(lambda da, de: da + de), 'sign of the entropy'),
    (paid_by(lambda da, de: de - da), 'Look at the order'),
    (lambda a, e, a0, e0: a - a0 - (e - e0), 'only the first against the pretrained'),
    (lambda a, e, a0, e0: np.diff(a, prepend=a0) - (e - e0), 'only the first against the pretrained'),
    (lambda a, e, a0, e0: a - a0 - np.diff(e, prepend=e0), 'only the first against the pretrained'),
    (paid_by(lambda da, de: da), 'entropy is missing'),
    (paid_by(lambda da, de: -de), 'accuracy is missing'),
    (zeroed(support_reward_reference), 'it has a reward, too'),
    (lambda a, e, a0, e0: np.diff(a, prepend=0) - np.diff(e, prepend=0), 'not against 0'),
    (lambda a, e, a0, e0: a - np.roll(a, 1) - (e - np.roll(e, 1)), 'np.roll'),
    (lambda a, e, a0, e0: [a[t] - a[t - 1] - (e[t] - e[t - 1]) for t in range(len(a))], 'index -1'),
    (lambda a, e, a0, e0: a - e, 'These are levels'),
    (lambda a, e, a0, e0: np.diff(a, prepend=a0) - e, 'Look at the entropy: its change'),
    (lambda a, e, a0, e0: a - np.diff(e, prepend=e0), 'Look at the accuracy: its change'),
    (lambda *run: np.append(support_reward_reference(*run)[1:], 0), 'one place too early'),
    (lambda a, e, a0, e0: np.append(np.zeros(len(a) - 1), a[-1] - a0 - e[-1] + e0), 'the sum at the last step'),
    (paid_by(lambda da, de: da*de), 'step by step'),
    (lambda a, e, a0, e0: np.diff(a) - np.diff(e), 'a reward for each step, also the first, of shape [2]'),
    (lambda *run: support_reward_reference(*run).sum(), 'of shape [2]'),
    (lambda *run: ['a', 'b'], 'a reward for each step'),
    (lambda *run: None, 'is there a return'),
    (shifts, 'it has changed the entropies')])
def test_wrong_rewards_of_a_run_get_a_hint(reward, hint, capsys):
    not_yet(check_support_reward, reward, hint, capsys)


def test_rewards_of_a_run_telescope():
    for a, e, a0, e0 in run_cases():
        assert support_reward_reference(a, e, a0, e0).sum() == pytest.approx(a[-1] - a0 - (e[-1] - e0))
    assert {len(a) for a, *_ in run_cases()} >= {1, 2, 8}


def test_reference_of_rewards_agrees_with_the_environment():
    from rlgen.envs.support import Addition, SupportSet
    from rlgen.models.classifier import Evaluation

    class Written:
        "A task whose evaluations are written down."
        classes, domains, per_step, max_images, unique_generator_calls = ('dog', 'cat'), ('photo',), 1, 100, 0
        def __init__(self, a, e, a0, e0):
            self.stands = [Evaluation(*x, np.zeros(2), y, 0., 1) for x, y in zip(zip(a, strict=True), e, strict=True)]
            self.pretrained = Evaluation(a0, np.zeros(2), e0, 0., 1)

        def prompt(self, action):
            return 'a photo of a dog, dog, and dog'

        def generate(self, action, n_existing, n):
            return Addition(self.prompt(action), tuple(action), (0,), np.zeros((1, 8, 8, 3), np.uint8))

        def evaluated(self, additions):
            return Evaluation(
                self.stands[len(additions) - 1].accuracy, np.zeros(2), self.stands[len(additions) - 1].entropy, 0., 1
            )

    for case in run_cases():
        env = SupportSet(Written(*case))
        env.reset(seed=0)
        assert [env.step([0, 0, 0, 0])[1] for _ in case[0]] == pytest.approx(support_reward_reference(*case))


# Advantages. Here r are rewards, v values and after the value behind the last step, ended flags,
# g the discount and k lambda.

def backwards(r, v, after, ended, g, k, through=(False, False), first=0., fade=None, seen=None):
    """Advantages by a loop; through: whether the value and the advantage get past an end; seen:
    discount of the next value.
    """
    answer, following, next_value = np.zeros(len(r)), first, after
    for t in range(len(r))[::-1]:
        error = r[t] + (g if seen is None else seen)*next_value*(through[0] or not ended[t]) - v[t]
        following = answer[t] = error + (g*k if fade is None else fade)*following*(through[1] or not ended[t])
        next_value = v[t]
    return answer


def through(*which):
    return lambda *x: backwards(*x, through=which)


def with_flags(change):
    "Advantages with other flags."
    return lambda r, v, after, ended, g, k: backwards(r, v, after, change(ended), g, k)


def forwards(r, v, after, ended, g, k):
    "The recursion from the start to the end."
    errors = backwards(r, v, after, ended, g, 0)
    for t in range(1, len(r)):
        errors[t] += g*k*errors[t - 1]*(not ended[t - 1])
    return errors


def as_it_goes(r, v, after, ended, g, k):
    "A loop from the start that reads advantages which are not there yet."
    answer = np.zeros(len(r) + 1)
    for t in range(len(r)):
        answer[t] = backwards(r, v, after, ended, g, 0)[t] + g*k*answer[t + 1]
    return answer[:-1]


def discounted(r, ended, g, last=0.):
    "Sums of rewards."
    return backwards(r, 0*r, 0., ended, g, 1, first=last)


def summed(r, v, after, ended, g, k):
    "Advantages as sums of all later errors, each with the power of its distance."
    errors = r + g*np.append(v[1:], after)*(1 - ended) - v
    return [sum((g*k)**(u - t)*errors[u] for u in range(t, len(r)) if not ended[t:u].any()) for t in range(len(r))]


def in_the_rewards(r, v, after, ended, g, k):
    answer = gae_reference(r, v, after, ended, g, k)
    r -= v
    return answer


@pytest.mark.parametrize('advantages', [gae_reference, backwards, summed, lambda *x: backwards(*x).tolist()])
def test_right_advantages_pass(advantages, capsys):
    assert check_gae(advantages)
    assert 'ends of episodes included' in capsys.readouterr().out


@pytest.mark.parametrize(
    'advantages, hint',
    [
        (through(True, True), 'neither the next value nor the next advantage'),
        (through(False, True), 'The recursion begins anew'),
        (through(True, False), 'the next value counts as 0'),
        (with_flags(lambda ended: np.append(ended[1:], False)), '*has ended* its episode'),
        (with_flags(lambda ended: np.append(False, ended[:-1])), '*has ended* its episode'),
        (with_flags(lambda ended: ~ended), 'False where it goes on'),
        (lambda r, v, after, ended, g, k: backwards(r, v, after, ended, g, 1), 'Lambda is missing'),
        (lambda r, v, after, ended, g, k: backwards(r, v, after, ended, g, 0), 'errors of single steps'),
        (as_it_goes, 'must run from the end'),
        (lambda r, v, after, ended, g, k: backwards(r, v, after, ended, g, k, fade=k), 'it stands twice'),
        (lambda r, v, after, ended, g, k: backwards(r, v, after, ended, g, k, seen=1), 'it stands twice'),
        (lambda r, v, after, ended, g, k: backwards(r, v, after, ended, 1, k), 'it stands twice'),
        (lambda r, v, after, ended, g, k: backwards(r, v, after, ended, g, k, seen=g * k), 'not the next value'),
        (lambda r, v, after, ended, g, k: backwards(r, v, 0, ended, g, k), 'last_value, not 0'),
        (lambda r, v, after, ended, g, k: backwards(r, v, v[-1], ended, g, k), 'not once more'),
        (
            lambda r, v, after, ended, g, k: backwards(r + g * v * ~ended, v, 0, ended, g, k, seen=0),
            'the value *after* it',
        ),
        (
            lambda r, v, after, ended, g, k: backwards(np.append(r[1:], 0), v, after, ended, g, k),
            'the reward of step t',
        ),
        (
            lambda r, v, after, ended, g, k: backwards(r + v, v, after, ended, g, k),
            'value of the state before the step is missing',
        ),
        (lambda r, v, *x: gae_reference(r, v, *x) + v, 'These are returns'),
        (lambda r, v, after, ended, g, k: discounted(r, ended, g), 'discounted sums of rewards. An advantage'),
        (lambda r, v, after, ended, g, k: discounted(r, ended, g, after), 'discounted sums of rewards. An advantage'),
        (lambda r, v, after, ended, g, k: discounted(r, ended, g) - v, 'minus the values'),
        (lambda *x: backwards(*x, first=x[2]), 'start of the recursion'),
        (lambda *x: -gae_reference(*x), 'Look at the sign'),
        (lambda *x: gae_reference(*x)[::-1], 'Look at the order'),
        (forwards, 'Look at the direction'),
        (lambda *x: gae_reference(*x) ** 2, 'error of the step + discount'),
        (lambda *x: gae_reference(*x)[0], 'an advantage for each step, of shape [3]'),
        (lambda *x: np.append(gae_reference(*x), 0), 'an advantage for each step, of shape [3]'),
        (lambda *x: ['a', 'b', 'c'], 'an advantage for each step'),
        (lambda *x: None, 'is there a return'),
        (lambda r, v: r, 'TypeError'),
        (in_the_rewards, 'it has changed the rewards'),
    ],
)
def test_wrong_advantages_get_a_hint(advantages, hint, capsys):
    not_yet(check_gae, advantages, hint, capsys)


def test_steps_hold_the_edge_cases():
    ends = [ended for _, _, _, ended, *_ in step_cases()]
    assert not any(ended.any() for ended in ends[:6]) and all(ended.any() for ended in ends[6:])
    assert (
        any(ended[-1] for ended in ends)
        and any(ended.any() and not ended[-1] for ended in ends)
        and any(ended[0] for ended in ends)
    )
    assert {len(ended) for ended in ends} >= {1, 3, 8} and {lam for *_, lam in step_cases()} >= {0., 1.}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.booleans()), min_size=1, max_size=10),
    st.floats(-5, 5),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_advantages_are_sums_of_errors(steps, after, discount, lam):
    rewards, values, ended = (np.array(x) for x in zip(*steps, strict=True))
    assert (
        gae_reference(rewards, values, after, ended, discount, lam)
        == pytest.approx(summed(rewards, values, after, ended, discount, lam), abs=1e-9)
    )
    assert (
        gae_reference(rewards, values, after, ended, discount, 1) + values
        == pytest.approx(discounted(rewards, ended, discount, after), abs=1e-9)
    )


# The clipped objective. Here n and o are new and old log-probabilities, a advantages and eps epsilon.

def of_ratio(rule):
    "An objective as a function of ratio, advantages, and both bounds."
    return lambda n, o, a, eps: rule(np.exp(n - o), a, 1 - eps, 1 + eps)


def lesser(r, a, low, high):
    return np.minimum(r*a, np.clip(r, low, high)*a)


def standardising(n, o, a, eps):
    return clipped_reference(n, o, (a - a.mean())/(a.std() + 1e-8), eps)


def in_place_of_the_old(n, o, a, eps):
    answer = clipped_reference(n, o, a, eps)
    np.exp(n - o, out=o)
    return answer


@pytest.mark.parametrize('objective', [
    clipped_reference, of_ratio(lambda *x: lesser(*x).mean()), of_ratio(lambda *x: float(lesser(*x).mean())),
    of_ratio(lambda r, a, low, high: np.where(a > 0, np.minimum(r, high), np.maximum(r, low))@a/len(a))])
def test_right_objectives_pass(objective, capsys):
    assert check_clipped_objective(objective)


@pytest.mark.parametrize(
    'objective, hint',
    [
        (lambda n, o, a, eps: lesser(np.exp(n) / np.exp(o), a, 1 - eps, 1 + eps).mean(), 'very small probabilities'),
        (of_ratio(lambda r, a, low, high: (np.clip(r, low, high) * a).mean()), 'The minimum is missing'),
        (of_ratio(lambda r, a, low, high: (r * a).mean()), 'The clip is missing'),
        (of_ratio(lambda r, a, low, high: np.maximum(r * a, np.clip(r, low, high) * a).mean()), 'this is the maximum'),
        (of_ratio(lambda r, a, low, high: np.clip(r * a, low, high).mean()), 'for the ratio alone'),
        (of_ratio(lambda r, a, low, high: np.minimum(r * a, np.clip(r * a, low, high)).mean()), 'for the ratio alone'),
        (lambda n, o, a, eps: clipped_reference(o, n, a, eps), 'upside down'),
        (lambda n, o, a, eps: lesser(n - o, a, 1 - eps, 1 + eps).mean(), 'not exponentiated'),
        (lambda n, o, a, eps: lesser(n / o, a, 1 - eps, 1 + eps).mean(), 'not a quotient of logarithms'),
        (
            lambda n, o, a, eps: np.minimum(np.exp(n - o) * a, np.exp(np.clip(n - o, 1 - eps, 1 + eps)) * a).mean(),
            'this clips their difference',
        ),
        (lambda n, o, a, eps: clipped_reference(n, 0 * o, a, eps), 'old policy is missing'),
        (
            of_ratio(lambda r, a, low, high: np.minimum(r * a, np.clip(r, low - 1, high - 1) * a).mean()),
            'they are 1 - epsilon and 1 + epsilon',
        ),
        (of_ratio(lambda r, a, low, high: lesser(r, a, 0, high).mean()), 'Look at the lower bound'),
        (of_ratio(lambda r, a, low, high: lesser(r, a, low, np.inf).mean()), 'Look at the upper bound'),
        (of_ratio(lambda r, a, low, high: (np.minimum(r, np.clip(r, low, high)) * a).mean()), 'it is of two products'),
        (
            of_ratio(lambda r, a, low, high: min((r * a).mean(), (np.clip(r, low, high) * a).mean())),
            'for each action, before the mean',
        ),
        (lambda *x: -clipped_reference(*x), 'Its negative is a loss'),
        (of_ratio(lambda *x: lesser(*x).sum()), 'the sum over the actions'),
        (lambda n, o, a, eps: clipped_reference(n, o, a - a.mean(), eps), 'does not standardise'),
        (standardising, 'does not standardise'),
        (of_ratio(lambda r, a, low, high: r.mean()), 'ratio, two products'),
        (of_ratio(lesser), 'a number, the mean over the actions'),
        (lambda *x: 'one', "not 'one'"),
        (lambda *x: None, 'is there a return'),
        (lambda n, o: 0., 'TypeError'),
        (in_place_of_the_old, 'it has changed the old log-probabilities'),
    ],
)
def test_wrong_objectives_get_a_hint(objective, hint, capsys):
    not_yet(check_clipped_objective, objective, hint, capsys)


def test_batches_hold_every_side_of_the_clip():
    sides = {
        (sign, side)
        for n, o, a, eps in batch_cases()[:-1]
        for sign, side in zip(np.sign(a), np.digitize(np.exp(n - o), [1 - eps, 1 + eps]), strict=True)
    }
    assert sides >= {(sign, side) for sign in (-1, 1) for side in (0, 1, 2)}
    assert (np.exp(batch_cases()[-1][1]) == 0).any() and all((np.exp(o) > 0).all() for _, o, *_ in batch_cases()[:-1])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-8, -.1), st.floats(-8, -.1), st.floats(-5, 5)), min_size=1, max_size=8),
    st.floats(.01, .9),
)
def test_clipped_objective_is_a_lower_bound(actions, epsilon):
    new, old, advantages = (np.array(x) for x in zip(*actions, strict=True))
    objective = clipped_reference(new, old, advantages, epsilon)
    assert objective <= (np.exp(new - old)*advantages).mean() + 1e-9
    assert clipped_reference(old, old, advantages, epsilon) == pytest.approx(advantages.mean(), abs=1e-9)
    assert clipped_reference(new, old, advantages, 1e9) == pytest.approx((np.exp(new - old)*advantages).mean())


def test_answers_hold_the_edge_cases():
    assert all((p > 0).all() for p in answer_cases()[:6]) and all((p == 0).any() for p in answer_cases()[6:])
    assert all(p.sum(1) == pytest.approx(1) for p in answer_cases()) and {len(p) for p in answer_cases()} >= {1, 6}


# What all checks share

def test_errors_become_a_sentence(capsys):
    def late():
        yield from ()
        raise KeyError('noun')
    assert not report_check(late(), '')
    assert "KeyError: 'noun'" in capsys.readouterr().out
    assert report_check(iter(()), lambda: 'done.')
    assert capsys.readouterr().out == 'Right: done.\n'


@pytest.mark.parametrize('notebook, count, allowed', [('rldf/solutions/06_tabular.ipynb', 2, []),
                                                      ('rldf/solutions/05_grid.ipynb', 1, []),
                                                      ('preference/solutions/04_soft_q.ipynb', 4, ['torch']),
                                                      ('support/solutions/04_ppo.ipynb', 2, ['torch'])])
def test_checks_load_no_model(notebook, count, allowed):
    """All solutions in a fresh process: without torch, but for soft Q-learning and support sets,
    and even there without a model.
    """
    code = f'''
import ast, json, sys
import numpy as np
from rlgen import exercises
right = []
for cell in json.load(open({str(ROOT/'nbs'/notebook)!r}))["cells"]:
    text = "".join(cell["source"])
    if cell["cell_type"] == "code" and text.lstrip().startswith("def my_"):
        exec(text)
        name = ast.parse(text).body[0].name
        right.append(getattr(exercises, name.replace("my_", "check_"))(globals()[name]))
heavy = [name for name in ("torch", "diffusers", "transformers", "open_clip", "matplotlib") if name in sys.modules]
print(json.dumps([right, heavy]))
'''
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    right, heavy = json.loads(result.stdout.splitlines()[-1])
    assert right == [True]*count and heavy == allowed
