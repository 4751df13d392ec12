"""The tabular agents: their rules, known results on known problems, exact resumption, and what they refuse."""
import copy
import itertools
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.wrappers import TimeLimit
from refusals import refused

from rlgen.agents.base import Step, episode_seed
from rlgen.agents.tabular import (
    QLearning,
    RandomAgent,
    Sarsa,
    TableIndex,
    constant,
    epsilon_greedy,
    exponential,
    linear,
    q_learning_error,
    robbins_monro,
    sarsa_error,
)

AGENTS = QLearning, Sarsa, RandomAgent


class Grid(gym.Env):
    """Steps up or down each axis, random starts or the one in `options`,
    reward 1 and the end at the last corner, with noise if wanted.
    """

    def __init__(self, nvec=(3, 4), start=(5, -2), action_start=2, noise=0.0):
        self.observation_space = MultiDiscrete(nvec, start=start)
        self.action_space = Discrete(2 * len(nvec), start=action_start)
        self.nvec, self.low, self.noise = np.array(nvec), np.array(start), noise

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.integers(self.nvec)
        if (self.at == self.nvec - 1).all():
            self.at = 0 * self.nvec  # never in the goal
        if options:
            self.at = np.asarray(options["start"]) - self.low
        return self.at + self.low, {}

    def step(self, action):
        axis, down = divmod(int(action - self.action_space.start), 2)
        self.at = self.at.copy()
        self.at[axis] = np.clip(self.at[axis] + (-1 if down else 1), 0, self.nvec[axis] - 1)
        goal = bool((self.at == self.nvec - 1).all())
        return self.at + self.low, float(goal) + self.noise * self.np_random.normal(), goal, False, {"goal": goal}


class Walk(gym.Env):
    "The random walk of Sutton and Barto, Example 6.2: five states, an end on either side, reward 1 on the right."
    observation_space, action_space = Discrete(5), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 2
        return self.at, {}

    def step(self, action):
        self.at += 1 if action else -1
        return min(max(self.at, 0), 4), float(self.at == 5), self.at in (-1, 5), False, {}


class Treadmill(gym.Env):
    "One state, reward 1 for ever."
    observation_space, action_space = Discrete(1), Discrete(1)

    def __init__(self, rewards=1.0):
        self.rewards, self.count = rewards, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        self.count += 1
        return 0, self.rewards if np.isscalar(self.rewards) else self.rewards[self.count - 1], False, False, {}


def make(Agent, env, **settings):
    return Agent(env.observation_space, env.action_space, **settings)


def memory(agent):
    "All that an agent holds, in comparable form."
    arrays, note = agent.state_dict()
    return {name: array.tobytes() for name, array in arrays.items()}, note


# ---- the rules, by hand ----

@pytest.mark.parametrize("kind", [list, np.array])
def test_errors_by_hand(kind):
    before, after = kind([1.0, 2.0]), kind([3.0, 4.0])
    assert q_learning_error(before, 0, 0.5, 0.9, after) == pytest.approx(0.5 + 0.9 * 4 - 1)
    assert sarsa_error(before, 0, 0.5, 0.9, after, 0) == pytest.approx(0.5 + 0.9 * 3 - 1)
    assert q_learning_error(before, 1, 0.5, 0.0, after) == sarsa_error(before, 1, 0.5, 0.0, after, 1) == -1.5


