"""PPO: its formulas by hand, by loops and against Stable-Baselines3;
learning, exact resumption, and what it refuses.
"""
import json
import math

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings, strategies as st
from PIL import Image
from refusals import refused

import rlgen.envs  # noqa: F401, registers
from rlgen.agents.ppo import (
    PPO,
    Batch,
    PPOSettings,
    clipped_objective,
    gae,
    log_probability,
    mlp,
    policy_entropy,
    probability_ratio,
    sample_actions,
    value_loss,
)
from rlgen.agents.rollout import observation_encoder
from rlgen.runs import Run

quick = settings(max_examples=60, deadline=None)
NO, YES = np.array([[False]]), np.array([[True]])


# ---- environments to learn in ----

class Walk(gym.Env):
    "Episodes of so many steps, each paid 1, that terminate or are truncated."
    observation_space, action_space = Box(0, 9, (1,)), Discrete(2)

    def __init__(self, length=3, terminates=True):
        self.length, self.terminates = length, terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.array([0.], np.float32), {}
    def step(self, action):
        self.at += 1
        done = self.at == self.length
        return np.array([self.at], np.float32), 1., done and self.terminates, done and not self.terminates, {}


class Dice(gym.Env):
    "Chance in every step: what is seen, what is paid, and when it ends, one way or the other."
    observation_space, action_space = Box(-9, 9, (2,)), MultiDiscrete([2, 3])
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = self.np_random.normal(size=2).astype(np.float32)
        return self.seen, {}
    def step(self, action):
        self.seen = (.5 * self.seen + .1 * action + self.np_random.normal(size=2)).astype(np.float32).clip(-9, 9)
        end = self.np_random.random()
        return self.seen, float(self.seen[0] * action[1]), end < .2, end > .9, {}


class Bandit(gym.Env):
    "One step: for each part of the action, 1 if it is the right one for what is seen."
    observation_space, action_space = Discrete(2, start=3), MultiDiscrete([3, 4, 2], start=[1, 0, 5])
    right = {3: (2, 3, 5), 4: (3, 0, 6)}
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = 3 + int(self.np_random.integers(2))
        return self.seen, {}
    def step(self, action):
        assert self.action_space.contains(action)
        return self.seen, float((action == self.right[self.seen]).sum()), True, False, {}


class AsAWhole(SyncVectorEnv):
    "A vector environment of which nothing is known but that it has `envs`: only SyncVectorEnv itself is taken apart."


def carts(n=4):
    return SyncVectorEnv([lambda: gym.make("CartPole-v1")] * n)


def whole(make, n, mode=AutoresetMode.NEXT_STEP):
    return AsAWhole([make] * n, autoreset_mode=mode)


def small(**changes):
    return PPOSettings(**{"rollout_steps": 8, "epochs": 2, "minibatch": 16, "hidden": (8,)} | changes)


def agent_for(env, settings=None, **more):
    "An agent with the spaces of an environment, or of each of a vector."
    one = "single_" if hasattr(env, "single_action_space") else ""
    spaces = (getattr(env, f"{one}{kind}_space") for kind in ("observation", "action"))
    return PPO(*spaces, settings or small(), **more)


def learnt(env, steps, settings=None, **more):
    return agent_for(env, settings, **more).learn(env, steps)


def first_update(env, settings=None):
    return next(update for update in agent_for(env, settings).learn_steps(env, 10**6) if update is not None)


def rollout_of(agent, env):
    "A `Batch` of one rollout, and the explained variance of its returns."
    steps = agent._collect(agent._attach(env))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def memory(agent):
    arrays, note = agent.state_dict()
    return {name: (array.dtype.str, array.shape, np.asarray(array).tobytes()) for name, array in arrays.items()}, note


# ---- the objective ----

@pytest.mark.parametrize("r, advantage, expected, flat", [
    (1, 2, 2, False), (.5, 1, .5, False), (1.1, 1, 1.1, False), (1.5, 1, 1.2, True), (1.5, 3, 3.6, True),
    (1.5, -1, -1.5, False), (.9, -1, -.9, False), (.5, -1, -.8, True), (.5, -2, -1.6, True), (.5, 0, 0, True)])
def test_clipping_by_hand(r, advantage, expected, flat):
    logp = torch.tensor([math.log(.3 * r)], requires_grad=True)
    old = torch.tensor([math.log(.3)])
    assert probability_ratio(logp, old).item() == pytest.approx(r)
    objective = clipped_objective(logp, old, torch.tensor([float(advantage)]), .2)
    assert objective.shape == (1,) and objective.item() == pytest.approx(expected, abs=1e-6)
    objective.sum().backward()
    assert (logp.grad.item() == 0) == flat
    if not flat:
        assert logp.grad.item() == pytest.approx(r * advantage, rel=1e-5)  # the gradient of r is r times that of log r


def test_at_the_old_policy_it_is_the_policy_gradient():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    actions, advantages = torch.arange(6)[:, None] % 5, torch.linspace(-1, 2, 6, dtype=torch.float64)
    logp = log_probability(logits, actions, (5,))
    clipped = torch.autograd.grad(
        clipped_objective(logp, logp.detach(), advantages, .2).sum(), logits, retain_graph=True
    )[0]
    torch.testing.assert_close(clipped, torch.autograd.grad((logp * advantages).sum(), logits)[0])


def test_value_loss_by_hand():
    values, returns, old = torch.tensor([5., 1.], requires_grad=True), torch.tensor([7., 1.]), torch.tensor([4., 1.])
    assert value_loss(values, returns).item() == 2.
    loss = value_loss(values, returns, old, .5)
    assert loss.item() == pytest.approx(2.5 ** 2 / 2)
    loss.backward()
    assert values.grad[0] == 0  # it has left the interval
    refused(lambda: value_loss(values, returns, clip=.5), "old_values")


# ---- advantages ----

