"""The noisy diffusion gradient: its differences against exact derivatives,
its successes and its two failures, and what it refuses.
"""
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete, MultiDiscrete
from hypothesis import given, strategies as st
from refusals import refused

from rlgen.agents.gradient import DiffusionGradient, climb, neighbours, slopes

class Table(gym.Env):
    "The reward of an encoding stands in a table; one episode without an end."

    def __init__(self, values, start=0):
        self.values, self.first = values, start
        self.observation_space = self.action_space = MultiDiscrete(values.shape, start=np.full(values.ndim, start))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(self.values.ndim, self.first), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return action, self.values[tuple(action - self.first)], False, False, {}


def squares(nvec, goal):
    return sum(np.ix_(*((np.arange(n) - g) ** 2.0 for n, g in zip(nvec, goal, strict=True))))

def bell(goal=(13, 6), nvec=(20, 20), width=5.0):
    return np.exp(-squares(nvec, goal) / (2 * width ** 2))

def agreement(goal, nvec):
    return sum(np.ix_(*((np.arange(n) == g) * 1.0 for n, g in zip(nvec, goal, strict=True))))

def make(env, **settings):
    return DiffusionGradient(env.observation_space, env.action_space, **settings)

def follow(env, steps, **settings):
    "An agent after `steps` steps, the encoding nearest to its point after each, and what it asked for."
    agent, path, asked = make(env, **settings), [], []
    agent.learn(
        env,
        steps,
        callback=lambda step: (path.append(agent.nearest()), asked.append(tuple((step.action - env.first).tolist())))[
            2:
        ],
    )
    return agent, path, asked

def memory(agent):
    arrays, note = agent.state_dict()
    return {name: array.tolist() for name, array in arrays.items()}, note


# ---- the pieces ----

@given(st.data())
def test_central_differences_of_a_quadratic_are_its_gradient(data):
    axes, radius = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    nvec = data.draw(st.lists(st.integers(2 * radius + 1, 20), min_size=axes, max_size=axes))
    place = tuple(data.draw(st.integers(radius, n - 1 - radius)) for n in nvec)  # both neighbours inside
    draw = lambda *shape: np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=shape)
    Q, b = draw(axes, axes), draw(axes)
    gradient = (Q + Q.T) @ place + b
    np.testing.assert_allclose(slopes(lambda e: np.array(e) @ Q @ e + b @ e, place, nvec, radius), gradient, atol=1e-8)


@given(st.data())
def test_differences_of_a_plane_are_exact_everywhere(data):
    nvec = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    place, weights = tuple(data.draw(st.integers(0, n - 1)) for n in nvec), np.arange(1.0, len(nvec) + 1)
    got = slopes(lambda e: weights @ e, place, nvec, data.draw(st.integers(1, 12)))
    np.testing.assert_allclose(got, weights * (np.array(nvec) > 1), atol=1e-12)  # an axis of one label has no slope


def test_neighbours_by_hand():
    assert neighbours((0, 3), [2, 5]) == [((0, 3), (1, 3)), ((0, 2), (0, 4))]
    assert neighbours((1, 3), [2, 5], radius=2) == [((0, 3), (1, 3)), ((1, 1), (1, 4))]


def test_climb_by_hand():
    point, velocity = climb(
        np.array([1.0, 4.0]), np.array([1.0, 0.0]), np.array([2.0, 8.0]), [10, 5], rate=0.5, momentum=0.5
    )
    np.testing.assert_allclose([point, velocity], [[2.5, 4.0], [1.5, 4.0]])  # kept in the box, the velocity as it is


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e308, None, 1j, "1", [1.]])
def test_a_wrong_reward_has_no_slope(bad):
    reward = lambda place: bad if place == (2, 1) else 0.
    refused(lambda: slopes(reward, (1, 1), np.array([3, 3])), "slopes gave", "finite")


# ---- where there is a slope ----

@pytest.mark.parametrize("rate", [0.5, 3.0, 10.0])
@pytest.mark.parametrize("start", [0, 4])
def test_reaches_the_top_of_a_smooth_landscape_and_stays(rate, start):
    env = Table(bell(), start)
    for seed in range(5):
        agent, path, asked = follow(env, 90, seed=seed, rate=rate)
        assert path[-1] == (13, 6) and (13, 6) in asked
        assert len(agent.memory) < 60  # of 400
        np.testing.assert_array_equal(agent.act(), np.array([13, 6]) + start)


def test_the_top_may_be_in_a_corner():
    for goal in ((0, 0), (19, 0), (19, 19)):
        agent, path, asked = follow(Table(bell(goal, width=9.0)), 120, start=(10, 9), rate=5.0)
        assert path[-1] == goal


def test_a_walk_by_hand():
    "One axis, slope 1 everywhere, rate 1: ask here, then below and above, move one up, and only one neighbour is new."
    env = Table(np.arange(7.0))
    agent, path, asked = follow(env, 8, start=(2,))
    assert asked == [(2,), (1,), (3,), (4,), (5,), (6,), (6,), (6,)]
    assert path == [(2,), (2,), (2,), (3,), (4,), (5,), (6,), (6,)] and agent.steps == 8 and len(agent.memory) == 6


def test_what_was_asked_before_costs_nothing():
    env = Table(bell())
    slow, quick = follow(env, 60, start=(2, 16), rate=2.0)[2], follow(env, 60, start=(2, 16), rate=4.0)[2]
    for asked in (slow, quick):
        # nothing twice before it is there
        assert len(set(asked[:asked.index((13, 6)) + 1])) == asked.index((13, 6)) + 1
    assert abs(len(set(slow)) - len(set(quick))) < 10


