"""The loop that all agents share: a foreign agent of a few lines, step by step, saved and loaded."""
import json
import subprocess
import sys
import weakref

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.wrappers import TimeLimit
from refusals import refused

from rlgen.agents.base import (
    BaseAgent,
    Step,
    StepAgent,
    learner_arrays,
    random_state,
    restore_learner,
    set_random_state,
)
from rlgen.agents.blackbox import CoordinateBandit, Enumeration, Evolution, RandomSearch
from rlgen.agents.gradient import DiffusionGradient
from rlgen.agents.planning import DynaQ
from rlgen.agents.ppo import PPO
from rlgen.agents.tabular import QLearning, RandomAgent, Sarsa, linear

class Means(StepAgent):
    "The mean reward of each action, whatever is seen."
    def __init__(self, observation_space, action_space, seed=None):
        super().__init__(observation_space, action_space, seed)
        self.counts, self.means = np.zeros(action_space.n), np.zeros(action_space.n)

    def act(self, observation, greedy=True):
        return int(self.means.argmax() if greedy or self.rng.random() > .1 else self.rng.integers(len(self.means)))

    def learn_from(self, state, action, reward, terminated, next_state):
        self.counts[action] += 1
        self.means[action] += (reward - self.means[action]) / self.counts[action]
        return 0.


class Kept(Means):
    def state_dict(self):
        arrays, note = super().state_dict()
        return arrays | {"counts": self.counts, "means": self.means}, note

    def load_state_dict(self, arrays, note):
        super().load_state_dict(arrays, note)
        self.counts, self.means = arrays["counts"], arrays["means"]
        return self


