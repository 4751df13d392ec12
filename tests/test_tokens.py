"""Tokens behind a seed prompt: what a text is worth, what is counted, and the environment under both checkers."""
import math
import warnings
from zlib import crc32

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings, strategies as st
from PIL import Image
from refusals import refused

from rlgen.data.prompts import Pair
from rlgen.envs.tokens import PromptTokens, TokenTask, default_token_task
from rlgen.models.generator import Cached
from rlgen.rewards.similarity import Similarity
from rlgen.store import Store

WORDS = ["red", "green", "blue"]


def colour(prompt, seed):
    return tuple(crc32(f"{word} {prompt} {seed}".encode()) % 256 for word in WORDS)


class Painter:
    "Draws one colour, decided by prompt and seed; remembers what it was asked."
    settings, negative, batch_size = {"model": "painter"}, "", 4

    def __init__(self, words=None):
        self.asked, self.batches = [], 0
        if words:
            self.overflow = lambda prompt: max(0, 2 + len(prompt.replace(",", " ,").split()) - words)

    def generate(self, prompts, seeds, negative=None):
        self.asked += zip(prompts, seeds, strict=True)
        self.batches += 1
        return [Image.new("RGB", (8, 8), colour(p, s)) for p, s in zip(prompts, seeds, strict=True)]


def redness(images, prompts, goals):
    return [np.asarray(image)[0, 0, 0] / 255 for image in images]


def pairs(n=3):
    return [
        Pair(
            f"a photo of {i} dogs",
            f"a photo of {i} dogs, red, blue",
            ("red", "blue"),
            (Image.new("RGB", (8, 8), (255, 0, 0)),),
        )
        for i in range(n)
    ]


def task(n=3, reward=redness, **settings):
    return TokenTask(pairs(n), Painter(), reward, **({"length": 2} | settings))


def worth(prompt, seeds=(0,)):
    return np.mean([colour(prompt, s)[0] / 255 for s in seeds])


# ---- the task ----

def test_a_text_is_worth_what_its_picture_is_paid():
    t = task()
    np.testing.assert_allclose(
        t.score([0, 2, 0], ["red", "blue red", ""]),
        [worth("a photo of 0 dogs, red"), worth("a photo of 2 dogs, blue red"), worth("a photo of 0 dogs")],
    )


def test_lines():
    t = task(image_seeds=(0, 5))
    np.testing.assert_allclose(t.seed_prompt_reward(), [worth(p.seed, (0, 5)) for p in t.pairs])
    np.testing.assert_allclose(t.ground_truth_reward(), [worth(p.prompt, (0, 5)) for p in t.pairs])
    assert t.unique_generator_calls == 12
    t.seed_prompt_reward(), t.ground_truth_reward()
    assert t.unique_generator_calls == 12


def test_several_seeds_are_averaged():
    t = task(image_seeds=(3, 1, 4))
    np.testing.assert_allclose(
        t.score([1, 0], ["red", "blue"]),
        [worth("a photo of 1 dogs, red", (3, 1, 4)), worth("a photo of 0 dogs, blue", (3, 1, 4))],
    )
    assert t.unique_generator_calls == 6 and t.generator.batches == 1
    assert t.generator.asked == [
        (p, s) for p in ("a photo of 1 dogs, red", "a photo of 0 dogs, blue") for s in (3, 1, 4)
    ]


def test_a_picture_is_counted_and_drawn_once():
    t = task()
    a = t.score([0, 0, 1], ["red", "red", "red"])
    assert t.unique_generator_calls == 2 == len(t.generator.asked) and a[0] == a[1]
    t.score([0, 1, 0], ["red", "red", "blue"])
    assert t.unique_generator_calls == 3 == len(t.generator.asked)
    t.images([0], ["red"])
    assert t.unique_generator_calls == 3


def test_pairs_with_one_seed_prompt_share_their_pictures():
    twice = pairs(1) * 2
    t = TokenTask(twice, Cached(Painter(), Store(":memory:")), redness, 2)
    t.score([0, 1], ["red", "red"])
    assert t.unique_generator_calls == 1 == t.generator.calls


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["", "red", "blue", "red blue"])), max_size=12),
    st.integers(1, 3),
)
def test_what_is_counted_is_what_a_store_draws(asked, seeds):
    t = TokenTask(pairs(), Cached(Painter(), Store(":memory:")), redness, 2, image_seeds=range(seeds))
    for at in range(0, len(asked), 3):
        t.score(*zip(*asked[at:at + 3], strict=True))
    assert t.unique_generator_calls == len(set(asked)) * seeds == t.generator.calls