def test_termination_and_truncation_by_hand():
    """Rewards 1, 2, 3; values 10, 20, 30; the final observation is worth 40; everything halves.

    The middle step ends an episode. Terminated: 2 - 20 = -18. Truncated, final observation worth 50: 2 + 25 - 20 = 7.
    """
    column = lambda *x: np.array(x)[:, None]
    rewards, values, next_values = column(1., 2., 3.), column(10., 20., 30.), column(20., 50., 40.)
    nothing, middle = column(False, False, False), column(False, True, False)
    last, first = 3 + 20 - 30, 1 + 10 - 10
    terminated = gae(rewards, values, next_values, middle, nothing, .5, .5)
    assert terminated.ravel().tolist() == [first + .25 * -18, -18, last]
    truncated = gae(rewards, values, next_values, nothing, middle, .5, .5)
    assert truncated.ravel().tolist() == [first + .25 * 7, 7, last]
    # both at once: terminated
    assert gae(rewards, values, next_values, middle, middle, .5, .5).tolist() == terminated.tolist()
    on = gae(rewards, values, column(20., 30., 40.), nothing, nothing, .5, .5).ravel()
    assert on[2] == last and on[1] == 2 + 15 - 20 + .25 * last and on[0] == first + .25 * on[1]


def random_rollout(seed, T, N):
    rng = np.random.default_rng(seed)
    ends = rng.random((T, N))
    return rng.normal(size=(T, N)), rng.normal(size=(T, N)), rng.normal(size=(T, N)), ends < .2, ends > .8


@quick
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_weighted_sum_of_errors_up_to_the_end(seed, T, N, discount, lam):
    rewards, values, next_values, terminated, truncated = data = random_rollout(seed, T, N)
    copies = [x.copy() for x in data]
    found = gae(*data, discount, lam)
    for i in range(N):
        for t in range(T):
            total = 0.
            for k in range(t, T):
                after = 0. if terminated[k, i] else next_values[k, i]
                total += (discount * lam) ** (k - t) * (rewards[k, i] + discount * after - values[k, i])
                if terminated[k, i] or truncated[k, i]: break
            assert found[t, i] == pytest.approx(total, abs=1e-9)
    for x, copy in zip(data, copies, strict=True):
        np.testing.assert_array_equal(x, copy)


@quick
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_that_of_stable_baselines(seed, T, discount, lam):
    from stable_baselines3.common.buffers import RolloutBuffer
    rewards, values, final, terminated, truncated = random_rollout(seed, T, 2)
    truncated &= ~terminated
    ended, last = terminated | truncated, final[-1]
    buffer = RolloutBuffer(T, Box(-1, 1, (1,)), Discrete(2), "cpu", lam, discount, 2)
    # it takes the final value as a part of the reward
    buffer.rewards, buffer.values = rewards + discount * np.where(truncated, final, 0), values
    buffer.episode_starts = np.concatenate([np.zeros((1, 2)), ended[:-1]]).astype(np.float32)
    buffer.compute_returns_and_advantage(torch.tensor(last), ended[-1])
    next_values = np.where(ended, final, np.concatenate([values[1:], last[None]]))
    mine = gae(rewards, values, next_values, terminated, truncated, discount, lam)
    np.testing.assert_allclose(mine, buffer.advantages, atol=1e-5)
    np.testing.assert_allclose(mine + values, buffer.returns, atol=1e-5)


@pytest.mark.parametrize("kind", [int, np.uint8, np.int64, list])
def test_flags_of_any_type_are_flags(kind):
    *numbers, terminated, truncated = random_rollout(0, 6, 3)
    flags = [x.tolist() if kind is list else x.astype(kind) for x in (terminated, truncated)]
    np.testing.assert_array_equal(gae(*numbers, *flags, .9, .8), gae(*numbers, terminated, truncated, .9, .8))


@pytest.mark.parametrize("kind", [float, object, str])
def test_what_is_no_flag_is_a_sentence(kind):
    "Rewards of 0 and 1, for instance, that were given in the place of flags."
    *numbers, terminated, truncated = random_rollout(0, 6, 3)
    refused(lambda: gae(*numbers, terminated.astype(kind), truncated, .9, .8), "terminated is", "True or False")
    refused(lambda: gae(*numbers, terminated, truncated.astype(kind), .9, .8), "truncated is", "True or False")


@pytest.mark.parametrize("call, words", [
    (lambda: clipped_objective(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1), .2), ("advantages [3, 1]",)),
    (lambda: clipped_objective(torch.zeros(3), torch.zeros(1), torch.zeros(3), .2), ("logp [3]", "old_logp [1]")),
    (lambda: probability_ratio(torch.zeros(2), torch.zeros(3)), ("[2]", "[3]")),
    (lambda: value_loss(torch.zeros(3, 1), torch.zeros(3)), ("values [3, 1]", "returns [3]")),
    (lambda: value_loss(torch.zeros(3), torch.zeros(3), torch.zeros(1), .5), ("old_values [1]",)),
    (lambda: log_probability(torch.zeros(2, 5), torch.zeros(2, 3, dtype=int), (2, 3)), ("[2, 3]", "[B, 2]")),
    (lambda: log_probability(torch.zeros(2, 6), torch.zeros(2, 2, dtype=int), (2, 3)), ("[2, 6]", "[B, 5]")),
    (lambda: log_probability(torch.zeros(2, 5), torch.zeros(3, 2, dtype=int), (2, 3)), ("[3, 2]",)),
    (lambda: sample_actions(np.zeros((2, 6)), (2, 3)), ("[2, 6]", "[B, 5]")),
    (lambda: sample_actions(np.zeros(5), (2, 3)), ("[5]", "[B, 5]")),
])
def test_nothing_is_broadcast(call, words):
    refused(call, *words)


class Counts(Dice):
    "Says 0 and 1 where others say False and True."
    def step(self, action):
        *seen, terminated, truncated, info = super().step(action)
        return *seen, int(terminated), int(truncated), info


class CountingVector(AsAWhole):
    "A vector environment whose flags are integers."
    def step(self, actions):
        *seen, terminated, truncated, info = super().step(actions)
        return *seen, terminated.astype(int), truncated.astype(int), info