# ---- where there is none ----

@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_stays_on_a_plateau(momentum):
    env = Table(agreement((7,), (20,)))
    for start in (0, 4, 10, 15, 19):
        agent, path, asked = follow(env, 30, start=(start,), momentum=momentum, rate=10.0)
        assert set(path) == {(start,)} and len(agent.memory) <= 3
        assert asked[5:] == [(start,)] * 25  # it says where it stands
        assert agent.steps == 30


def test_the_right_neighbour_is_seen_within_the_radius_only():
    env = Table(agreement((7,), (20,)))
    for radius, start, end in ((1, 6, 7), (1, 5, 5), (3, 4, 5), (3, 3, 3)):  # from 4 to 5, and there it is out of sight
        assert follow(env, 30, start=(start,), radius=radius)[1][-1] == (end,), (radius, start)


def test_gets_stuck_on_the_multi_semantic_reward_nearly_always():
    nvec, reached = (2, 20, 3, 4), 0
    for seed, goal in enumerate(np.random.default_rng(0).integers(nvec, size=(40, 4))):
        reached += follow(Table(agreement(goal, nvec)), 40, seed=seed)[1][-1] == tuple(goal)
    assert reached < 8


# ---- after the goal ----

def test_momentum_overshoots():
    values = -squares((21,), (10,)) / 10
    light, heavy = (follow(Table(values), 40, start=(2,), rate=0.5, momentum=momentum)[1] for momentum in (0.0, 0.9))
    assert max(light) == (10,) == light[-1]
    assert max(heavy) > (12,)


def test_momentum_and_wrong_pictures_carry_it_away():
    far = {}
    for momentum in (0.0, 0.9):
        ends = []
        for seed in range(12):
            values, rng = bell(width=2.0), np.random.default_rng(seed)
            bad = rng.random(values.shape) < 0.1
            bad[13, 6] = False
            values[bad] = rng.choice(values.ravel(), bad.sum())
            path = follow(Table(values), 80, start=(11, 7), rate=5.0, momentum=momentum)[1]
            ends.append(np.abs(np.array(path[-20:]) - (13, 6)).sum(1).mean())
        far[momentum] = np.mean(ends)
    assert far[0.0] < 2 and far[0.9] > 2 * far[0.0] + 1


# ---- the contract ----

def test_two_runs_with_one_seed_are_equal():
    a, b, c = (follow(Table(bell()), 30, seed=seed)[0] for seed in (5, 5, 6))
    assert memory(a) == memory(b) and list(a.memory) != list(c.memory)


def test_first_points_are_spread_over_the_box():
    env = Table(bell())
    points = np.array([make(env, seed=seed).point for seed in range(300)])
    assert points.min() >= 0 and points.max() <= 19
    np.testing.assert_allclose(points.mean(0), 9.5, atol=4 * 19 / 12 ** 0.5 / 300 ** 0.5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_stopped_anywhere_and_gone_on_with(momentum, tmp_path):
    settings = dict(rate=5.0, momentum=momentum)
    unbroken = follow(Table(bell(width=2.0)), 25, seed=3, **settings)[0]
    for stop in range(25):
        follow(Table(bell(width=2.0)), stop, seed=3, **settings)[0].save(tmp_path / "agent")
        env = Table(bell(width=2.0))
        second = DiffusionGradient.load(tmp_path / "agent").learn(env, 25 - stop)
        assert memory(second) == memory(unbroken), stop


def test_asking_the_agent_changes_nothing():
    env = Table(bell())
    watched, alone = make(env, seed=0, rate=5.0), make(env, seed=0, rate=5.0)
    for _ in range(20):
        coming = watched.act(greedy=False)
        seen = []
        watched.learn(env, 1, callback=lambda step: seen.append(step.action))
        np.testing.assert_array_equal(seen[0], coming)
    assert memory(watched) == memory(alone.learn(env, 20))


def test_the_callback_stops():
    env = Table(bell())
    agent = make(env, seed=0)
    assert agent.learn(env, 50, callback=lambda step: step.step == 7) is agent and agent.steps == 7


def test_everything_asked():
    env = Table(np.arange(4.0).reshape(2, 2))
    agent, path, asked = follow(env, 10, start=(0, 0))
    assert sorted(set(asked)) == [(0, 0), (0, 1), (1, 0), (1, 1)] and asked[-1] == (1, 1)


def test_refusals():
    spaces = MultiDiscrete([2, 5]), MultiDiscrete([2, 5])
    refused(lambda: DiffusionGradient(spaces[0], Discrete(4)), "must be MultiDiscrete")
    for rate in (0, -1, math.nan):
        refused(lambda: DiffusionGradient(*spaces, rate=rate), "rate", "above 0")
    for momentum in (-0.1, 1, math.nan):
        refused(lambda: DiffusionGradient(*spaces, momentum=momentum), "momentum", "below 1")
    for radius in (0, -1):
        refused(lambda: DiffusionGradient(*spaces, radius=radius), "radius", "at least 1")
    for start in ((0, 5), (-1, 0), (0,), 1.0, (math.nan, 0)):
        refused(lambda: DiffusionGradient(*spaces, start=start), "start", "[1, 4]")


def test_the_module_needs_no_model_library():
    code = (
        "import sys, rlgen.agents.gradient; print([m for m in ('torch', 'diffusers', 'transformers', 'PIL', "
        "'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