def test_each_picture_meets_the_goal_of_its_pair():
    met = []
    class Reward:
        def target(self, targets, prompt):
            return prompt

        def __call__(self, images, prompts, goals):
            met.extend(zip(prompts, goals, strict=True))
            return np.zeros(len(images))
    task(reward=Reward(), image_seeds=(0, 1)).score([2, 0], ["red", "blue"])
    assert (
        met
        == [("a photo of 2 dogs, red", "a photo of 2 dogs, red, blue")] * 2
        + [("a photo of 0 dogs, blue", "a photo of 0 dogs, red, blue")] * 2
    )
    met.clear()
    task(reward=lambda images, prompts, goals: met.extend(goals) or np.zeros(len(images))).score([1], ["red"])
    assert met == [list(pairs()[1].targets)]  # a plain function is given the target pictures


def test_a_seed_prompt_that_is_too_long_is_refused():
    long = [*pairs(1), Pair("one two three four five six", "one two three four five six, red", ("red",))]
    TokenTask(long, Painter(words=11), redness, 2)  # a start, six words, a comma, two more, an end
    refused(
        lambda: TokenTask(long, Painter(words=10), redness, 2),
        "one two three four five six",
        "2 more tokens",
        "1 too many",
    )
    refused(lambda: TokenTask(long, Cached(Painter(words=10), Store(":memory:")), redness, 2), "1 too many")
    assert Cached(Painter(words=4)).overflow("a b c d") == 2 and Cached(Painter(words=4)).overflow("a b") == 0
    assert Cached(Painter()).overflow("a " * 1000) == 0  # a generator that does not say what it reads


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_an_error(bad):
    t = task(reward=lambda images, prompts, goals: [1., bad][:len(images)])
    refused(lambda: t.score([0, 1], ["red", "red"]), str(bad), "finite")
    assert t.score([2], ["blue"]).tolist() == [1.]  # and what failed was not kept
    refused(lambda: t.score([0, 1], ["red", "red"]), str(bad))


def test_a_task_refuses():
    refused(lambda: TokenTask([], Painter(), redness), "at least one")
    refused(lambda: task(image_seeds=()), "seeds", "at least one")
    with pytest.raises(ValueError):
        task().score([0, 1], ["red"])


# ---- the environment ----

def env(n=3, length=2, **settings):
    return PromptTokens(task(n, length=length), length=length, **({"vocabulary": WORDS} | settings))


@pytest.mark.parametrize("length", [1, 2, 4])
def test_gymnasium_checks_it(length):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env(length=length, render_mode="rgb_array"), skip_render_check=True)


def test_stable_baselines_checks_it():
    from stable_baselines3.common.env_checker import check_env as check
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(env())
        check(env(render_mode="rgb_array"))


def test_it_is_registered():
    made = gym.make("rlgen/PromptTokens-v0", task=task(), vocabulary=WORDS, length=2)
    assert isinstance(made.unwrapped, PromptTokens)
    made.reset(seed=1)
    made.step(0)
    _, reward, terminated, truncated, info = made.step(2)
    assert (
        terminated
        and not truncated
        and reward == pytest.approx(worth(info["prompt"]))
        and info["prompt"].endswith("dogs, red blue")
    )


def test_an_episode():
    e = env()
    observation, info = e.reset(seed=0, options={"pair": 2})
    assert observation.tolist() == [2, 0, 0] and info == {"prompt": "a photo of 2 dogs", "unique_generator_calls": 0}
    observation, reward, terminated, truncated, info = e.step(1)
    assert (observation.tolist(), reward, terminated, truncated) == ([2, 2, 0], 0, False, False)
    assert info == {"prompt": "a photo of 2 dogs, green", "unique_generator_calls": 0}  # nothing is drawn on the way
    observation, reward, terminated, truncated, info = e.step(np.int64(0))
    assert (observation.tolist(), terminated, truncated) == ([2, 2, 1], True, False)
    assert reward == pytest.approx(worth("a photo of 2 dogs, green red")) and info["unique_generator_calls"] == 1
    assert e.reset(options={"pair": 2})[0].tolist() == [2, 0, 0]