def test_schedules_by_hand():
    assert [constant(0.3)(n) for n in (0, 10**9)] == [0.3, 0.3]
    assert [linear(1, 0.1, 100)(n) for n in (0, 50, 100, 999)] == pytest.approx([1, 0.55, 0.1, 0.1])
    assert [exponential(1, 0.1, 10)(n) for n in (0, 10, 20, 999)] == pytest.approx([1, 0.5, 0.25, 0.1])
    assert [robbins_monro()(n) for n in range(4)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert robbins_monro(0.5, 0.75)(15) == pytest.approx(0.5 / 8)


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: constant(1.1), "1.1"),
        (lambda: constant(math.nan), "nan"),
        (lambda: constant("fast"), "fast"),
        (lambda: constant(None), "None"),
        (lambda: linear(2, 0, 5), "start"),
        (lambda: linear(1, -1, 5), "end"),
        (lambda: linear(1, 0, 0), "steps"),
        (lambda: exponential(0.1, 0.5, 5), "floor"),
        (lambda: exponential(1, 0, 0), "half_life"),
        (lambda: robbins_monro(power=0.5), "above 0.5"),
        (lambda: robbins_monro(power=1.01), "at most 1"),
        (lambda: robbins_monro(power=math.nan), "power"),
        (lambda: robbins_monro(scale=0), "scale"),
        (lambda: robbins_monro(scale=2), "scale"),
    ],
)
def test_schedules_refuse(call, word):
    refused(call, word)


def test_robbins_monro_bounds_are_the_stated_ones():
    assert robbins_monro(power=1.0)(9) == 0.1
    assert robbins_monro(power=0.5 + 1e-9)(99) == pytest.approx(0.1)


def test_ties_are_broken_evenly():
    rng = np.random.default_rng(0)
    counts = np.bincount([epsilon_greedy([0.0, 7.0, 7.0, 7.0], 0.0, rng) for _ in range(3000)], minlength=4)
    assert counts[0] == 0
    assert (((counts[1:] - 1000) ** 2) / 1000).sum() < 13.8  # chi squared, 2 degrees of freedom, one in a thousand
    counts = np.bincount([epsilon_greedy([0.0, 7.0, 0.0, 0.0], 1.0, rng) for _ in range(4000)], minlength=4)
    assert (((counts - 1000) ** 2) / 1000).sum() < 16.3


# ---- observations and rows ----

@pytest.mark.parametrize("nvec, start", [((2, 20, 3, 4), (0, 0, 0, 0)), ((3, 5), (10, -2)), ((7,), (1,))])
def test_rows_are_row_major_and_inverse(nvec, start):
    index = TableIndex(MultiDiscrete(nvec, start=start))
    assert index.rows == np.prod(nvec)
    for row, place in enumerate(np.ndindex(*nvec)):
        observation = np.array(place) + start
        assert index.row(observation) == row == index.row(tuple(observation))
        np.testing.assert_array_equal(index.observation(row), observation)
        assert index.space.contains(index.observation(row))


def test_discrete_start_and_outside():
    index = TableIndex(Discrete(4, start=3))
    assert [index.row(o) for o in (3, np.int64(6))] == [0, 3] and index.observation(3) == 6
    for outside in (2, 7, -1, None, "3", 3.5):
        refused(lambda: index.row(outside), "not in the agent's observation space")
    grid = TableIndex(MultiDiscrete([3, 5], start=[10, -2]))
    for outside in ((9, 0), (13, 0), (10, 3), (10,), (10, 0, 0), (10.5, 0), None):
        refused(lambda: grid.row(outside), "not in the agent's observation space")


@pytest.mark.parametrize(
    "space", [Box(0, 1, (2,)), MultiBinary(3), MultiDiscrete([[2, 3], [3, 4]]), gym.spaces.Tuple([Discrete(2)]), None]
)
def test_other_observation_spaces_are_refused(space):
    refused(lambda: QLearning(space, Discrete(2)), "must be Discrete or MultiDiscrete")


# ---- known results ----

RECORD = {QLearning: (-49.2, 1.8), Sarsa: (-26.6, 2.2)}  # episodes 401-500, 30 runs: mean and uncertainty


@pytest.mark.parametrize("Agent", RECORD)
def test_cliff_walking(Agent):
    env, runs = gym.make("CliffWalking-v1"), []
    for seed in range(100, 112):
        agent = make(Agent, env, discount=1.0, step_size=0.5, epsilon=0.1, seed=seed)
        agent.learn(env, 10**9, callback=lambda step: len(agent.returns) == 500)
        runs.append(np.mean(agent.returns[400:]))
    mean, error = np.mean(runs), np.std(runs, ddof=1) / len(runs) ** 0.5
    record, uncertainty = RECORD[Agent]
    assert error < 3  # or the comparison below says nothing: the two agents differ by 23
    assert abs(mean - record) < 3 * math.hypot(error, uncertainty)


