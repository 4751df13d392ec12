"""The start track: typical mistakes get the hint that fits them, and the reader can play.
"""
import json
from pathlib import Path

import numpy as np
import pytest
from refusals import not_yet
from test_plots import captions
from test_walkthroughs import Drawn

from rlgen.envs.grid import SemanticGrid, World
from rlgen.exercises.start import (
    check_clean,
    check_guided,
    check_images,
    check_leave_one_out,
    check_log_gradient,
    check_matched,
    check_move,
    check_noised,
    check_q_by_hand,
    check_return,
    check_running_mean,
    check_sweep,
    check_td_target,
    check_threshold,
)
from rlgen.rewards.semantic import MultiSemantic
from rlgen.widgets.play import PlayPanel, trail_figure

def in_place(values, next_states, rewards, terminated, discount):
    values = values.copy()
    for s in range(len(values)):
        values[s] = (rewards[s] + discount * values[next_states[s]] * ~terminated[s]).max()
    return values


def changes_its_argument(values, next_states, rewards, terminated, discount):
    values[:] = (rewards + discount * values[next_states] * ~terminated).max(1)
    return values


def target(reward, q_next, ended, discount):
    return reward + discount * max(q_next) * (not ended)


def wrapped(encoding, action, sizes):
    after = list(encoding)
    after[action // 2] = (after[action // 2] + 1 - 2 * (action % 2)) % sizes[action // 2]
    return after


def softmax(values):
    return np.exp(values) / np.exp(values).sum()


def one(theta, action):
    return np.eye(len(theta))[action]


MISTAKES = [
    (check_move, wrapped, 'come in again at the other end'),
    (check_move, lambda encoding, action, sizes: encoding, 'Action // 2 is the axis'),
    (check_running_mean, lambda mean, n, reward: mean + (reward - mean) / max(n, 1), 'number n + 1'),
    (check_running_mean, lambda mean, n, reward: (mean + reward) / 2, 'stands for n rewards'),
    (check_running_mean, lambda mean, n, reward: reward, 'reward alone'),
    (check_return, lambda rewards, discount: sum(discount ** (t + 1) * r for t, r in enumerate(rewards)),
     'first reward is not discounted'),
    (check_return, lambda rewards, discount: sum(rewards), 'without a discount'),
    (check_return, lambda rewards, discount: sum(discount ** t * r for t, r in enumerate(rewards[::-1])), 'the order'),
    (check_return, lambda rewards, discount: rewards.pop(), 'changed the list'),
    (check_sweep, in_place, 'already changed'),
    (check_sweep, changes_its_argument, 'changed the array'),
    (check_sweep, lambda v, s, r, end, discount: (r + discount * v[s]).max(1), 'Nothing follows'),
    (check_sweep, lambda v, s, r, end, discount: (r + discount * v[s] * ~end).mean(1), 'maximum over the actions'),
    (check_sweep, lambda v, s, r, end, discount: r, 'of shape [6]'),
    (check_td_target, lambda r, q, terminated, truncated, discount: target(r, q, terminated or truncated, discount),
     'Truncation is not termination'),
    (check_td_target, lambda r, q, terminated, truncated, discount: target(r, q, False, discount), 'nothing follows'),
    (check_td_target, lambda r, q, terminated, truncated, discount: target(r, q, truncated, discount),
     'Only truncation'),
    (check_td_target, lambda r, q, terminated, truncated, discount: target(r, q, terminated, 1.), 'discounted'),
    (check_images, lambda states: [t + 1 for t in range(len(states))], 'These are steps'),
    (check_images, lambda states: [len(set(states[:t + 1])) - 1 for t in range(len(states))], 'first state'),
    (check_threshold, lambda beside, goal: beside / goal, 'one minus it'),
    (check_noised, lambda x, noise, share: share * x + (1 - share) * noise, 'without their square roots'),
    (check_noised, lambda x, noise, share: share ** .5 * x + (1 - share) * noise, 'noise has the weight'),
    (check_noised, lambda x, noise, share: (1 - share) ** .5 * x + share ** .5 * noise, "each other's weight"),
    (check_noised, lambda x, noise, share: share ** .5 * x + (1 - share ** .5) * noise, 'not 1 minus the root'),
    (check_noised, lambda x, noise, share: x + noise, 'Root of alpha_bar times image'),
    (check_clean, lambda x, v, share: share ** .5 * x + (1 - share) ** .5 * v, 'the sign in front of v'),
    (check_clean, lambda x, v, share: (1 - share) ** .5 * x + share ** .5 * v, 'That is the noise'),
    (check_clean, lambda x, v, share: (x - (1 - share) ** .5 * v) / share ** .5, 'takes v for the noise'),
    (check_guided, lambda u, c, w: c + w * (c - u), 'start from the unconditional'),
    (check_guided, lambda u, c, w: c + w * (u - c), 'changed places'),
    (check_guided, lambda u, c, w: u + w * (u - c), 'Look at the sign'),
    (check_guided, lambda u, c, w: w * c, 'only makes the conditional prediction larger'),
    (check_matched, lambda image, texts, scale: softmax(texts @ image), 'logit scale is missing'),
    (check_matched, lambda image, texts, scale: softmax(texts @ image / scale), 'do not divide'),
    (check_matched, lambda image, texts, scale: scale * texts @ image, 'not probabilities yet'),
    (check_matched, lambda image, texts, scale: np.exp(scale * texts @ image), 'divided by their sum'),
    (check_log_gradient, one, 'subtract the probability of each'),
    (check_log_gradient, lambda theta, a: softmax(theta) - one(theta, a), 'the sign'),
    (check_log_gradient, lambda theta, a: softmax(theta)[a] * (one(theta, a) - softmax(theta)), 'its logarithm'),
    (check_log_gradient, lambda theta, a: 1 - softmax(theta), 'only the chosen action has the 1'),
    (check_leave_one_out, lambda rewards: rewards - rewards.mean(), 'contains its own sample'),
    (check_leave_one_out, lambda rewards: rewards - (rewards.sum() - rewards) / len(rewards), 'N - 1 others'),
    (check_leave_one_out, lambda rewards: (rewards.sum() - rewards) / (len(rewards) - 1), 'That is the baseline'),
]


@pytest.mark.parametrize('check, answer, hint', MISTAKES)
def test_the_mistake_is_named(check, answer, hint, capsys):
    not_yet(check, answer, hint, capsys)


RIGHT = [-3.525, -3.075, -1.5]


@pytest.mark.parametrize('q_after, td_error, hint', [
    ([None] * 3, None, 'not written yet'),
    ([-3.7, *RIGHT[1:]], 1., 'row 4 is -3.7. That is the target'),
    ([-3.6825, *RIGHT[1:]], 1., 'still have -3'),
    ([RIGHT[0], -3.525, RIGHT[2]], 1., 'has the value -2 now'),
    ([*RIGHT[:2], -2.85], 1., 'Nothing comes after the goal'),
    ([*RIGHT[:2], -2.5], 1., 'row 6 is -2.5. Look at the sign'),
    ([*RIGHT[:2], .1], 1., 'step size times'),
    (RIGHT, -1., 'the TD error is -1'),
    (RIGHT[:2], 1., 'three values and a TD error'),
])
def test_values_worked_out_by_hand(q_after, td_error, hint, capsys):
    assert not check_q_by_hand(q_after, td_error)
    assert hint in capsys.readouterr().out


def test_the_values_of_the_table_are_those_of_q_learning():
    Q = np.full((4, 4), -3.)
    for _ in range(2):
        for s in range(3):
            target = -1. if s == 2 else -1 + .9 * Q[s + 1].max()
            error = target - Q[s, 0]
            Q[s, 0] += .5 * error
    assert check_q_by_hand(Q[:3, 0].tolist(), error)


# ---- the self-test ----

NBS = Path(__file__).resolve().parents[1] / 'nbs'


def code(page):
    cells = json.loads((NBS / page).read_text(encoding='utf-8'))['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']


# ---- the reader as the agent ----

@pytest.fixture
def env():
    from rlgen.grammar import Grammar
    drawn = Drawn()
    world = World(Grammar.scenes(), drawn, drawn)
    goal = drawn.generate(['a photo of one dog and many people in playground'], [0])[0]
    return SemanticGrid(world, goal, MultiSemantic(drawn, world.grammar), max_steps=6)


def test_a_button_is_a_step(env):
    panel = PlayPanel(env, show_goal=True, seed=0)
    assert panel.image.value and 'Choose an action. 0 steps, 1 images generated' in panel.message.value
    assert [b.description for b in panel.buttons[:3]] == ['Frequency +', 'Frequency −', 'Noun +']
    before = np.array(env.position)
    for action, change in ((2, 1), (3, -1)):
        panel.buttons[action].click()
        assert env.position[1] - before[1] == change
        before = np.array(env.position)
    assert len(panel.states) == 3 and len(panel.rewards) == 2
    assert '2 steps, 2 images generated' in panel.message.value  # going back is free


def test_the_game_ends_at_the_goal_and_after_too_many_steps(env):
    panel = PlayPanel(env, seed=0)
    env.reset(options={'state': (0, 6, 2, 2)})
    panel.buttons[2].click()
    assert 'The goal!' in panel.message.value and all(button.disabled for button in panel.buttons)
    assert panel.rewards == [4.]
    other = PlayPanel(env, seed=0)
    for _ in range(6):
        other.buttons[0].click()
    assert 'Too many steps.' in other.message.value and other.buttons[0].disabled


def test_the_figure_shows_the_last_images(env):
    env.reset(seed=0)
    figure = trail_figure(env, [env.state] * 9, [1.] * 8, show_goal=True, last=4)
    titles = [' '.join(word for word, _ in words) for words in captions(figure)]
    assert titles[0] == 'goal' and len(titles) == 5 and all(title.startswith('reward 1:') for title in titles[1:])
