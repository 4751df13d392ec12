"""The semantic grid, on the shipped models with few denoising steps."""
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import rlgen.envs  # noqa: F401, registers the environment
from rlgen.envs.grid import SemanticChoice, SemanticGrid, SemanticGridVector, StateValues, World, default_goal, move
from rlgen.grammar import Grammar
from rlgen.models.generator import Cached, Generator
from rlgen.models.perception import Perception
from rlgen.rewards.semantic import MultiSemantic
from rlgen.rewards.shaping import make_reward
from rlgen.store import Store

@pytest.fixture(scope="module")
def world():
    return World(
        Grammar.scenes(),
        Cached(Generator.load("tiny", inference_steps=2, device="cpu"), Store(":memory:")),
        Perception.load("tiny", device="cpu"),
    )


@pytest.fixture(scope="module")
def goal():
    return default_goal()


def test_checkers_have_nothing_to_say(world, goal):
    from stable_baselines3.common.env_checker import check_env as check_env_sb3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # NumPy's, about a line of theirs
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="diffusers")
        # with its defaults: the tiny models, the shipped goal
        check_env(gym.make("rlgen/SemanticGrid-v0", render_mode="rgb_array").unwrapped)
        check_env_sb3(SemanticGrid(world, goal))


def test_registered(world, goal):
    env = gym.make("rlgen/SemanticGrid-v0", world=world, goal=goal)
    assert isinstance(env.unwrapped, SemanticGrid)
    envs = gym.make_vec(
        "rlgen/SemanticGrid-v0", num_envs=2, vectorization_mode="vector_entry_point", world=world, goal=goal
    )
    assert isinstance(envs.unwrapped, SemanticGridVector) and envs.num_envs == 2


def test_moves_and_clamps():
    nvec = np.array([2, 3])
    position = np.array([0, 2])
    assert [move(position, a, nvec).tolist() for a in range(4)] == [[1, 2], [0, 2], [0, 2], [0, 1]]


def test_start_is_random_by_seed_and_never_the_goal(world, goal):
    env = SemanticGrid(world, goal)
    env.state_values.visit = lambda states: [0.] * len(states)  # no pictures are needed here
    env.state_values.terms = dict.fromkeys(range(480), {})
    starts = [env.reset(seed=s)[1]["state"] for s in range(300)]
    assert env.goal_state not in starts and len(set(starts)) > 200
    assert env.reset(seed=5)[1]["state"] == starts[5]


def test_walk_to_the_goal(world, goal):
    env, grammar = SemanticGrid(world, goal, reward=MultiSemantic(world.perception, world.grammar)), world.grammar
    encoding = env.state_values.encoding
    start = next(n for n in grammar.neighbours(encoding))
    _, info = env.reset(options={"state": start})
    assert info["distance"] == 1 and not info["at_goal"]
    for action in range(env.action_space.n):
        env.reset(options={"state": start})
        observation, reward, terminated, truncated, info = env.step(action)
        assert info["prompt"] == grammar.decode(observation)
        assert reward == pytest.approx(sum(info["terms"].values()))
        if terminated: break
    assert terminated and not truncated and info["at_goal"] and (observation == encoding).all()


