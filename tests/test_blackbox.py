"""The choosing agents: never the same twice, exact resumption,
known medians on a world without pictures, and what they refuse.
"""
import itertools
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings, strategies as st
from refusals import refused

from rlgen.agents.base import Step, episode_seed
from rlgen.agents.blackbox import (
    BlackBox,
    CoordinateBandit,
    Enumeration,
    Evolution,
    RandomSearch,
    best_sums,
    label_posterior,
    one_hot,
)

AGENTS = RandomSearch, Enumeration, Evolution, CoordinateBandit


class Agreement(gym.Env):
    """The reward counts the labels that agree with the goal's, the scene by +1 or -1;
    a part of the arms pays what another one should.
    """

    def __init__(self, goal=(1, 3, 0), nvec=(2, 5, 3), scene=2, wrong=0.0, seed=0, start=0, length=10**9, stop=False):
        self.action_space = self.observation_space = MultiDiscrete(nvec, start=np.full(len(nvec), start))
        self.goal, self.start, self.length, self.stop, self.resets = np.array(goal), start, length, stop, []
        self.values = (
            sum(np.ix_(*(
                (np.arange(n) == g) * (1.0 + (i == scene)) for i, (n, g) in enumerate(zip(nvec, goal, strict=True))
            ))) - 1.0
        )
        rng = np.random.default_rng(seed)
        bad = rng.random(self.values.shape) < wrong
        self.values[bad] = rng.choice(self.values.ravel(), bad.sum())

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets, self.clock = self.resets + [seed], 0
        return self.goal * 0 + self.start, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.clock += 1
        there = tuple(action - self.start)
        return (
            action,
            self.values[there],
            self.stop and there == tuple(self.goal),
            self.clock >= self.length,
            {"clock": self.clock},
        )


def make(Agent, env, **settings):
    return Agent(env.observation_space, env.action_space, **settings)


def asked(agent, env, steps):
    "The encodings that the next `steps` steps ask for."
    seen = []
    agent.learn(env, steps, callback=lambda step: seen.append(tuple((step.action - env.action_space.start).tolist())))
    return seen


def found(Agent, env, seed=0, **settings):
    "Choices until the goal is asked for."
    env.stop, agent = True, make(Agent, env, seed=seed, **settings)
    return agent.learn(env, agent.n_encodings, callback=lambda step: step.terminated).steps


def memory(agent):
    "All that an agent holds, in comparable form."
    arrays, note = agent.state_dict()
    return {name: array.tolist() for name, array in arrays.items()}, note


# ---- the contract of all of them ----

@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("Agent", AGENTS)
def test_every_encoding_is_asked_once_and_then_the_best(Agent, start):
    env = Agreement(start=start)
    agent = make(Agent, env, seed=1)
    seen = asked(agent, env, 33)
    assert sorted(seen[:30]) == list(np.ndindex(2, 5, 3))
    assert seen[30:] == [(1, 3, 0)] * 3 and agent.steps == 33 and len(agent.memory) == 30
    np.testing.assert_array_equal(agent.act(), env.goal + start)


@pytest.mark.parametrize("Agent", AGENTS)
@pytest.mark.parametrize("nvec", [(1,), (1, 1), (7,), (1, 4, 1), (2, 2, 2, 2)])
def test_odd_sizes(Agent, nvec):
    env = Agreement(goal=[n - 1 for n in nvec], nvec=nvec, scene=0)
    assert len(set(asked(make(Agent, env, seed=0), env, math.prod(nvec)))) == math.prod(nvec)


@pytest.mark.parametrize("Agent", AGENTS)
def test_equal_rewards_are_no_trouble(Agent):
    env = Agreement()
    env.values[:] = 0.3
    assert len(set(asked(make(Agent, env, seed=0), env, 30))) == 30


@pytest.mark.parametrize("Agent", AGENTS)
def test_two_runs_with_one_seed_are_equal(Agent):
    one, two, other = (Agreement(wrong=0.2) for _ in range(3))
    two.reset(seed=99)  # what the environment did before does not matter
    a, b, c = (make(Agent, env, seed=seed).learn(env, 20) for env, seed in ((one, 5), (two, 5), (other, 6)))
    assert memory(a) == memory(b)
    if Agent is not Enumeration:
        assert list(a.memory) != list(c.memory)