def test_environments_may_count_instead_of_saying_true():
    plain, counted = learnt(Dice(), 40), learnt(Counts(), 40)
    assert memory(plain) == memory(counted) and plain.lengths
    vectors = (kind([Dice] * 3, autoreset_mode=AutoresetMode.NEXT_STEP) for kind in (AsAWhole, CountingVector))
    plain, counted = (learnt(env, 60) for env in vectors)
    assert memory(plain) == memory(counted) and plain.lengths == counted.lengths


@pytest.mark.parametrize(
    "change, words",
    [
        ({"discount": 1.1}, ("discount", "1.1")),
        ({"lam": -1}, ("lam",)),
        ({"lam": math.nan}, ("nan",)),
        ({"values": np.zeros((2, 1))}, ("(2, 1)", "[T, N]")),
        ({"terminated": np.array([[2]])}, ("terminated is", "True or False")),
        ({"truncated": np.array([[.5]])}, ("truncated is",)),
        ({"truncated": np.array([[-1]])}, ("truncated is",)),
        ({"terminated": np.array([[math.nan]])}, ("terminated is",)),
        ({"terminated": np.array([["no"]])}, ("terminated is",)),
    ],
)
def test_gae_refuses(change, words):
    data = dict(
        rewards=np.zeros((1, 1)),
        values=np.zeros((1, 1)),
        next_values=np.zeros((1, 1)),
        terminated=NO,
        truncated=YES,
        discount=.9,
        lam=.9,
    )
    refused(lambda: gae(**data | change), *words)


# ---- actions of several parts ----

@quick
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 10**6))
def test_factored_actions_by_enumeration(sizes, seed):
    sizes = tuple(sizes)
    logits = np.random.default_rng(seed).normal(0, 2, sum(sizes))
    parts = [scipy.special.softmax(part) for part in np.split(logits, np.cumsum(sizes)[:-1])]
    joint = parts[0]
    for part in parts[1:]:
        joint = joint[..., None] * part
    every = torch.tensor(list(np.ndindex(*sizes)))
    logp = log_probability(torch.tensor(logits).expand(len(every), -1), every, sizes)
    np.testing.assert_allclose(logp.exp(), joint.ravel(), atol=1e-12)
    assert (
        policy_entropy(torch.tensor(logits)[None], sizes).item()
        == pytest.approx(scipy.stats.entropy(joint.ravel()), abs=1e-9)
    )


def test_draws_follow_the_chances():
    chances = np.array([.1, .6, .3, .25, .75])
    drawn = sample_actions(np.log(chances)[None].repeat(20_000, 0), (3, 2), np.random.default_rng(0))
    joint = np.outer(chances[:3], chances[3:]).ravel()
    counts = np.bincount(drawn[:, 0] * 2 + drawn[:, 1], minlength=6)
    assert scipy.stats.chisquare(counts, joint * 20_000).pvalue > .001
    assert sample_actions(np.log(chances)[None], (3, 2)).tolist() == [[1, 1]]


# ---- observations ----