def test_goes_on_after_the_goal_if_asked(world, goal):
    env = SemanticGrid(world, goal, stop_at_goal=False, max_steps=3)
    env.reset(options={"state": env.state_values.encoding})
    ends = [env.step(a)[2:4] for a in (0, 1, 0)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_same_seed_same_walk(world, goal):
    def walk():
        env = SemanticGrid(world, goal)
        rows = [env.reset(seed=3)[0].tolist()]
        for action in (0, 2, 2, 4, 6):
            rows.append([x.tolist() if hasattr(x, "tolist") else x for x in env.step(action)[:4]])
        return rows
    assert walk() == walk()


def test_a_state_is_paid_for_once(world, goal):
    fresh = World(world.grammar, Cached(world.generator.generator, Store(":memory:")), world.perception)
    state_values = StateValues(fresh, goal, make_reward("clip", world.perception, world.grammar))
    first = state_values.visit([3, 4, 3])
    assert state_values.visit([4, 3]) == [first[1], first[0]]
    assert (state_values.unique_generator_calls, fresh.generator.calls) == (2, 2)


def test_any_function_can_be_the_reward(world, goal):
    bright = lambda images, prompts, goal: np.array([np.asarray(i).mean() for i in images])
    env = SemanticGrid(world, goal, reward=bright)
    _, info = env.reset(seed=0)
    assert info["terms"] == {"reward": pytest.approx(np.asarray(world.images([info["state"]])[0]).mean())}
    with pytest.raises(ValueError, match="finite"):
        SemanticGrid(world, goal, reward=lambda images, prompts, goal: np.full(len(images), np.nan)).reset(seed=0)


def test_vector_walks_like_single_ones_and_batches(world, goal):
    counted = []
    class Counting:
        negative, batch_size = "", 32
        def generate(self, prompts, seeds, negative=None):
            counted.append(len(prompts))
            return world.generator.generate(prompts, seeds, negative)
    fresh = World(world.grammar, Counting(), world.perception)
    envs, singles = (
        SemanticGridVector(3, world=fresh, goal=goal, max_steps=4),
        [SemanticGrid(world, goal, max_steps=4) for _ in range(3)],
    )
    observations, _ = envs.reset(seed=11)
    assert (observations == [env.reset(seed=11 + i)[0] for i, env in enumerate(singles)]).all()
    for actions in ((0, 2, 4), (2, 2, 2), (1, 3, 5)):
        observations, rewards, terminations, truncations, infos = envs.step(np.array(actions))
        rows = [env.step(a) for env, a in zip(singles, actions)]
        assert (observations == [r[0] for r in rows]).all() and rewards == pytest.approx([r[1] for r in rows])
        assert infos["prompt"].tolist() == [r[4]["prompt"] for r in rows]
    assert max(counted) > 1
    truncations = envs.step(np.array((0, 0, 0)))[3]
    assert truncations.any()
    _, rewards, *_ = envs.step(np.array((0, 0, 0)))  # those that had ended start anew
    assert (rewards[truncations] == 0).all()


def test_render_is_the_picture(world, goal):
    env = SemanticGrid(world, goal, render_mode="rgb_array")
    env.reset(seed=0)
    assert (env.render() == np.asarray(world.images([env.state])[0])).all() and env.render().shape == (64, 64, 3)


@pytest.mark.parametrize("make, sentence", [
    (lambda w, g: SemanticGrid(w, g, max_steps=0), "max_steps is 0; it must be 1 or more"),
    (lambda w, g: SemanticGridVector(0, world=w, goal=g), "at least 1 environment"),
    (lambda w, g: SemanticGrid(w, g).reset(options={"state": [9, 9, 9, 9]}), "9"),
])
def test_errors_are_sentences(world, goal, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(world, goal)


def test_goal_is_read_off_the_shipped_picture(world):
    assert isinstance(default_goal(), Image.Image)
    assert (
        world.grammar.decode(
            StateValues(world, default_goal(), make_reward("multi", world.perception, world.grammar)).encoding
        )
        == "a photo of one dog and many people in playground"
    )


def test_the_model_is_what_stepping_does(world, goal):
    for stop in (True, False):
        env = SemanticGrid(world, goal, stop_at_goal=stop)
        next_states, rewards, terminated = env.model()
        assert next_states.shape == rewards.shape == terminated.shape == (480, 8) and terminated.any() == stop
        for state in np.random.default_rng(0).integers(480, size=40):
            action = int(state) % 8
            env.reset(options={"state": env.grammar.unindex(state)})
            observation, reward, ended, _, info = env.step(action)
            assert (
                (info["state"], reward, ended)
                == (next_states[state, action], rewards[state, action], terminated[state, action])
            )


def test_dynamic_seeds_pay_the_mean_of_the_model(world, goal):
    grammar = Grammar.from_string(
        'S -> "a photo of one" Noun "and no people in" Scene\nNoun -> "dog" | "cat"\nScene -> "farm" | "beach"'
    )
    few = World(grammar, world.generator, world.perception)
    env = SemanticGrid(
        few, goal, make_reward("clip", few.perception, grammar), max_steps=1000, stop_at_goal=False, images_per_state=3
    )
    env.reset(seed=0, options={"state": [0, 0]})
    paid = [env.step(1)[1] for _ in range(300)]  # down from the lowest label: always the same state
    assert len(set(paid)) == 3 and env.state_values.unique_generator_calls == 3
    assert np.mean(paid) == pytest.approx(env.model()[1][0, 1], abs=4 * np.std(paid) / 300 ** .5)
    assert env.state_values.unique_generator_calls == 12
    again = SemanticGrid(
        few, goal, make_reward("clip", few.perception, grammar), max_steps=1000, stop_at_goal=False, images_per_state=3
    )
    again.reset(seed=0, options={"state": [0, 0]})
    assert [again.step(1)[1] for _ in range(300)] == paid
    pixels = [few.images([4 * j])[0].tobytes() for j in range(3)]
    assert len(set(pixels)) == 3 and few.prompt(0) == few.prompt(4) == few.prompt(8)


def test_choosing_pays_the_value_and_draws_nothing_before(world, goal):
    from stable_baselines3.common.env_checker import check_env as check_env_sb3
    env, fresh = SemanticChoice(world, goal), SemanticChoice(world, goal, max_steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="diffusers")
        check_env(gym.make("rlgen/SemanticChoice-v0", render_mode="rgb_array").unwrapped)
        check_env_sb3(env)
    assert fresh.reset(seed=0)[1] == {"unique_generator_calls": 0}
    assert fresh.observation_space.contains(fresh.reset()[0])
    far = (fresh.state_values.encoding + 1) % fresh.grammar.nvec
    observation, reward, terminated, truncated, info = fresh.step(far)
    assert (
        (observation == far).all()
        and not terminated
        and reward == sum(info["terms"].values()) == fresh.state_values.values[info["state"]]
    )
    *_, terminated, truncated, info = fresh.step(fresh.state_values.encoding)
    assert terminated and info["at_goal"] and info["unique_generator_calls"] == 2
    with pytest.raises(ValueError, match="not in the action space"):
        fresh.step([9, 9, 9, 9])
    with pytest.raises(ValueError, match="plain reward"):
        SemanticChoice(world, goal, make_reward("shaped-multi", world.perception, world.grammar))