def test_without_a_seed_runs_differ():
    env = Agreement()
    a, b = make(RandomSearch, env), make(RandomSearch, env)
    assert a.seed != b.seed and asked(a, env, 20) != asked(b, env, 20)


@pytest.mark.parametrize("Agent", AGENTS)
def test_rewards_have_no_unit(Agent):
    "The scale and the origin of the rewards do not change what is asked for."
    env, other = Agreement(wrong=0.2), Agreement(wrong=0.2)
    other.values = 1024 * other.values - 4096  # powers of two: no rounding
    assert asked(make(Agent, env, seed=3), env, 20) == asked(make(Agent, other, seed=3), other, 20)


@pytest.mark.parametrize("Agent", AGENTS)
def test_stopped_anywhere_and_gone_on_with(Agent, tmp_path):
    fresh = lambda: Agreement(wrong=0.2, length=4)
    env = fresh()
    unbroken = make(Agent, env, seed=3).learn(env, 28)
    for stop in range(28):
        env = fresh()
        first = make(Agent, env, seed=3).learn(env, stop)
        first.save(tmp_path / "agent")
        env = fresh()
        second = Agent.load(tmp_path / "agent").learn(env, 28 - stop)
        assert list(second.memory.items()) == list(unbroken.memory.items()), stop
        assert second.steps == 28 and second.rng.bit_generator.state == unbroken.rng.bit_generator.state
        if stop % 4 == 0:
            assert memory(second) == memory(unbroken)  # at the end of an episode, also the records


@pytest.mark.parametrize("Agent", AGENTS)
def test_many_calls_equal_one(Agent):
    one, many = Agreement(length=7), Agreement(length=7)
    a, b = make(Agent, one, seed=0).learn(one, 25), make(Agent, many, seed=0)
    for steps in (0, 1, 2, 3, 19):
        b.learn(many, steps)
    assert memory(a) == memory(b) and one.resets == many.resets


@pytest.mark.parametrize("Agent", AGENTS)
def test_asking_the_agent_changes_nothing(Agent):
    env, other = Agreement(), Agreement()
    watched, alone = make(Agent, env, seed=0), make(Agent, other, seed=0)
    first = watched.act(greedy=False)
    np.testing.assert_array_equal(watched.act(), first)  # nothing seen yet
    for _ in range(10):
        coming = tuple(watched.act(env.goal, greedy=False).tolist())
        assert asked(watched, env, 1) == [coming]
        assert env.values[tuple(watched.act())] == max(watched.memory.values())
    assert memory(watched) == memory(alone.learn(other, 10))


def test_the_best_is_the_first_of_equals():
    env = Agreement()
    agent = make(Enumeration, env).learn(env, 4)
    assert list(agent.memory.values()) == [1, -1, -1, 1]
    np.testing.assert_array_equal(agent.act(), [0, 0, 0])


# ---- the loop ----

def test_the_callback_sees_each_step_and_stops():
    env, seen = Agreement(start=2), []
    agent = make(RandomSearch, env, seed=0)
    assert agent.learn(env, 30, callback=lambda step: seen.append(step) or step.step == 7) is agent
    assert agent.steps == 7 and [step.step for step in seen] == list(range(1, 8))
    assert all(
        isinstance(step, Step) and env.action_space.contains(step.action) and step.td_error == 0 for step in seen
    )
    assert [step.info["clock"] for step in seen] == list(range(1, 8))
    assert [step.reward for step in seen] == list(agent.memory.values())
    for before, after in itertools.pairwise(seen):
        np.testing.assert_array_equal(before.next_observation, after.observation)


def test_episodes_are_counted_and_seeded():
    env = Agreement(length=4)
    agent = make(Enumeration, env, seed=9).learn(env, 10)
    rewards = list(agent.memory.values())
    assert agent.returns == [sum(rewards[:4]), sum(rewards[4:8])] and agent.lengths == [4, 4]
    assert env.resets == [episode_seed(9, i) for i in range(3)]