SPACES = [
    Box(-1, 1, (2, 3)),
    Box(0, 255, (2, 2), np.uint8),
    Box(-1, 1, ()),
    Discrete(4),
    Discrete(3, start=-1),
    MultiDiscrete([2, 3], start=[1, -2]),
    MultiDiscrete([[2, 3], [4, 2]]),
    Dict({"b": Discrete(2), "a": Box(-1, 1, (2,)), "c": Dict({"x": MultiDiscrete([3])})}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_observations_become_what_gymnasium_makes_of_them(space):
    space.seed(0)
    many = gym.vector.utils.batch_space(space, 5)
    many.seed(1)
    samples = many.sample()
    encoded = observation_encoder(space)(samples)
    assert encoded.shape == (5, flatdim(space)) and encoded.dtype == np.float32
    for row, one in zip(encoded, gym.vector.utils.iterate(many, samples), strict=True):
        np.testing.assert_array_equal(row, flatten(space, one).astype(np.float32))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_it_acts_on_one_and_on_many(space):
    class Env(Walk):
        observation_space = space
        action_space = MultiDiscrete([3, 2], start=[4, 0])
    agent = agent_for(Env())
    many = gym.vector.utils.batch_space(space, 5)
    samples = many.sample()
    actions = agent.act(samples)
    assert actions.shape == (5, 2) and all(Env.action_space.contains(a) for a in actions)
    for one, action in zip(gym.vector.utils.iterate(many, samples), actions, strict=True):
        assert agent.act(one).tolist() == action.tolist()
    assert len({tuple(agent.act(space.sample(), greedy=False).tolist()) for _ in range(60)}) == 6  # about evenly


def test_a_single_discrete_action_is_a_number():
    class Env(Walk):
        action_space = Discrete(2, start=7)
    agent = agent_for(Env())
    assert (
        agent.act(np.zeros(1)) in (7, 8)
        and np.shape(agent.act(np.zeros(1))) == ()
        and agent.act(np.zeros((3, 1))).shape == (3,)
    )
    refused(lambda: agent.act(np.zeros(2)), "(2,)", "(1,)")
    refused(lambda: agent.act(np.zeros((1, 1, 1))), "(1, 1, 1)")


# ---- against Stable-Baselines3 ----

class Spoken(gym.Env):
    "MultiDiscrete in and out."
    observation_space, action_space = MultiDiscrete([3, 4]), MultiDiscrete([2, 3])
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.integers([3, 4]), {}

    def step(self, action):
        return self.np_random.integers([3, 4]), float(action.sum()), bool(self.np_random.random() < .2), False, {}


ENVS = {"cart": lambda: gym.make("CartPole-v1", max_episode_steps=15), "spoken": Spoken}


def twins(name="cart", steps=16, envs=2, seed=0, **changes):
    "An agent of Stable-Baselines3 and one of ours with the same weights and settings."
    from stable_baselines3 import PPO as Theirs
    from stable_baselines3.common.vec_env import DummyVecEnv
    s = PPOSettings(
        **{"rollout_steps": steps, "epochs": 1, "minibatch": steps * envs, "hidden": (16, 8), "seed": seed} | changes
    )
    theirs = Theirs(
        "MlpPolicy",
        DummyVecEnv([ENVS[name]] * envs),
        learning_rate=s.learning_rate,
        n_steps=steps,
        batch_size=s.minibatch,
        n_epochs=1,
        gamma=s.discount,
        gae_lambda=s.lam,
        clip_range=s.epsilon,
        clip_range_vf=s.value_clip,
        normalize_advantage=s.normalise,
        ent_coef=s.entropy_coefficient,
        vf_coef=s.value_coefficient,
        max_grad_norm=s.max_gradient,
        policy_kwargs={"net_arch": list(s.hidden)},
        seed=seed,
        device="cpu",
    )
    mine = agent_for(ENVS[name](), s)
    pairs = list(zip(
        linear(mine.policy) + linear(mine.value),
        [
            *linear(theirs.policy.mlp_extractor.policy_net),
            theirs.policy.action_net,
            *linear(theirs.policy.mlp_extractor.value_net),
            theirs.policy.value_net,
        ],
        strict=True,
    ))
    return theirs, mine, pairs


def linear(net):
    return [layer for layer in net if isinstance(layer, torch.nn.Linear)]


def same_weights(pairs):
    for a, b in pairs:
        a.load_state_dict(b.state_dict())


def their_rollout(theirs, steps):
    "Their buffer after one rollout, and what was in the infos."
    from stable_baselines3.common.callbacks import BaseCallback
    rows = []
    class Notes(BaseCallback):
        def _on_step(self):
            rows.append((self.locals["dones"].copy(), [dict(info) for info in self.locals["infos"]]))
            return True
    _, callback = theirs._setup_learn(10_000, Notes())
    assert theirs.collect_rollouts(theirs.env, callback, theirs.rollout_buffer, steps)
    return theirs.rollout_buffer, rows


def test_networks_begin_as_theirs():
    theirs, mine, pairs = twins(hidden=(16, 8))
    assert mine.optimiser.defaults["eps"] == theirs.policy.optimizer.defaults["eps"]
    for a, b in pairs:
        assert a.weight.shape == b.weight.shape and not a.bias.any() and not b.bias.any()
        # all singular values are the gain
        np.testing.assert_allclose(*(np.linalg.svd(layer.weight.detach())[1] for layer in (a, b)), rtol=1e-4)
        assert not torch.equal(a.weight, b.weight)
    assert [type(layer).__name__ for layer in mine.policy] == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    alone = mlp(3, (), 2, .5, torch.Generator().manual_seed(0))
    assert len(alone) == 1 and np.linalg.svd(alone[0].weight.detach())[1] == pytest.approx([.5, .5])


def test_a_rollout_is_worth_what_theirs_is():
    theirs, mine, pairs = twins(steps=96)
    same_weights(pairs)
    buffer, notes = their_rollout(theirs, 96)
    ended = np.array([dones for dones, _ in notes])
    truncated = np.array([[info.get("TimeLimit.truncated", False) for info in infos] for _, infos in notes]) & ended
    assert truncated.any() and (ended & ~truncated).any()
    look = lambda x: mine.value(torch.tensor(np.asarray(x, np.float32)))[..., 0].detach().numpy()
    values, next_values = (
        look(buffer.observations),
        look(np.concatenate([buffer.observations[1:], theirs._last_obs[None]])),
    )
    for t, i in np.argwhere(truncated):
        next_values[t, i] = look(notes[t][1][i]["terminal_observation"])
    np.testing.assert_allclose(values, buffer.values, atol=1e-5)
    advantages = gae(np.ones((96, 2)), values, next_values, ended & ~truncated, truncated, .99, .95)
    np.testing.assert_allclose(advantages, buffer.advantages, atol=1e-4)
    np.testing.assert_allclose(advantages + values, buffer.returns, atol=1e-4)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("cart", {}),
        ("cart", {"value_clip": .1}),
        ("cart", {"normalise": False}),
        ("cart", {"entropy_coefficient": .1, "value_coefficient": 1.}),
        ("cart", {"max_gradient": 1e6, "value_clip": .1, "normalise": False}),
        ("spoken", {"entropy_coefficient": .05}),
        ("spoken", {"value_clip": .2}),
    ],
)
def test_a_minibatch_teaches_what_theirs_does(name, changes):
    """Losses, gradients and the weights after the step of Adam,
    on a rollout whose old policy and values were a little different.
    """
    theirs, mine, pairs = twins(name, **changes)
    same_weights(pairs)
    buffer, _ = their_rollout(theirs, 16)
    rng = np.random.default_rng(1)
    buffer.log_probs += rng.normal(0, .2, buffer.log_probs.shape).astype(np.float32)
    buffer.values += rng.normal(0, .2, buffer.values.shape).astype(np.float32)
    flat = lambda x: torch.tensor(np.array(x, np.float32).reshape(32, -1))
    batch = Batch(
        torch.tensor(observation_encoder(ENVS[name]().observation_space)(np.concatenate(buffer.observations))),
        flat(buffer.actions).long(),
        *(flat(x)[:, 0] for x in (buffer.log_probs, buffer.advantages, buffer.returns, buffer.values)),
    )
    theirs.train()
    loss, (policy, value, chaos, kl, clipped) = mine.losses(batch)
    log = theirs.logger.name_to_value
    for found, key in (
        (loss.item(), "loss"),
        (policy, "policy_gradient_loss"),
        (value, "value_loss"),
        (-chaos, "entropy_loss"),
        (kl, "approx_kl"),
        (clipped, "clip_fraction"),
    ):
        assert float(found) == pytest.approx(float(log["train/" + key]), rel=1e-4, abs=1e-6), key
    assert .05 < clipped < .95
    loss.backward()
    torch.nn.utils.clip_grad_norm_(mine.parameters, mine.settings.max_gradient)
    for a, b in pairs:
        torch.testing.assert_close(a.weight.grad, b.weight.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.bias.grad, b.bias.grad, rtol=1e-4, atol=1e-6)
    mine.optimiser.step()
    for a, b in pairs:
        torch.testing.assert_close(a.weight, b.weight, rtol=1e-4, atol=1e-5)


