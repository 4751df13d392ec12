"""The semantic grid, on the shipped models with few denoising steps."""
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image
from refusals import refused

import rlgen.envs  # noqa: F401, registers the environment
from rlgen.envs.grid import SemanticChoice, SemanticGrid, SemanticGridVector, StateValues, World, default_goal, move
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.models.generator import Cached, Generator
from rlgen.models.perception import Perception
from rlgen.reproducibility import short_seed
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
        rows = [env.step(a) for env, a in zip(singles, actions, strict=True)]
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
    *((lambda w, g, n=n: SemanticGrid(w, g, max_steps=n), "max_steps is .*; it must be a whole number, 1 or more")
      for n in (0, -1, 1.5, True, "3", None)),
    (lambda w, g: SemanticGrid(w, g, images_per_state=2.), "images_per_state is 2.0; it must be a whole number"),
    (lambda w, g: SemanticGridVector(0, world=w, goal=g), "num_envs is 0; it must be a whole number"),
    (lambda w, g: SemanticGrid(w, g, stop_at_goal="no"), "stop_at_goal is 'no': it must be True or False"),
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
    fresh.reset()
    with pytest.raises(ValueError, match="not in the action space"):
        fresh.step([9, 9, 9, 9])
    with pytest.raises(ValueError, match="plain reward"):
        SemanticChoice(world, goal, make_reward("shaped-multi", world.perception, world.grammar))


INTEGERS = [np.dtype(code).type for code in np.typecodes["AllInteger"]]


def inside(env):
    "All that a step changes."
    return [(e.position.tolist(), e.steps, e.ended, e.value) for e in getattr(env, "envs", [env])], dict(
        env.state_values.values
    )


@pytest.mark.parametrize("bad", [
    99, 8, -1, 0., 1.5, np.float32(1), np.nan, None, "1", True, np.bool_(True), [0], np.array([1]), np.array(1.),
    np.zeros((0,), int), 2 ** 63, 10 ** 400, np.uint64(2 ** 64 - 1), {}, 1j, [0, [1]],
], ids=lambda x: repr(x)[:20])
def test_a_step_that_is_none_is_refused(world, goal, bad):
    env = SemanticGrid(world, goal)
    env.reset(seed=0)
    before = inside(env)
    refused(lambda: env.step(bad), "The action", "is not in the action space Discrete(8)")
    assert inside(env) == before


@pytest.mark.parametrize("bad", [
    [9] * 4, [-1] * 4, [0.] * 4, [.5] * 4, np.zeros(4), [0] * 3, [0] * 5, 0, None, [None] * 4, "0000", [[0] * 4],
    [[0], 0, 0, 0], [True] * 4, [np.nan] * 4, [0, 0, 0, 2 ** 64 - 1],
], ids=str)
def test_a_choice_that_is_none_is_refused(world, goal, bad):
    env = SemanticChoice(world, goal)
    env.reset(seed=0)
    before = inside(env)
    refused(lambda: env.step(bad), "The action", "is not in the action space MultiDiscrete")
    assert inside(env) == before


@pytest.mark.parametrize("bad", [
    [0, 99], [0, -1], [0, 0.], np.zeros(2), [0, None], [0], [0, 0, 0], 0, None, "00", [[0, 0]], [0, [0]],
], ids=str)
def test_one_bad_step_of_many_moves_none(world, goal, bad):
    envs = SemanticGridVector(2, world=world, goal=goal)
    envs.reset(seed=0)
    before = inside(envs)
    refused(lambda: envs.step(bad), "The action", "is not in the action space MultiDiscrete([8 8])")
    assert inside(envs) == before