def test_an_episode_that_has_ended_takes_no_step():
    sentence = "There is no episode under way, or it has ended: call reset before the next step."
    e = env(render_mode="rgb_array")
    refused(lambda: e.step(0), sentence)
    refused(e.render, "nothing to render yet", "reset")
    e.reset(seed=0)
    observation = [e.step(0) for _ in range(2)][-1][0]
    asked = e.task.unique_generator_calls
    for _ in range(3):
        refused(lambda: e.step(0), sentence)
    assert e.observation_space.contains(observation) and e.render().shape == (8, 8, 3)
    assert e.task.unique_generator_calls == asked and e.text == "red red"
    e.reset(seed=0)
    refused(lambda: e.reset(options={"pair": 9}), "9")
    assert e.step(1)[0].tolist()[1:] == [2, 0]  # a reset that was refused changes nothing


def test_the_seed_decides_the_pairs():
    rows = lambda seed: [e.reset(seed=seed if i == 0 else None)[0][0] for e in [env(n=3)] for i in range(20)]
    assert rows(1) == rows(1) != rows(2) and set(rows(1)) == {0, 1, 2}


def test_render_shows_the_prompt_as_it_stands():
    e = env(render_mode="rgb_array")
    e.reset(seed=0, options={"pair": 1})
    e.step(2)
    picture = e.render()
    assert (
        picture.shape == (8, 8, 3)
        and picture.dtype == np.uint8
        and tuple(picture[0, 0]) == colour("a photo of 1 dogs, blue", 0)
    )
    assert e.task.unique_generator_calls == 1  # a look costs a picture, and is counted
    still = env()
    still.reset(seed=0)
    assert still.render() is None and still.task.unique_generator_calls == 0


def test_words_are_those_of_the_missing_modifiers():
    many = [
        Pair("a dog", "a dog, john harris, macabre", ("john harris", "macabre")),
        Pair("a cat", "a cat, macabre", ("macabre",)),
    ]
    e = PromptTokens(TokenTask(many, Painter(), redness, 2), length=2)
    assert e.vocabulary == ["john", "harris", "macabre"]
    assert e.action_space.n == 3 and e.observation_space.nvec.tolist() == [2, 4, 4]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: env(length=0), ("length", "1 or more")),
        (lambda: env(render_mode="human"), ("human", "rgb_array")),
        (lambda: env(vocabulary=[]), ("words",)),
        (lambda: env().reset(options={"pair": 3}), ("3", "counted from 0")),
        (lambda: env().reset(options={"pair": -1}), ("-1",)),
    ],
)
def test_the_environment_refuses(call, words):
    refused(call, *words)


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_agents_of_stable_baselines_run_on_it(name):
    import stable_baselines3
    e = env()
    few = {"n_steps": 8, "batch_size": 8} if name == "PPO" else {"learning_starts": 4, "batch_size": 4, "train_freq": 4}
    model = getattr(stable_baselines3, name)("MlpPolicy", e, seed=0, device="cpu", **few).learn(24)
    assert model.num_timesteps >= 24 and 0 < e.task.unique_generator_calls <= 27
    assert e.action_space.contains(int(model.predict(e.reset(seed=0)[0])[0]))


# ---- with the shipped models ----

def test_the_default_task_works_with_the_shipped_models():
    t = default_token_task(pairs=2)
    assert isinstance(t.reward, Similarity) and len(t.pairs) == 2
    seed, truth = t.seed_prompt_reward(), t.ground_truth_reward()
    assert (np.abs([seed, truth]) <= 1 + 1e-6).all() and truth.mean() > seed.mean()
    assert t.unique_generator_calls == 4 == t.generator.calls
    e = gym.make("rlgen/PromptTokens-v0", task=t)
    observation, _ = e.reset(seed=0)
    assert e.observation_space.contains(observation)
    e.step(0)
    _, reward, terminated, _, info = e.step(1)
    assert (
        terminated
        and reward == pytest.approx(t.score([observation[0]], [" ".join(e.unwrapped.vocabulary[:2])])[0])
        and info["unique_generator_calls"] == 5
    )
    many = t.pairs[0].seed + " dog" * 20
    refused(
        lambda: TokenTask(
            [Pair(many, many + ", macabre", ("macabre",), t.pairs[0].targets)], t.generator, t.reward, 10
        ),
        "too many",
        "text encoder",
    )