def test_defaults_are_theirs():
    from stable_baselines3 import PPO as Theirs
    theirs, s = Theirs("MlpPolicy", "CartPole-v1", device="cpu"), PPOSettings()
    assert (
        (theirs.learning_rate, theirs.n_steps, theirs.batch_size, theirs.n_epochs, theirs.gamma, theirs.gae_lambda)
        == (s.learning_rate, s.rollout_steps, s.minibatch, s.epochs, s.discount, s.lam)
    )
    assert (
        theirs.clip_range(1),
        theirs.clip_range_vf,
        theirs.normalize_advantage,
        theirs.ent_coef,
        theirs.vf_coef,
        theirs.max_grad_norm,
    ) == (s.epsilon, s.value_clip, s.normalise, s.entropy_coefficient, s.value_coefficient, s.max_gradient)


# ---- rollouts ----

KINDS = {
    "one": lambda make: make(),
    "in turn": lambda make: SyncVectorEnv([make] * 2),
    "next step": lambda make: whole(make, 2),
    "same step": lambda make: whole(make, 2, AutoresetMode.SAME_STEP),
    "in turn, same step": lambda make: SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("terminates", [True, False])
def test_returns_of_a_rollout_by_hand(kind, terminates):
    """Three steps of 1 each, no discount, and a network that thinks everything is worth 10:
    3, 2, 1, and 10 more if the clock ended it.
    """
    env = KINDS[kind](lambda: Walk(3, terminates))
    agent, n = agent_for(env, small(discount=1., lam=1., rollout_steps=8)), getattr(env, "num_envs", 1)
    with torch.no_grad():
        for p in agent.value.parameters():
            p.zero_()
        agent.value[-1].bias.fill_(10.)
    batch, _ = rollout_of(agent, env)
    rest = 0 if terminates else 10
    at = batch.observations[:, 0]
    assert set(at.tolist()) == {0., 1., 2.}  # never a final observation, never a step that was lost on a start
    expected = 3 - at + rest
    if kind == "next step":
        running = np.zeros(len(at), bool)  # the period is 4, so 8 steps are two whole episodes
    else:
        # the third episode is still under way: the network says what is to come
        running = (np.arange(8).repeat(n) >= 6)
    np.testing.assert_allclose(batch.returns[~running], expected[~running])
    np.testing.assert_allclose(
        batch.returns[running], np.array([12., 11.]).repeat(n) if running.any() else []
    )
    np.testing.assert_allclose(batch.advantages, batch.returns - 10)
    assert (
        agent.returns == [3.] * 2 * n and agent.lengths == [3] * 2 * n
        and agent._running[0].tolist() == ([0, 0] if kind == "next step" else [2.] * n)
    )


def test_what_counts_as_a_step():
    assert (
        first_update(whole(Walk, 2)).steps == 12
        and first_update(SyncVectorEnv([Walk] * 2)).steps == 16
    )
    assert learnt(Walk(), 10, small(rollout_steps=9)).steps == 18


def test_an_update_says_what_happened():
    env, seen = SyncVectorEnv([lambda: Walk(3)] * 2), []
    agent = agent_for(env, small(epochs=1, decay_steps=64)).learn(env, 48, callback=seen.append)
    first = seen[0]
    assert [u.update for u in seen] == [1, 2, 3] and [u.steps for u in seen] == [16, 32, 48]
    assert [u.learning_rate for u in seen] == pytest.approx([3e-4, 3e-4 * .75, 3e-4 * .5])
    # one step: nothing has moved before it
    assert first.entropy == pytest.approx(math.log(2), abs=1e-3) and abs(first.kl) < 1e-6 and first.clip_fraction == 0
    assert abs(first.policy_loss) < 1e-5  # normalised advantages have mean 0
    assert [u.episodes for u in seen] == [4, 6, 6] and first.mean_return == 3.
    assert first.explained_variance < .9 and json.dumps(seen, allow_nan=False)
    assert agent.returns == [3.] * 16 and agent.lengths == [3] * 16
    assert first_update(Walk(20)).mean_return is None


def test_explained_variance_by_hand():
    env = Walk(4)
    agent = agent_for(env, small(discount=1., lam=1.))
    agent.value = torch.nn.Sequential(torch.nn.Linear(1, 1))
    with torch.no_grad():
        agent.value[0].weight.fill_(-1.), agent.value[0].bias.fill_(4.)
    assert rollout_of(agent, env)[1] == pytest.approx(1.)  # the value of Walk is 4 minus the steps so far
    with torch.no_grad():
        agent.value[0].weight.fill_(0.)
    assert rollout_of(agent, env)[1] == pytest.approx(0.)


def test_minibatches_are_equal_parts_and_gradients_are_clipped():
    agent = agent_for(Walk(), small(rollout_steps=10, minibatch=4, epochs=3, max_gradient=1e-3))
    sizes, lengths = [], []
    losses = agent.losses
    agent.losses = lambda batch: (sizes.append(sorted(batch.returns.tolist())), losses(batch))[1]
    agent.optimiser.register_step_pre_hook(
        lambda *_: lengths.append(torch.cat([p.grad.flatten() for p in agent.parameters]).norm().item())
    )
    agent.learn(Walk(), 10)
    assert [len(s) for s in sizes] == [4, 3, 3] * 3
    every = [sorted(sum(sizes[i:i + 3], [])) for i in (0, 3, 6)]
    assert every[0] == every[1] == every[2]  # all of it in each epoch
    assert max(lengths) == pytest.approx(1e-3, rel=1e-3)


def test_a_callback_can_stop():
    env = Walk()
    agent = agent_for(env).learn(env, 10_000, callback=lambda u: u.update == 3)
    assert agent.updates == 3 and agent.learn(env, 0).updates == 3


# ---- learning ----

def test_it_learns_to_balance_a_pole():
    "Falling over takes about 20 steps at first, and about 9 for a policy that has learnt the opposite."
    last = []
    agent = agent_for(
        carts(),
        PPOSettings(
            learning_rate=1e-3, decay_steps=40_000, rollout_steps=32, epochs=20, minibatch=256, discount=.98, lam=.8
        ),
    )
    agent.learn(carts(8), 16_384, callback=lambda u: last.append(u.mean_return))
    assert np.mean([r for r in last[:4] if r]) < 40
    envs = gym.make_vec("CartPole-v1", num_envs=20, vectorization_mode="vector_entry_point")
    observations, going, returns = envs.reset(seed=100)[0], np.ones(20, bool), np.zeros(20)
    while going.any():
        observations, rewards, terminated, truncated, _ = envs.step(agent.act(observations))
        returns += rewards * going
        going &= ~(terminated | truncated)
    assert returns.mean() > 80


@pytest.mark.parametrize("kind", ["in turn", "next step"])
def test_it_learns_all_parts_of_a_factored_action(kind):
    agent = learnt(KINDS[kind](Bandit), 3000, small(rollout_steps=32, epochs=6, minibatch=64, learning_rate=.01))
    for seen, right in Bandit.right.items():
        assert agent.act(seen).tolist() == list(right)


def test_the_entropy_bonus_keeps_a_policy_open():
    class Nothing(Walk):
        def step(self, action):
            return *super().step(action)[:1], 0., *super().step(action)[2:]
    def after(coefficient):
        env, entropies = Nothing(100), []
        agent = agent_for(
            env,
            small(
                rollout_steps=16,
                epochs=5,
                learning_rate=.02,
                entropy_coefficient=coefficient,
                max_gradient=10.,
                normalise=False,
            ),
        )
        with torch.no_grad():
            agent.policy[-1].bias += torch.tensor([3., 0.])
        agent.learn(env, 336, callback=lambda update: entropies.append(update.entropy))
        return entropies[-1]
    assert after(.5) > .6 > .4 > after(0.)


# ---- coming back ----

RESUMED = {
    "one cart": lambda: gym.make("CartPole-v1"),
    "four carts": carts,
    "chance in steps": Dice,
    "several of it": lambda: SyncVectorEnv([Dice] * 3),
    "as a whole": lambda: whole(Dice, 3),
}


@pytest.mark.parametrize("name", RESUMED)
def test_killed_and_resumed_from_a_run_folder_bit_for_bit(tmp_path, name):
    total = 7 * 13 * 4
    def start(folder, dies_at=None):
        run = Run.create(folder, {"seed": 0})
        env = RESUMED[name]()
        agent = agent_for(
            env,
            small(
                rollout_steps=13,
                learning_rate=.01,
                decay_steps=2 * total,
                value_clip=.5,
                entropy_coefficient=.01,
                seed=3,
            ),
        )
        found = run.resume("last")
        if found:
            agent.load_state_dict(*found)
        def keep(update):
            if update.update == dies_at: raise KeyboardInterrupt
            run.log(**update._asdict())
            if update.update % 2 == 0:
                run.save_checkpoint("last", *agent.state_dict())
        return run, env, agent, keep
    run, env, agent, keep = start(tmp_path / "whole")
    agent.learn(env, total, callback=keep)
    run.close()
    killed, env, first, keep = start(tmp_path / "killed", dies_at=5)
    with pytest.raises(KeyboardInterrupt):
        first.learn(env, total, callback=keep)
    killed.close()
    again, env, second, keep = start(tmp_path / "killed")
    assert second.updates == 4
    second.learn(env, total - second.steps, callback=keep)
    again.close()
    assert memory(agent) == memory(second) and run.rows() == again.rows() and len(run.rows()) == agent.updates


@pytest.mark.parametrize(
    "make",
    [lambda: whole(Walk, 3), lambda: whole(Dice, 3), lambda: SyncVectorEnv([Walk] * 2)],
    ids=["walk as a whole", "dice as a whole", "walk in turn"],
)
def test_every_rollout_can_be_the_last_before_a_kill(make):
    "Also one at whose end an episode has just ended."
    states, ended = [], []
    agent = agent_for(make(), small(rollout_steps=3, hidden=()))
    agent.learn(make(), 10**6, callback=lambda u: states.append(agent.state_dict()) or u.update == 10)
    for arrays, note in states[:-1]:
        again = agent_for(make(), small(rollout_steps=3, hidden=()))
        again.load_state_dict(arrays, json.loads(json.dumps(note)))
        ended.append(arrays["env.ended"].any())
        again.learn(make(), 10**6, callback=lambda u: u.update == 10)
        assert memory(again) == memory(agent)
    assert any(ended) == isinstance(make(), AsAWhole)


def test_a_state_from_before_anything_was_learnt():
    arrays, note = agent_for(carts()).state_dict()
    assert json.loads(json.dumps(note, allow_nan=False)) == json.loads(json.dumps(note))
    assert (
        memory(agent_for(carts(), small(seed=9)).load_state_dict(arrays, note).learn(carts(), 64))
        == memory(learnt(carts(), 64))
    )


def test_a_state_stays_as_it_was_taken():
    env = carts()
    agent = learnt(env, 64)
    arrays, note = agent.state_dict()
    copies, written = {name: np.array(array) for name, array in arrays.items()}, json.dumps(note)
    agent.learn(env, 64)
    for name, array in copies.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    assert json.dumps(note) == written
    assert memory(agent_for(carts()).load_state_dict(arrays, note).learn(carts(), 64)) == memory(agent)


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_with_one_seed_are_equal(kind):
    def weights(seed):
        agent = learnt(KINDS[kind](Dice), 40, small(seed=seed))
        return [p.detach().numpy().tobytes() for p in agent.parameters]
    assert weights(3) == weights(3) != weights(4)


def test_a_state_of_something_else_is_refused():
    arrays, note = learnt(carts(), 1).state_dict()
    few = agent_for(carts(3)).load_state_dict(arrays, note)
    refused(lambda: few.learn(carts(3), 1), "4 environments", "3", "new_episodes")
    refused(lambda: agent_for(carts(), small(hidden=(9,))).load_state_dict(arrays, note), "hidden", "[8]", "[9]")
    refused(lambda: agent_for(Walk()).load_state_dict(arrays, note), "observation_space", "[4]", "[1]")
    few.new_episodes()
    assert few.learn(carts(3), 1).updates == 2


@pytest.mark.parametrize("kind", ["in turn", "next step"])
@pytest.mark.parametrize("before, after", [(3, 2), (2, 3), (3, 1)])
def test_another_number_of_environments_is_refused_or_starts_anew(kind, before, after):
    "Resumed it is refused, and goes on with new episodes if told so; so it does with another environment at once."
    settings = small(rollout_steps=4)
    def envs(n):
        return SyncVectorEnv([Walk] * n) if kind == "in turn" else whole(Walk, n)
    agent = learnt(envs(before), 24, settings)
    again = agent_for(envs(after), settings).load_state_dict(*agent.state_dict())
    refused(lambda: again.learn(envs(after), 4), f"{before} environments", f"here are {after}", "new_episodes")
    refused(lambda: again.learn(Walk(), 4), f"{before} environments", "here are 1", "new_episodes")
    again.new_episodes()
    updates = again.updates
    assert again.learn(envs(after), 1).updates == updates + 1 and len(again._running[0]) == after
    assert agent.learn(envs(after), 1).updates == updates + 1


def test_an_environment_that_does_not_come_back_is_noticed():
    class Fickle(Walk):
        count = 0
        def step(self, action):
            Fickle.count += 1
            return np.array([Fickle.count / 1000], np.float32), 1., False, False, {}
    again = agent_for(Fickle()).load_state_dict(*learnt(Fickle(), 8).state_dict())
    refused(lambda: again.learn(Fickle(), 8), "Environment 0", "come back", "new_episodes")


def test_what_cannot_be_brought_back_says_so():
    same = learnt(whole(Walk, 2, AutoresetMode.SAME_STEP), 8)
    refused(same.state_dict, "SyncVectorEnv", "new_episodes")
    env = gym.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point")
    fast = learnt(env, 40)
    refused(fast.state_dict, "SyncVectorEnv")
    fast.new_episodes()
    assert "begun" not in fast.state_dict()[1]
    fast.load_state_dict(*learnt(carts(3), 40).state_dict())
    refused(lambda: fast.learn(env, 40), "SyncVectorEnv")


def test_environments_in_other_processes():
    envs = AsyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    try:
        assert learnt(envs, 16).steps >= 16
    finally:
        envs.close()


# ---- on the environments of the package ----

@pytest.fixture(scope="module")
def world():
    from rlgen.envs.grid import World
    from rlgen.grammar import Grammar
    from rlgen.models.generator import Cached, Generator
    from rlgen.models.perception import Perception
    from rlgen.store import Store
    return World(
        Grammar.scenes(),
        Cached(Generator.load("tiny", inference_steps=2, device="cpu"), Store(":memory:")),
        Perception.load("tiny", device="cpu"),
    )


def tokens():
    from rlgen.data.prompts import Pair
    from rlgen.envs.tokens import TokenTask
    class Painter:
        def generate(self, prompts, seeds, negative=None):
            return [Image.new("RGB", (2, 2), (len(p) * 5 % 256, 0, 0)) for p in prompts]
    pairs = [Pair(f"a photo of {i} dogs", f"a photo of {i} dogs, red", ("red",), ()) for i in range(3)]
    task = TokenTask(pairs, Painter(), lambda images, prompts, goals: [np.asarray(i)[0, 0, 0] / 255 for i in images], 2)
    return gym.make("rlgen/PromptTokens-v0", task=task, vocabulary=["red", "blue", "green"], length=2)


@pytest.mark.parametrize("name", ["Grid", "Choice", "Tokens", "Grids"])
def test_on_the_environments_of_the_package(world, name):
    from rlgen.envs.grid import SemanticGridVector
    make = {
        "Grid": lambda: gym.make("rlgen/SemanticGrid-v0", world=world, max_steps=3),
        "Choice": lambda: gym.make("rlgen/SemanticChoice-v0", world=world, max_steps=3),
        "Tokens": tokens,
        "Grids": lambda: SemanticGridVector(2, world=world, max_steps=3),
    }[name]
    s, env, seen = small(rollout_steps=5), make(), []
    agent = agent_for(env, s).learn(env, 1, callback=seen.append)
    arrays, note = agent.state_dict()
    agent.learn(env, 8)
    assert seen[0].episodes >= 1 and math.isfinite(seen[0].mean_return)
    assert memory(agent_for(make(), s).load_state_dict(arrays, note).learn(make(), 8)) == memory(agent)


# ---- bad input ----

@pytest.mark.parametrize(
    "change, words",
    [
        ({"learning_rate": 0}, ("learning_rate", "above 0")),
        ({"learning_rate": math.nan}, ("nan",)),
        ({"learning_rate": math.inf}, ("inf",)),
        ({"learning_rate": None}, ("None",)),
        ({"decay_steps": 0}, ("decay_steps", "1 or more")),
        ({"rollout_steps": 1}, ("rollout_steps", "2 or more")),
        ({"rollout_steps": 8.5}, ("8.5", "whole")),
        ({"epochs": 0}, ("epochs",)),
        ({"minibatch": 1}, ("minibatch",)),
        ({"discount": 1.01}, ("discount",)),
        ({"discount": math.nan}, ("discount",)),
        ({"lam": -.1}, ("lam",)),
        ({"epsilon": 0}, ("epsilon",)),
        ({"value_clip": 0}, ("value_clip",)),
        ({"entropy_coefficient": -1}, ("entropy_coefficient", "0 or more")),
        ({"value_coefficient": math.nan}, ("value_coefficient",)),
        ({"max_gradient": 0}, ("max_gradient",)),
        ({"hidden": (0,)}, ("hidden", "(0,)")),
        ({"hidden": (8, 2.5)}, ("hidden",)),
        ({"seed": -1}, ("seed",)),
    ],
)
def test_settings_refuse(change, words):
    refused(lambda: PPOSettings(**change), *words)


def with_spaces(**spaces):
    return type("Env", (Walk,), spaces)()


def test_other_spaces_are_refused():
    refused(lambda: agent_for(with_spaces(action_space=Box(-1, 1, (2,)))), "Discrete or MultiDiscrete", "Box(")
    refused(lambda: agent_for(with_spaces(action_space=MultiDiscrete([[2, 2], [2, 2]]))), "one vector")
    refused(lambda: agent_for(with_spaces(observation_space=Tuple((Discrete(2),)))), "Dict of these", "Tuple(")
    refused(lambda: agent_for(with_spaces(observation_space=Dict({"a": MultiBinary(2)}))), "MultiBinary")


def test_other_environments_are_refused():
    agent = agent_for(Walk())
    refused(lambda: agent.learn("CartPole-v1", 1), "CartPole-v1", "not its name")
    refused(lambda: agent.learn(gym.make("CartPole-v1"), 1), "the agent was made for", "Box(")
    refused(lambda: agent.learn(whole(Walk, 2, AutoresetMode.DISABLED), 1), "Disabled", "NextStep or SameStep")
    silent = whole(Walk, 2)
    del silent.metadata["autoreset_mode"]
    refused(lambda: agent.learn(silent, 1), "None", "NextStep or SameStep")
    refused(lambda: agent.learn(Walk(), -1), "-1", "0 or more")
    refused(lambda: learnt(Walk(), 100, small(decay_steps=16)), "After 16 steps", "decay_steps")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_a_sentence(kind, bad):
    class Reward(Walk):
        def step(self, action):
            return *super().step(action)[:1], bad if self.at == 2 else 1., False, False, {}
    class Seen(Walk):
        def step(self, action):
            return np.array([bad if self.at == 2 else 0], np.float32), *super().step(action)[1:]
    refused(lambda: first_update(KINDS[kind](Reward)), "nvironment", "a reward must be", str(bad))
    for terminates in (True, False):
        # the final one
        refused(
            lambda: first_update(KINDS[kind](lambda: Seen(3, terminates))),
            "Environment 0",
            "observation",
            str(bad),
        )
    refused(lambda: first_update(KINDS[kind](lambda: Seen(4))), "Environment 0", "observation", str(bad))


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_network_that_breaks_is_a_sentence():
    refused(lambda: learnt(Walk(), 100, small(learning_rate=1e30)), "no finite numbers", "lower")


# ---- one step at a time, another network, another device, and a file ----

@pytest.mark.parametrize("kind", KINDS)
def test_learn_steps_equals_learn(kind):
    one, other, seen = KINDS[kind](Dice), KINDS[kind](Dice), []
    whole_run = agent_for(one).learn(one, 48, callback=seen.append)
    agent = agent_for(other)
    updates = list(agent.learn_steps(other, 48))
    assert [update for update in updates if update is not None] == seen
    assert updates[:9] == [None] * 8 + seen[:1]  # a step of all environments each time, then the update
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters, whole_run.parameters, strict=True))
    assert (agent.returns, agent.lengths) == (whole_run.returns, whole_run.lengths)