def test_cliff_greedy_walk_is_optimal():
    env = gym.make("CliffWalking-v1")
    agent = make(QLearning, env, discount=1.0, seed=0).learn(env, 20_000)
    observation, total, over = env.reset()[0], 0, False
    while not over and total > -100:
        observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
        total, over = total + reward, terminated or truncated
    assert over and total == -13
    assert agent.q_values(36).max() == pytest.approx(-13)


def lake_law(env):
    "Transitions [S, A, S] that do not end, expected rewards [S, A]."
    P = env.unwrapped.P
    move, pay = np.zeros((len(P), 4, len(P))), np.zeros((len(P), 4))
    for s, actions in P.items():
        for a, outcomes in actions.items():
            for p, after, r, terminated in outcomes:
                pay[s, a] += p * r
                if not terminated:
                    move[s, a, after] += p
    return move, pay


@pytest.mark.parametrize("Agent, epsilon", [(QLearning, 0.3), (Sarsa, 0.03)])
def test_frozen_lake_reaches_the_exact_optimum(Agent, epsilon):
    env, discount = gym.make("FrozenLake-v1"), 0.99
    agent = make(
        Agent, env, discount=discount, step_size=robbins_monro(power=0.65), epsilon=epsilon, initial_q=1.0, seed=1
    )
    agent.learn(env, 200_000)
    move, pay = lake_law(env)
    best = agent.table == agent.table.max(1, keepdims=True)
    policy = best / best.sum(1, keepdims=True)
    value = np.linalg.solve(np.eye(16) - discount * np.einsum("sa,sat->st", policy, move), (policy * pay).sum(1))
    assert value[0] >= 0.99 * 0.542026


def test_q_learning_finds_the_exact_table_of_a_deterministic_grid():
    env, discount = Grid(), 0.9
    agent = make(QLearning, env, discount=discount, step_size=1.0, epsilon=1.0, seed=0).learn(env, 5000)
    goal = env.nvec - 1
    for row in range(agent.index.rows - 1):
        here = agent.index.observation(row) - env.low
        for action in range(4):
            there, axis = here.copy(), action // 2
            there[axis] = np.clip(there[axis] + (-1 if action % 2 else 1), 0, goal[axis])
            assert agent.table[row, action] == pytest.approx(discount ** np.abs(goal - there).sum(), rel=1e-12)
    assert not agent.table[-1].any()  # the goal is never left, so its row is never written


def test_sarsa_evaluates_the_random_walk():
    env = Walk()
    agent = make(
        Sarsa, env, discount=1.0, step_size=robbins_monro(power=0.75), epsilon=1.0, initial_q=0.5, seed=0
    ).learn(env, 60_000)
    np.testing.assert_allclose(agent.table.mean(1), np.arange(1, 6) / 6, atol=0.03)
    greedy = make(QLearning, env, discount=1.0, step_size=0.5, epsilon=1.0, seed=0).learn(env, 5000)
    # the same actions, but the best that can follow
    np.testing.assert_allclose(greedy.table.max(1), np.ones(5), atol=1e-6)


@pytest.mark.parametrize("Agent", [QLearning, Sarsa])
def test_truncated_is_not_terminated(Agent):
    env = TimeLimit(Treadmill(), 5)
    agent = make(Agent, env, discount=0.9, seed=0).learn(env, 1000)
    assert agent.table[0, 0] == pytest.approx(10, abs=1e-9)
    assert agent.lengths == [5] * 200 and agent.returns == [5.0] * 200


def test_random_initial_values_of_the_terminal_state_do_not_matter():
    env = Grid()
    agent = make(QLearning, env, discount=0.9, step_size=1.0, epsilon=1.0, initial_q=(50.0, 100.0), seed=0).learn(
        env, 20_000
    )
    assert agent.table[-1].min() > 50
    assert agent.table[:-1].max() == pytest.approx(1.0)