def test_another_environment_starts_a_new_episode_and_keeps_the_memory():
    env, other = Agreement(length=5), Agreement(length=5)
    agent = make(Enumeration, env, seed=0).learn(env, 3).learn(other, 5)
    assert agent.lengths == [5] and agent.steps == 8 == len(agent.memory)
    assert other.resets == env.resets


def test_progress_bar(capsys):
    env = Agreement(length=5)
    make(CoordinateBandit, env, seed=0).learn(env, 20, progress=True)
    assert "20/20" in (shown := capsys.readouterr().err) and "best" in shown


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_an_error_and_never_remembered(reward):
    env = Agreement()
    env.values[0, 0, 2] = reward
    agent = make(Enumeration, env, seed=0)
    refused(lambda: agent.learn(env, 10), "Step 3", "finite")
    assert agent.steps == 2 and list(agent.memory) == [(0, 0, 0), (0, 0, 1)]


@pytest.mark.parametrize("rewards", [[1.], [1.] * 3, [1., None], [1., 1j], [1., np.nan], [1., 1e308], None, ["1", "2"]])
def test_wrong_rewards_get_no_posterior(rewards):
    refused(lambda: label_posterior(np.zeros((2, 2), int), rewards, np.array([2, 3]), .1), "label_posterior", "finite")
    agent = RandomSearch(Discrete(1), MultiDiscrete([2, 3]), seed=0)
    refused(lambda: agent.learn_from(0, np.zeros(2, int), rewards, True, 0), "learn_from gave", "finite")
    assert not agent.memory


def test_an_interrupted_step_gives_the_episode_up_and_keeps_the_memory():
    class Interrupted(Agreement):
        def step(self, action):
            if len(self.resets) == 1 and self.clock == 3: raise KeyboardInterrupt
            return super().step(action)

    env = Interrupted(length=5)
    agent = make(Enumeration, env, seed=0)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(env, 10)
    assert agent.steps == 3 and agent.returns == []
    assert agent.learn(env, 5).lengths == [5] and list(agent.memory) == list(np.ndindex(2, 5, 3))[:8]


# ---- the agents ----

def test_enumeration_is_row_major():
    env = Agreement()
    assert asked(make(Enumeration, env), env, 30) == list(np.ndindex(2, 5, 3))