@pytest.mark.parametrize("integer", INTEGERS)
def test_every_integer_of_numpy_is_an_action(world, goal, integer):
    rows = []
    for kind in (int, integer):
        env, choice = SemanticGrid(world, goal), SemanticChoice(world, goal)
        envs = SemanticGridVector(8, world=world, goal=goal)
        env.reset(seed=1, options={"state": [1, 5, 1, 1]})
        choice.reset(seed=1)
        envs.reset(seed=1, options={"state": [1, 5, 1, 1]})
        rows.append([env.step(kind(action))[0].tolist() for action in range(8)])
        rows[-1].append(choice.step(np.array([1, 7, 1, 1], kind))[0].tolist())
        rows[-1].append(envs.step(np.arange(8).astype(kind))[0].tolist())
    assert rows[0] == rows[1] and rows[0][:2] == [[1, 5, 1, 1], [0, 5, 1, 1]]
    assert move(np.array([[0, 3]] * 2), np.array([2, 3]).astype(integer), np.array([2, 9])).tolist() == [[0, 4], [0, 2]]


def test_an_episode_is_begun_before_it_is_stepped_and_not_stepped_after_its_end(world, goal):
    ask = "There is no episode under way, or it has ended: call reset before the next step."
    for env in (SemanticGrid(world, goal, max_steps=2), SemanticChoice(world, goal, max_steps=2)):
        action = env.action_space.sample() * 0
        assert refused(lambda: env.step(action)) == ask
        env.reset(seed=0)
        assert [env.step(action)[3] for _ in range(2)] == [False, True]  # truncated
        before = inside(env)
        assert refused(lambda: env.step(action)) == ask and inside(env) == before
        env.reset(seed=0)
        env.step(action)
    env = SemanticGrid(world, goal)  # terminated
    env.reset(options={"state": next(iter(world.grammar.neighbours(env.state_values.encoding)))})
    ahead = [move(env.position, action, world.grammar.nvec).tolist() for action in range(8)]
    assert env.step(ahead.index(env.state_values.encoding.tolist()))[2]
    assert refused(lambda: env.step(0)) == ask


def test_many_environments_begin_again_by_themselves(world, goal):
    envs = SemanticGridVector(2, world=world, goal=goal, max_steps=2)
    refused(lambda: envs.step([0, 0]), "call reset")
    envs.reset(seed=0)
    ends = [envs.step([0, 0])[3].tolist() for _ in range(5)]
    assert ends == [[False] * 2, [True] * 2, [False] * 2, [False] * 2, [True] * 2]


def test_a_generator_that_fails_leaves_the_environment_where_it_was(world, goal):
    class Fails:
        broken = False
        def generate(self, prompts, seeds):
            if self.broken: raise OSError("no answer.")
            return world.generator.generate(prompts, seeds)
    env = SemanticGrid(World(world.grammar, Fails(), world.perception), goal)
    env.reset(seed=0, options={"state": [1, 5, 1, 1]})
    before, Fails.broken = inside(env), True
    refused(lambda: env.step(2), kind=OSError)
    assert inside(env) == before
    Fails.broken = False
    assert env.step(2)[0].tolist() == [1, 6, 1, 1]


class Reads:
    "Sees in an image of one pixel the labels that its colour says."
    def perceive(self, images, grammar):
        labels = np.array([image.getpixel((0, 0))[:2] for image in images])
        return Percept(labels, [np.eye(n)[x] for n, x in zip(grammar.nvec, labels.T, strict=True)], np.eye(3)[:1])


def test_goals_that_show_everything_leave_no_start():
    grammar = Grammar.from_string("S -> 'a' Colour Scene\nColour -> 'red' | 'blue'\nScene -> 'farm' | 'street'")
    pixel = lambda *labels: Image.new("RGB", (1, 1), (*labels, 0))
    few = World(grammar, type("Pixels", (), {"generate": lambda self, p, s: [pixel(0, 0) for _ in p]})(), Reads())
    reward = lambda images, prompts, goals: [0.] * len(images)
    for goals, all_shown in (([pixel(0, 0), pixel(1, 1)], True), ([pixel(0, 0), pixel(1, 0)], False)):
        env, envs = SemanticGrid(few, goals, reward), SemanticGridVector(2, world=few, goal=goals, reward=reward)
        if all_shown:
            for call in (env.reset, lambda: env.reset(seed=0), envs.reset):
                refused(call, "show every label", "options={'state': ...}")
            assert env.reset(options={"state": [1, 0]})[1]["at_goal"]
            SemanticChoice(few, goals, reward).reset()
        else:
            assert {env.reset(seed=s)[0][1] for s in range(20)} == {1}