def test_random_agent_walks_evenly_and_learns_nothing():
    env = Grid((5, 5), (0, 0), 0)
    agent = make(RandomAgent, env, seed=0).learn(env, 4000)
    assert not agent.table.any() and agent.visits.sum() == agent.steps == 4000
    counts = agent.visits.sum(0)
    assert (((counts - 1000) ** 2) / 1000).sum() < 16.3  # chi squared, 3 degrees of freedom, one in a thousand
    assert {agent.act(np.array([2, 2])) for _ in range(100)} == {0, 1, 2, 3}


# ---- chance ----

@pytest.mark.parametrize("Agent", AGENTS)
def test_two_runs_with_one_seed_are_equal(Agent):
    first, second, other = Grid(noise=1.0), Grid(noise=1.0), Grid(noise=1.0)
    second.reset(seed=99)  # what the environment did before does not matter
    a, b, c = (make(Agent, env, seed=seed).learn(env, 3000) for env, seed in ((first, 5), (second, 5), (other, 6)))
    assert memory(a) == memory(b) != memory(c)
    assert a.returns != c.returns


def test_without_a_seed_runs_differ():
    env = Grid(noise=1.0)
    a, b = make(QLearning, env).learn(env, 200), make(QLearning, env).learn(env, 200)
    assert a.seed != b.seed and (a.table != b.table).any()


def test_episode_seeds_do_not_repeat():
    assert len({episode_seed(run, episode) for run in range(50) for episode in range(100)}) == 5000


def test_watching_does_not_change_learning():
    env = Grid()
    watched, alone = make(Sarsa, env, seed=0), make(Sarsa, env, seed=0)
    for _ in range(20):
        watched.learn(env, 50)
        watched.q_values(env.low)[:] = 9.0
        watched.act(env.low), watched.act(env.low, greedy=False)
    alone.learn(Grid(), 1000)
    assert watched.table.tobytes() == alone.table.tobytes()


# ---- going on ----

@pytest.mark.parametrize("Agent", AGENTS)
def test_many_calls_equal_one(Agent):
    one, many = Grid(noise=1.0), Grid(noise=1.0)
    a, b = make(Agent, one, seed=0).learn(one, 1000), make(Agent, many, seed=0)
    for steps in (0, 1, 2, 3, 494, 500):
        b.learn(many, steps)
    assert memory(a) == memory(b)


@pytest.mark.parametrize("Agent", AGENTS)
def test_saved_at_the_end_of_an_episode_and_continued_in_a_fresh_environment(Agent, tmp_path):
    settings = (
        dict(seed=3)
        if Agent is RandomAgent
        else dict(seed=3, step_size=robbins_monro(power=0.7), epsilon=linear(1, 0.1, 2000), initial_q=(0.0, 1.0))
    )
    fresh = lambda: gym.make("FrozenLake-v1")
    unbroken = make(Agent, fresh(), **settings).learn(fresh(), 0)
    unbroken.learn(fresh(), 3000)
    first = make(Agent, fresh(), **settings)
    first.learn(fresh(), 3000, callback=lambda step: step.step > 1000 and (step.terminated or step.truncated))
    assert 1000 < first.steps < 3000 and first.observation is None
    first.save(tmp_path / "agent.safetensors")
    functions = {name: value for name, value in settings.items() if callable(value)}  # no file holds them
    second = Agent.load(tmp_path / "agent.safetensors", **functions)
    assert memory(second) == memory(first)
    assert memory(second.learn(fresh(), 3000 - first.steps)) == memory(unbroken)