def test_learning_can_be_left_in_the_middle_of_a_rollout():
    env = Walk(3)
    agent = agent_for(env)
    steps = agent.learn_steps(env, 8)
    for _ in range(5):
        next(steps)
    steps.close()
    assert agent.updates == agent.steps == 0 and agent.returns == [3.]
    agent.learn(env, 8)  # goes on in the second episode
    assert agent.updates == 1 and agent.returns == [3.] * 4
    again = agent_for(Walk(3)).load_state_dict(*agent.state_dict())
    assert memory(again.learn(Walk(3), 8)) == memory(agent.learn(env, 8))


def relu(inputs, outputs):
    return torch.nn.Sequential(torch.nn.Linear(inputs, 32), torch.nn.ReLU(), torch.nn.Linear(32, outputs))


def test_another_network(tmp_path):
    env, torch_state = Bandit(), torch.get_rng_state()
    agent = agent_for(env, small(rollout_steps=64, epochs=6, minibatch=32, learning_rate=.01), network=relu)
    assert torch.equal(torch.get_rng_state(), torch_state)
    same = agent_for(env, small(), network=relu)
    # the seed decides the weights
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters, same.parameters, strict=True))
    agent.learn(env, 3000)
    assert [agent.act(seen).tolist() for seen in Bandit.right] == [list(right) for right in Bandit.right.values()]
    agent.save(tmp_path / "agent")
    refused(lambda: PPO.load(tmp_path / "agent"), "network", "PPO.load(path, network=...)")
    assert memory(PPO.load(tmp_path / "agent", network=relu)) == memory(agent)
    wide = lambda inputs, outputs: torch.nn.Linear(inputs, outputs)
    refused(lambda: PPO.load(tmp_path / "agent", network=wide), "another shape")
    refused(lambda: agent_for(env, network=lambda inputs, outputs: torch.nn.Linear(inputs, 1)), "[2, 9]", "[2, 1]")