def test_random_search_is_even():
    env = Agreement()
    # when a given arm comes: any number from 1 to 30
    last = np.array([found(RandomSearch, env, seed) for seed in range(600)])
    counts = np.bincount((last - 1) // 5, minlength=6)
    assert (((counts - 100) ** 2) / 100).sum() < 20.5  # chi squared, 5 degrees of freedom, one in a thousand


def test_evolution_mixes_and_changes_labels():
    env = Agreement(goal=(0,) * 6, nvec=(9,) * 6)
    agent = make(Evolution, env, parents=2, seed=0)
    agent.memory = {(0,) * 6: 5.0, (1,) * 6: 4.0, (8,) * 6: -1.0}
    children = np.array([agent.propose() for _ in range(2000)])
    # half of each parent, one label in six changed
    assert np.mean(children == 0) == pytest.approx(0.5 * 5 / 6, abs=0.03) == np.mean(children == 1)
    others = np.bincount(children[children > 1], minlength=9)[2:]
    assert others.min() > 0.7 * others.max()


@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_evolution_beats_random_search(wrong):
    goals = np.random.default_rng(0).integers((2, 20, 3, 4), size=(40, 4))
    worlds = [dict(goal=goal, nvec=(2, 20, 3, 4), scene=3, wrong=wrong, seed=i) for i, goal in enumerate(goals)]
    means = [
        np.mean([found(Agent, Agreement(**world), seed) for seed, world in enumerate(worlds)])
        for Agent in (Evolution, RandomSearch)
    ]
    assert means[0] < 0.6 * means[1]


@pytest.mark.parametrize(
    "nvec, scene, wrong, limit",
    [
        ((2, 20, 3, 4), 3, 0.0, 18),
        ((2, 20, 3, 4), 3, 0.1, 22),
        ((2, 20, 3, 3, 4, 3), 4, 0.0, 22),
        ((2, 20, 3, 3, 4, 3), 4, 0.1, 30),
    ],
)
def test_coordinate_bandit_needs_few_choices(nvec, scene, wrong, limit):
    goals = np.random.default_rng(0).integers(nvec, size=(40, len(nvec)))
    steps = [
        found(CoordinateBandit, Agreement(goal, nvec, scene, wrong, seed=i), seed=i) for i, goal in enumerate(goals)
    ]
    assert np.median(steps) <= limit
    assert np.quantile(steps, 0.9) <= 3 * limit


def test_coordinate_bandit_on_a_reward_that_is_not_quite_a_sum():
    steps = []
    for seed, goal in enumerate(np.random.default_rng(0).integers((2, 20, 3, 4), size=(40, 4))):
        env, rng = Agreement(goal, (2, 20, 3, 4), 3), np.random.default_rng(seed)
        labels_of = zip((2, 20, 3, 4), np.indices((2, 20, 3, 4)), strict=True)
        pictures = sum(rng.normal(size=(n, 32))[labels] for n, labels in labels_of)
        pictures += 0.4 * rng.normal(size=pictures.shape)
        pictures /= np.linalg.norm(pictures, axis=-1, keepdims=True)
        env.values = pictures @ pictures[tuple(goal)]
        steps.append(found(CoordinateBandit, env, seed))
    assert np.median(steps) <= 22


def test_coordinate_bandit_tries_new_labels_on_all_axes_at_once():
    env, fresh = Agreement(nvec=(20, 20, 20), goal=(0, 0, 0)), []
    for seed in range(20):
        seen = np.array(asked(make(CoordinateBandit, env, seed=seed), env, 5))
        fresh.append([len(set(axis)) for axis in seen.T])
    assert np.mean(fresh) > 3.5  # of 5 choices


def test_coordinate_bandit_first_choice_is_even():
    env = Agreement()
    counts = np.bincount(
        [asked(make(CoordinateBandit, env, seed=seed), env, 1)[0][1] for seed in range(500)], minlength=5
    )
    assert (((counts - 100) ** 2) / 100).sum() < 18.5  # chi squared, 4 degrees of freedom, one in a thousand


def test_a_space_that_nobody_can_write_down():
    nvec = (50,) * 12
    env = Agreement.__new__(Agreement)
    env.action_space = env.observation_space = MultiDiscrete(nvec)
    env.reset = lambda *, seed=None, options=None: (np.zeros(12, np.int64), {})
    env.step = lambda action: (action, float(-np.abs(action - 7).sum()), False, False, {})
    for Agent in (RandomSearch, Enumeration, Evolution, CoordinateBandit):
        agent = make(Agent, env, seed=0).learn(env, 20)
        assert len(agent.memory) == 20


# ---- the pieces ----

def test_one_hot_by_hand():
    np.testing.assert_array_equal(
        one_hot(np.array([[0, 2], [1, 0]]), np.array([2, 3])), [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]
    )


def test_normal_posterior_is_the_closed_form():
    rng, nvec = np.random.default_rng(0), np.array([2, 4, 3])
    encodings, rewards = rng.integers(nvec, size=(9, 3)), rng.normal(size=9)
    mean, covariance = label_posterior(encodings, rewards, nvec, noise=0.3, rounds=0)
    A, y = one_hot(encodings, nvec), (rewards - rewards.mean()) / rewards.std()
    kernel = A @ A.T / 3 + 0.09 * np.eye(9)  # the same in the space of pictures: they share labels
    np.testing.assert_allclose(mean, A.T @ np.linalg.solve(kernel, y) / 3, atol=1e-10)
    np.testing.assert_allclose(covariance, (np.eye(9) - A.T @ np.linalg.solve(kernel, A) / 3) / 3, atol=1e-10)


def test_heavy_tails_leave_one_wrong_picture_aside():
    nvec, every = np.array([3, 4, 3]), np.array(list(np.ndindex(3, 4, 3)))
    rewards = (every == [1, 2, 0]).sum(1).astype(float)
    wrong = rewards.copy()
    wrong[17] = 40.0
    truth, heavy, normal = (
        np.concatenate(
            [w - w.mean() for w in np.split(label_posterior(every, y, nvec, 0.15, rounds)[0] * y.std(), [3, 7])]
        )
        for y, rounds in ((rewards, 5), (wrong, 50), (wrong, 0))
    )
    assert np.abs(heavy - truth).max() < 0.35 < 2 < np.abs(normal - truth).max()


def test_posterior_of_nothing_and_of_one():
    mean, covariance = label_posterior(np.zeros((0, 2), int), [], np.array([2, 3]), 0.1)
    np.testing.assert_array_equal(mean, np.zeros(5))
    np.testing.assert_allclose(covariance, np.eye(5) / 2)
    mean, covariance = label_posterior(np.array([[1, 2]]), [5.0], np.array([2, 3]), 0.1)
    np.testing.assert_array_equal(mean, np.zeros(5))  # one picture, nothing to compare it with
    assert covariance[1, 1] < covariance[0, 0] == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=5), min_size=1, max_size=4), st.integers(1, 40))