@pytest.mark.parametrize("Agent", AGENTS)
def test_saved_anywhere_and_continued_where_the_environment_is_put_back(Agent, tmp_path):
    settings = dict(seed=3) if Agent is RandomAgent else dict(seed=3, epsilon=0.5)
    unbroken = make(Agent, Grid(), **settings).learn(Grid(), 0)
    unbroken.learn(Grid(), 60)
    for stop in range(60):
        first = make(Agent, Grid(), **settings).learn(Grid(), stop)
        first.save(tmp_path / "agent")
        second, env = Agent.load(tmp_path / "agent"), Grid()
        if second.observation is not None:
            env.reset(options={"start": second.observation})
            second.start_from(env, second.observation)
        assert memory(second.learn(env, 60 - stop)) == memory(unbroken), stop


@pytest.mark.parametrize("Agent", AGENTS)
def test_copied_in_the_middle_of_an_episode(Agent):
    env = gym.make("FrozenLake-v1")
    agent = make(Agent, env, seed=0).learn(env, 4)
    assert agent.observation is not None
    env_copy, agent_copy = copy.deepcopy((env, agent))
    agent.learn(env, 500)
    agent_copy.start_from(env_copy, agent_copy.observation).learn(env_copy, 500)
    assert memory(agent) == memory(agent_copy)


def test_another_environment_starts_a_new_episode():
    env = TimeLimit(Treadmill(), 5)
    agent = make(QLearning, env, seed=0).learn(env, 3)
    agent.learn(TimeLimit(Treadmill(), 5), 5)
    assert agent.lengths == [5] and agent.steps == 8


def test_learning_from_a_given_observation():
    env, seen = Grid(), []
    observation, _ = env.reset(options={"start": env.low})
    make(QLearning, env, seed=0).start_from(env, observation).learn(env, 3, callback=lambda step: seen.append(step))
    np.testing.assert_array_equal(seen[0].observation, env.low)
    for before, after in itertools.pairwise(seen):
        np.testing.assert_array_equal(before.next_observation, after.observation)


def test_the_callback_sees_each_step_and_stops():
    env, seen = Grid(), []
    agent = make(QLearning, env, step_size=1.0, seed=0)
    assert agent.learn(env, 100, callback=lambda step: seen.append(step) or step.step == 7) is agent
    assert agent.steps == 7 and [step.step for step in seen] == list(range(1, 8))
    assert all(
        isinstance(step, Step) and env.action_space.contains(step.action) and "goal" in step.info for step in seen
    )
    assert sum(step.td_error != 0 for step in seen) == (agent.table != 0).sum()


def test_schedules_see_the_counts_they_are_promised():
    env, visits, steps = Treadmill(), [], []
    make(
        QLearning, env, step_size=lambda n: visits.append(n) or 0.5, epsilon=lambda n: steps.append(n) or 0.1, seed=0
    ).learn(env, 4)
    assert visits == steps == [0, 1, 2, 3]
    steps.clear()
    make(Sarsa, env, epsilon=lambda n: steps.append(n) or 0.1, seed=0).learn(env, 3)
    assert steps == [0, 1, 2, 3]  # the last one draws the action that comes next


def test_progress_bar(capsys):
    env = TimeLimit(Treadmill(), 5)
    agent = make(QLearning, env, seed=0).learn(env, 20, progress=True)
    assert agent.steps == 20 and "20/20" in capsys.readouterr().err


# ---- what goes wrong ----

def test_constructor_refusals():
    ok = Discrete(3), Discrete(2)
    refused(lambda: Sarsa(Discrete(3), Box(0, 1, (1,))), "action space must be Discrete")
    refused(lambda: Sarsa(MultiDiscrete([1000] * 7), Discrete(2)), "100 million")
    for name in ("discount", "step_size", "epsilon"):
        for value in (-0.1, 1.1, math.nan, "0.5", None):
            refused(lambda: QLearning(*ok, **{name: value}), name)
    for value in (math.nan, math.inf, (1.0, 0.0)):
        refused(lambda: QLearning(*ok, initial_q=value), "initial_q")
    for value in (-1, 0.5, "0"):
        refused(lambda: QLearning(*ok, seed=value), "seed")