class Machines(gym.Env):
    "Four machines that pay by a normal distribution; a dictionary is seen, of two steps an episode."
    action_space = Discrete(4)
    observation_space = Dict({"at": Discrete(2), "noise": Box(-np.inf, np.inf, (2,), np.float32)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.seen(), {}

    def seen(self):
        return {"at": self.at, "noise": self.np_random.normal(size=2).astype(np.float32)}

    def step(self, action):
        self.at += 1
        end = self.at == 2
        self.at %= 2
        return self.seen(), float(self.np_random.normal(action == 2)), end, False, {}


def make(Agent, env, **settings):
    return Agent(env.observation_space, env.action_space, **settings)


def memory(agent):
    arrays, note = agent.state_dict()
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}, note


def test_a_foreign_agent_learns():
    env = Machines()
    agent = make(Means, env, seed=0)
    assert agent.learn(env, 2000) is agent
    assert agent.act(None) == 2 and agent.means[2] == pytest.approx(1, abs=.2) and agent.counts.sum() == 2000
    assert agent.lengths == [2] * 1000 and len(agent.returns) == 1000


def test_learn_steps_equals_learn_and_stops_where_it_is_left():
    env, other, third, seen = Machines(), Machines(), Machines(), []
    whole = make(Means, env, seed=0).learn(env, 101, callback=seen.append)
    agent = make(Means, other, seed=0)
    for count, step in enumerate(agent.learn_steps(other, 10**9), 1):
        assert isinstance(step, Step) and step.step == count
        if count == 51: break  # in the middle of an episode
    steps = agent.learn_steps(other, 50)
    assert agent.steps == 51  # nothing happens until somebody asks
    assert [s.reward for s in steps] == [s.reward for s in seen[51:]]
    assert (agent.means == whole.means).all() and agent.returns == whole.returns
    stopped = make(Means, third, seed=0).learn(third, 10**9, callback=lambda step: step.step == 101)
    assert (stopped.means == whole.means).all()


@pytest.mark.parametrize("Agent", [QLearning, Sarsa, RandomAgent, DynaQ])
def test_the_same_for_the_agents_with_a_table(Agent):
    env, other = gym.make("FrozenLake-v1"), gym.make("FrozenLake-v1")
    whole, agent = make(Agent, env, seed=3).learn(env, 100), make(Agent, other, seed=3)
    steps = agent.learn_steps(other, 100)
    assert [step.step for step in steps] == list(range(1, 101)) and memory(agent) == memory(whole)


def test_refusals_come_before_the_first_step():
    env = Machines()
    agent = make(Means, env)
    refused(lambda: agent.learn_steps(env, -1), "-1", "0 or more")
    refused(lambda: agent.learn_steps(env, 1.5), "1.5", "whole")
    refused(lambda: agent.learn_steps(gym.make("CartPole-v1"), 1), "the agent was made for")
    assert list(agent.learn_steps(env, 0)) == []


class Choice(gym.Env):
    observation_space, action_space = Box(0, 255, (2, 2, 3), np.uint8), MultiDiscrete([3, 5], start=[1, 0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((2, 2, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((2, 2, 3), np.uint8), float(np.sin(action).sum()), True, False, {}


class Told(gym.Env):
    "Gives reward and ends as told; the two spaces fit every agent that counts or that chooses."
    def __init__(self, like, reward=1., terminated=False, truncated=False):
        self.observation_space, self.action_space = like.observation_space, like.action_space
        self.told = reward, terminated, truncated

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), *self.told, {}


def everything():
    "Every agent that steps, with an environment that has spaces for it."
    for Agent in (QLearning, Sarsa, RandomAgent, DynaQ):
        yield Agent, gym.make("FrozenLake-v1")
    for Agent in (RandomSearch, Enumeration, Evolution, CoordinateBandit, DiffusionGradient):
        yield Agent, Choice()


@pytest.mark.parametrize("told", [
    dict(reward=value) for value in (np.nan, np.inf, -np.inf, 1e308, None, 1j, "1", [1.], np.ones(1), 10 ** 400)
] + [
    {name: value} for name in ("terminated", "truncated") for value in (2, -1, 1., None, "no", [True], np.array([True]))
])
def test_nothing_is_learned_from_a_wrong_reward_or_flag(told):
    for Agent, like in everything():
        agent = make(Agent, like, seed=0)
        before = {name: array.copy() for name, array in agent.state_dict()[0].items()}
        words = ("Step 1 of the environment", "finite") if "reward" in told else (*told, "True or False")
        refused(lambda: agent.learn(Told(like, **told), 3), *words)
        after = agent.state_dict()[0]
        assert agent.steps == 0 and all(np.array_equal(after[name], before[name]) for name in before if name != "point")


@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_flags_of_any_type_end_an_episode(name):
    for Agent, like in everything():
        seen = []
        for yes in (True, 1, np.bool_(True), np.int8(1), np.array(True)):
            env = Told(like, **{name: yes})
            env.observation_space.seed(0)
            agent = make(Agent, like, seed=0).learn(env, 5)
            step, = agent.learn_steps(env, 1)
            assert getattr(step, name) is True and agent.lengths == [1] * 6
            seen.append(memory(agent))
        assert all(one == seen[0] for one in seen), Agent


def test_an_error_in_a_callback_leaves_the_episode_as_it_is():
    env, other = Machines(), Machines()
    agent, whole = make(Means, env, seed=0), make(Means, other, seed=0).learn(other, 20)
    def fail(step):
        if step.step == 7: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        agent.learn(env, 20, callback=fail)
    agent.learn(env, 13)
    assert (agent.means == whole.means).all() and agent.returns == whole.returns


def test_an_agent_keeps_no_environment_alive():
    env = TimeLimit(Machines(), 5)
    agent, gone = make(Means, env, seed=0).learn(env, 3), weakref.ref(env)
    del env
    assert gone() is None and agent._env() is None
    agent.learn(Machines(), 1)  # begins a new episode


def test_what_is_missing_is_named():
    env = Machines()
    refused(lambda: make(StepAgent, env).learn(env, 1), "act(", kind=NotImplementedError)
    refused(lambda: make(type("Mute", (StepAgent,), {"act": lambda *_, **__: 0}), env).learn(env, 1), "learn_from",
            kind=NotImplementedError)
    refused(lambda: BaseAgent(seed=-1), "seed", "from 0 to")


# ---- files ----

CLASSES = {
    QLearning: dict(epsilon=.3, initial_q=(0., 1.)),
    Sarsa: dict(step_size=.2, discount=.8),
    RandomAgent: {},
    DynaQ: dict(planning_steps=3, persistent=True, locality=.5),
}
CHOOSING = {
    RandomSearch: {},
    Enumeration: {},
    Evolution: dict(parents=3),
    CoordinateBandit: dict(noise=.3, exploration=1.),
    DiffusionGradient: dict(rate=2., momentum=.5, start=(1., 0.)),
}


@pytest.mark.parametrize("Agent, settings, env", [
    *((Agent, settings, gym.make("FrozenLake-v1")) for Agent, settings in CLASSES.items()),
    *((Agent, settings, Choice()) for Agent, settings in CHOOSING.items()),
    (Kept, {}, Machines()),
])
def test_a_file_is_enough(tmp_path, Agent, settings, env):
    agent = make(Agent, env, seed=4, **settings)
    agent.learn(env, 8)
    agent.learn(env, 100, callback=lambda step: step.terminated or step.truncated)
    agent.save(tmp_path / "agent")
    again = Agent.load(tmp_path / "agent")
    assert type(again) is Agent and memory(again) == memory(agent)
    assert (again.observation_space, again.action_space) == (env.observation_space, env.action_space)
    for name, value in settings.items():
        assert np.array_equal(getattr(again, name), value), name
    assert memory(again.learn(env, 4)) == memory(agent.learn(env, 4))


def test_what_no_file_can_hold_is_asked_for(tmp_path):
    env = gym.make("FrozenLake-v1")
    make(QLearning, env, epsilon=linear(1, .1, 100), seed=0).learn(env, 50).save(tmp_path / "agent")
    refused(lambda: QLearning.load(tmp_path / "agent"), "epsilon", "QLearning.load(path, epsilon=...)")
    assert QLearning.load(tmp_path / "agent", epsilon=.1).epsilon == .1
    odd = RandomSearch(MultiBinary(3), MultiDiscrete([2, 2]), seed=0)
    odd.save(tmp_path / "odd")
    refused(lambda: RandomSearch.load(tmp_path / "odd"), "observation_space")
    assert RandomSearch.load(tmp_path / "odd", observation_space=MultiBinary(3)).seed == 0
    forgetful = type("Forgetful", (Means,), {"__init__": lambda self, env, size: Means.__init__(self, *env)})
    agent = forgetful((env.observation_space, env.action_space), 3)
    refused(lambda: agent.save(tmp_path / "none"), "'env'", "self.env")
    assert not (tmp_path / "none").exists()


def test_another_kind_of_file_is_refused(tmp_path):
    from rlgen.files import save_arrays
    save_arrays(tmp_path / "arrays", {"a": np.zeros(3)}, {"settings": {}})
    refused(lambda: QLearning.load(tmp_path / "arrays"), "None", "QLearning")
    save_arrays(tmp_path / "arrays", {"a": np.zeros(3)}, {})
    refused(lambda: QLearning.load(tmp_path / "arrays"), "not a saved agent")


def test_signatures_are_the_same():
    import inspect
    agents = [*CLASSES, *CHOOSING, PPO]
    for name in ("learn", "learn_steps", "state_dict", "load_state_dict", "save", "load"):
        assert len({tuple(inspect.signature(getattr(Agent, name)).parameters) for Agent in agents}) == 1, name
    for Agent in agents:
        assert inspect.signature(Agent.act).parameters["greedy"].default is True


# ---- random states and learners ----

def test_random_states_of_other_kinds_are_refused():
    import random
    refused(lambda: random_state(np.random.RandomState(0)), "RandomState")
    refused(lambda: set_random_state(np.random.default_rng(0), random_state(random.Random(0))), "Random", "PCG64")
    rng, other = random.Random(3), random.Random(4)
    set_random_state(other, json.loads(json.dumps(random_state(rng))))
    assert other.random() == rng.random()


def test_a_learner_of_another_shape_is_refused():
    def new(width):
        net = torch.nn.Linear(2, width)
        return {"net": net}, torch.optim.Adam(net.parameters())
    arrays = learner_arrays(*new(3))
    refused(lambda: restore_learner(arrays, *new(4)), "'net'", "another shape")


def test_the_module_is_light():
    code = (
        "import sys, rlgen.agents.base, rlgen.agents.gradient; print([m for m in ('torch', 'PIL', 'matplotlib', "
        "'safetensors', 'transformers', 'tqdm') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
