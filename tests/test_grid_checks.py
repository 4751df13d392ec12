"""The checks of the lessons from rendering to Algorithm 1: each typical mistake gets the hint that fits it."""
import numpy as np
import pytest
from refusals import not_yet
from scipy.special import softmax

from rlgen.envs.grid import move
from rlgen.exercises.grid import (
    check_confusion,
    check_greedy_path,
    check_next_state,
    check_pixel,
    check_probabilities,
    check_shaped_step,
)

def pixel(background, colour, alpha, twice=False):
    part = alpha / 255
    return [b * (1 - part) + c * part * (part if twice else 1) for b, c in zip(background, colour, strict=True)]


def shares(true, seen, n, axis=1):
    table = np.zeros((n, n))
    np.add.at(table, (true, seen), 1)
    return table / np.maximum(table.sum(axis, keepdims=True), 1)


def counts(true, seen, n):
    table = np.zeros((n, n))
    np.add.at(table, (true, seen), 1)
    return table


def shaped(before, after, best, discount, cost, bonus, terminated):
    return discount * (0 if terminated else after - best) - (before - best) - cost + bonus * terminated


def moved(state, action, nvec, order='C'):
    place = move(np.array(np.unravel_index(state, nvec, order)), action, np.array(nvec))
    return int(np.ravel_multi_index(place, nvec, order=order))


def stride(state, action, nvec):
    return state + int(np.prod(nvec[action // 2 + 1:])) * (1 - 2 * (action % 2))


def greedy(table, next_states, start, goal, limit, stop=True, choose=np.argmax):
    states = [start]
    for _ in range(limit):
        if stop and states[-1] == goal: break
        states.append(next_states[states[-1], choose(table[states[-1]])])
    return states


MISTAKES = [
    (check_pixel, lambda b, c, alpha: pixel(b, c, 255 * alpha), 'divide it by 255'),
    (check_pixel, lambda b, c, alpha: pixel(c, b, alpha), 'background keeps 1 - alpha'),
    (check_pixel, lambda b, c, alpha: pixel(b, c, alpha, twice=True), 'twice'),
    (check_pixel, lambda b, c, alpha: [x + y * alpha / 255 for x, y in zip(b, c, strict=True)], 'shines through only'),
    (check_pixel, lambda b, c, alpha: b, 'from 0 to 1'),
    (check_probabilities, lambda cosines, scale: softmax(cosines), 'logit scale is missing'),
    (check_probabilities, lambda cosines, scale: softmax(np.array(cosines) / scale), 'temperature'),
    (check_probabilities, lambda cosines, scale: scale * softmax(cosines), 'before the softmax'),
    (check_probabilities, lambda cosines, scale: np.exp(scale * np.array(cosines)), 'add up to 1'),
    (check_probabilities, lambda cosines, scale: softmax(-scale * np.array(cosines)), 'sign'),
    (check_probabilities, lambda cosines, scale: max(cosines), 'one probability for each caption'),
    (check_confusion, lambda true, seen, n: shares(true, seen, n).T, 'columns what is read'),
    (check_confusion, lambda true, seen, n: shares(seen, true, n), 'the other way round'),
    (check_confusion, counts, 'These are counts'),
    (check_confusion, lambda true, seen, n: counts(true, seen, n) / len(true), 'by its own sum'),
    (check_confusion, lambda true, seen, n: shares(true, seen, n, axis=0), 'not each column'),
    (check_shaped_step, lambda before, after, best, *rest: shaped(before, after, 0, *rest), 'subtract `best`'),
    (check_shaped_step, lambda a, b, best, *x: shaped(a, b, best, *x) + x[0] * (b - best) * x[3] + best * (x[0] - 1),
     'the best value down'),
    (check_shaped_step, lambda a, b, best, discount, *x: shaped(a, b, best, 1, *x), 'new potential is discounted'),
    (check_shaped_step, lambda a, b, best, g, cost, *x: shaped(a, b, best, g, 0, *x), 'Each step costs'),
    (check_shaped_step, lambda a, b, best, g, c, bonus, end: shaped(a, b, best, g, c, 0, end), 'bonus at the goal is'),
    (check_shaped_step, lambda a, b, best, g, c, bonus, end: shaped(a, b, best, g, c, 0, end) + bonus, 'Only a step'),
    (check_shaped_step, lambda *x: -shaped(*x[:4], 0, 0, x[6]) - x[4] + x[5] * x[6], 'Look at the sign'),
    (check_next_state, stride, 'leads to another row'),
    (check_next_state, lambda s, a, nvec: min(max(stride(s, a, nvec), 0), int(np.prod(nvec)) - 1), 'last state of all'),
    (check_next_state, lambda *x: moved(*x, order='F'), 'last axis changes fastest'),
    (check_next_state, lambda s, a, nvec: moved(s, a ^ 1, nvec), 'even actions go up'),
    (check_greedy_path, lambda *x: greedy(*x)[1:], 'start belongs'),
    (check_greedy_path, lambda *x: greedy(*x, stop=False), 'At the goal the path ends'),
    (check_greedy_path, lambda *x: [s for s in greedy(*x) if s != x[3]], 'goal belongs'),
    (check_greedy_path, lambda *x: greedy(*x)[:x[4]], 'one state more'),
    (check_greedy_path, lambda *x: greedy(*x[:4], x[4] + 1), 'one too many'),
    (check_greedy_path, lambda *x: greedy(*x, choose=np.argmin), 'not the worst'),
    (check_greedy_path, lambda *x: greedy(*x, choose=lambda q: len(q) - 1 - q[::-1].argmax()), 'take the first'),
    (check_greedy_path, lambda *x: None, 'is there a return'),
]


@pytest.mark.parametrize('check, answer, hint', MISTAKES)
def test_the_mistake_is_named(check, answer, hint, capsys):
    not_yet(check, answer, hint, capsys)


@pytest.mark.parametrize('check, answer', [
    (check_pixel, pixel), (check_probabilities, lambda cosines, scale: softmax(scale * np.array(cosines))),
    (check_confusion, shares), (check_shaped_step, shaped), (check_next_state, moved), (check_greedy_path, greedy),
])
def test_right_answers_pass(check, answer, capsys):
    assert check(answer)
    assert capsys.readouterr().out.startswith('Right: ')