def test_best_sums_are_the_best_sums(scores, count):
    scores = [np.array(axis, float) for axis in scores]
    rows = best_sums(scores, count)
    every = np.sort(sum(np.ix_(*scores)).ravel())[::-1]
    assert len(rows) == min(count, len(every)) == len(set(map(tuple, rows.tolist())))
    sums = [sum(axis[label] for axis, label in zip(scores, row, strict=True)) for row in rows]
    np.testing.assert_array_equal(sums, every[:count])


# ---- what goes wrong ----

def test_constructor_refusals():
    ok = MultiDiscrete([2, 3]), MultiDiscrete([2, 3])
    for space in (Discrete(6), Box(0, 1, (2,)), MultiBinary(3), MultiDiscrete([[2, 3], [3, 4]]), None):
        for Agent in AGENTS:
            refused(lambda: Agent(ok[0], space), "must be MultiDiscrete")
    for seed in (-1, 0.5, "0"):
        refused(lambda: RandomSearch(*ok, seed=seed), "seed")
    for parents in (1, 0):
        refused(lambda: Evolution(*ok, parents=parents), "parents", "at least 2")
    for name in ("exploration", "noise"):
        for value in (0, -1, math.nan, math.inf):
            refused(lambda: CoordinateBandit(*ok, **{name: value}), name, "above 0")


def test_learn_refusals():
    env = Agreement()
    agent = make(RandomSearch, env, seed=0)
    for steps in (-1, 1.5, "10", None):
        refused(lambda: agent.learn(env, steps), "steps", "whole number")
    refused(lambda: agent.learn(Agreement(nvec=(2, 5, 4)), 10), "MultiDiscrete([2 5 4])")
    assert agent.steps == 0
    refused(lambda: make(BlackBox, env).learn(env, 1), "RandomSearch", kind=NotImplementedError)


def test_restore_and_load_refusals(tmp_path):
    env, path = Agreement(), tmp_path / "agent.safetensors"
    agent = make(Evolution, env, seed=0).learn(env, 5)
    agent.save(path)
    refused(lambda: Evolution.load(tmp_path / "none"), "no saved agent", kind=FileNotFoundError)
    refused(lambda: RandomSearch.load(path), "'Evolution'", "'RandomSearch'")
    refused(lambda: Evolution.load(path, action_space=MultiDiscrete((2, 5, 4))), "action_space")
    refused(lambda: Evolution.load(path, action_space=Agreement(start=1).action_space), "action_space")
    before = memory(agent)
    path.write_bytes(path.read_bytes()[:50])
    refused(lambda: Evolution.load(path), str(path), "save the agent again")
    assert memory(agent) == before


def test_the_module_needs_no_model_library():
    code = (
        "import sys, rlgen.agents.blackbox; print([m for m in ('torch', 'diffusers', 'transformers', 'PIL', "
        "'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