def test_learn_refusals():
    env = Grid()
    agent = make(QLearning, env, seed=0)
    for steps in (-1, 1.5, "10", None):
        refused(lambda: agent.learn(env, steps), "steps", "whole number")
    refused(lambda: agent.learn(gym.make("FrozenLake-v1"), 10), "Discrete(16)")
    refused(lambda: agent.start_from(env, (0, 0)), "not in the agent's observation space")
    assert agent.steps == 0


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("Agent", AGENTS)
def test_a_reward_that_is_no_number_is_an_error_and_never_in_the_table(Agent, reward):
    env = Treadmill([1.0, 1.0, reward])
    agent = make(Agent, env, seed=0)
    refused(lambda: agent.learn(env, 10), "Step 3", "finite")
    assert agent.steps == agent.visits.sum() == 2 and np.isfinite(agent.table).all()


@pytest.mark.parametrize("Agent", [QLearning, Sarsa])
def test_a_step_that_is_handed_in_is_checked_too(Agent):
    ends = []
    for over in (True, 1, np.bool_(True), np.uint8(1)):
        agent = Agent(Discrete(2), Discrete(2), initial_q=3., seed=0)
        assert agent.learn_from(0, 1, 1, over, 1) == -2.  # no value of the next state is in it
        ends.append(agent.table.tobytes())
    assert len(set(ends)) == 1
    for over in (2, 1., None, "no", [True], np.array([1])):
        refused(lambda: agent.learn_from(0, 1, 1., over, 1), "terminated is", "True or False")
    for reward in (np.nan, 1e308, None, 1j, "1", [1.]):
        refused(lambda: agent.learn_from(0, 1, reward, False, 1), "learn_from gave", "finite")
    assert agent.table.tobytes() == ends[0] and agent.visits.sum() == 1


def test_an_interrupted_step_gives_the_episode_up():
    class Interrupted(Treadmill):
        def step(self, action):
            if self.count == 3:
                self.count += 1
                raise KeyboardInterrupt
            return super().step(action)

    env = TimeLimit(Interrupted(), 5)
    agent = make(Sarsa, env, seed=0)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(env, 10)
    assert agent.steps == 3 and agent.observation is None and agent.returns == []
    assert agent.learn(env, 5).lengths == [5]


def test_load_refusals(tmp_path):
    env, path = Grid(), tmp_path / "agent.safetensors"
    agent = make(QLearning, env, seed=0).learn(env, 50)
    agent.save(path)
    refused(lambda: QLearning.load(tmp_path / "none"), "no saved agent", kind=FileNotFoundError)
    refused(lambda: QLearning.load(tmp_path), "no saved agent", kind=FileNotFoundError)
    refused(lambda: Sarsa.load(path), "'QLearning'", "'Sarsa'")
    refused(lambda: QLearning.load(path, discount=0.5), "discount")
    refused(lambda: QLearning.load(path, observation_space=Grid(start=(0, 0)).observation_space), "observation_space")
    refused(lambda: QLearning.load(path, action_space=Discrete(4)), "action_space")
    whole, before = path.read_bytes(), memory(agent)
    for broken in (b"", b"not a file of tensors", whole[:len(whole) // 2], whole[:20]):
        path.write_bytes(broken)
        refused(lambda: QLearning.load(path), str(path), "save the agent again")
    from safetensors.numpy import save_file
    save_file({"table": agent.table}, path)
    refused(lambda: QLearning.load(path), str(path), "save the agent again")
    assert memory(agent) == before


def test_save_is_whole_or_not_at_all(tmp_path, monkeypatch):
    env, path = Grid(), tmp_path / "agent.safetensors"
    agent = make(QLearning, env, seed=0).learn(env, 50)
    agent.save(path)
    before = path.read_bytes()
    agent.learn(env, 50)
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError):
            agent.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    agent.save(path)
    assert memory(QLearning.load(path)) == memory(agent)


def test_the_module_needs_no_model_library():
    code = (
        "import sys, rlgen.agents.tabular; print([m for m in ('torch', 'diffusers', 'transformers', 'PIL', "
        "'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