def test_a_device_by_name():
    env = Walk()
    assert memory(learnt(env, 16, device="cpu")) == memory(learnt(Walk(), 16))
    refused(lambda: agent_for(env, device="abacus"), "abacus", "cpu")
    refused(lambda: agent_for(env, device="meta"), "meta", "cpu")  # it computes nothing
    if torch.cuda.is_available():  # every network goes there
        assert {p.device.type for p in agent_for(env, device="cuda").parameters} == {"cuda"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_learns_and_comes_back():
    env = carts()
    agent = learnt(env, 64, device="cuda")
    again = agent_for(carts(), device="cuda").load_state_dict(*agent.state_dict())
    assert again.act(np.zeros((3, 4), np.float32)).shape == (3,)
    assert again.learn(carts(), 32).updates == agent.learn(env, 32).updates == 3


@pytest.mark.parametrize("name", RESUMED)
def test_saved_in_a_file_and_continued(tmp_path, name):
    env = RESUMED[name]()
    agent = learnt(env, 40, small(learning_rate=.01, value_clip=.5, seed=3))
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent")
    assert again.settings == agent.settings and memory(again) == memory(agent)
    assert memory(again.learn(RESUMED[name](), 40)) == memory(agent.learn(env, 40))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_all_spaces_go_into_a_file(tmp_path, space):
    agent = PPO(space, MultiDiscrete([3, 2], start=[4, 0]), small())
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent")
    assert (again.observation_space, again.action_space) == (space, agent.action_space)
    assert again.act(space.sample()).shape == (2,)