@pytest.mark.parametrize("mode", ["human", "ansi", "", "RGB_ARRAY", 1, ["rgb_array"]])
def test_only_what_is_offered_is_rendered(world, goal, mode):
    for make in (SemanticGrid, SemanticChoice, SemanticGridVector):
        refused(lambda: make(world=world, goal=goal, render_mode=mode), "render_mode is", "'rgb_array' or None")
        assert make.metadata["render_modes"] == ["rgb_array"]
    env = SemanticGrid(world, goal, render_mode="rgb_array")
    refused(env.render, "call reset first")
    assert SemanticGrid(world, goal).render() is None


# ---- seeds ----

class Recording:
    "Stands in for a generator and keeps the seeds that it was asked for."
    def __init__(self):
        self.seeds = []

    def generate(self, prompts, seeds):
        self.seeds += seeds
        return [Image.new("RGB", (4, 4))] * len(seeds)


def test_no_image_seed_shares_an_image_with_another(world):
    "Five images of each state under each seed; those of seed 0 are what they always were."
    n, found = world.grammar.n_states, {}
    for image_seed in (0, 1, 2, 3, n, 2**31, 2**32, 2**32 + 1, 2**63 - 1):
        generator = Recording()
        World(world.grammar, generator, None, image_seed).images(range(5 * n))
        found[image_seed] = generator.seeds
    assert found[0] == list(range(5 * n))
    together = [seed for seeds in found.values() for seed in seeds]
    assert len(set(together)) == len(together) and 0 <= min(together) and max(together) < 2**63
    for state in range(n):  # what PyTorch's generator on the CPU makes of them
        short = [short_seed(seeds[state + n * j]) for seeds in found.values() for j in range(5)]
        assert len(set(short)) == len(short)
    again = Recording()
    World(world.grammar, again, None, np.int64(1)).images(np.arange(3))
    assert again.seeds == found[1][:3] and all(type(s) is int for s in again.seeds)


@pytest.mark.parametrize("wrong", [-1, 2**63, 1.5, True, "1", None])
def test_what_is_no_image_seed_is_refused(world, wrong):
    refused(lambda: World(world.grammar, Recording(), None, wrong), "image_seed is", "from 0 to 2**63 - 1")


def test_environments_take_every_seed(world, goal):
    single, choice = SemanticGrid(world, goal), SemanticChoice(world, goal)
    vector = SemanticGridVector(2, world=world, goal=goal)
    for seed in (0, 2**31, 2**32, 2**63 - 1):
        start = single.reset(seed=seed)[0].tolist()
        assert start == single.reset(seed=np.uint64(seed))[0].tolist() == vector.reset(seed=seed)[0][0].tolist()
        choice.reset(seed=np.uint64(seed))
    assert vector.reset(seed=2**63 - 1)[0][1].tolist() == single.reset(seed=0)[0].tolist()
    one, two = (single.reset(seed=s)[0].tolist() for s in (1, 2))
    for seeds in ([1, 2], (1, 2), np.array([1, 2]), [np.int64(1), np.uint8(2)], np.int64(1)):
        assert vector.reset(seed=seeds)[0].tolist() == [one, two]
    vector.reset(seed=[1, None])
    vector.reset()
    for wrong in (-1, 2**63, 1.5, True, "1"):
        for env in (single, choice, vector):
            refused(lambda: env.reset(seed=wrong), "seed is", "from 0 to 2**63 - 1")
    refused(lambda: vector.reset(seed=[1]), "2 environments came with 1 seeds")
    refused(lambda: vector.reset(seed=[1, -1]), "seed is -1")
