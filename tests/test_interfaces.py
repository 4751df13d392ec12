"""What the package takes from others: objects that have the methods of `rlgen.interfaces` and nothing else."""
import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from forks import Process
from gymnasium.utils.env_checker import check_env
from PIL import Image
from refusals import refused

import rlgen
from rlgen import interfaces
from rlgen.data.labelled import Labelled
from rlgen.data.prompts import Pair
from rlgen.envs.grid import SemanticChoice, SemanticGrid, SemanticGridVector, StateValues, World
from rlgen.envs.support import SupportSet, SupportTask
from rlgen.envs.tokens import PromptTokens, TokenTask
from rlgen.grammar import Grammar
from rlgen.interfaces import (
    MAX_REWARD,
    Percept,
    check_flag,
    check_flags,
    check_request,
    check_reward,
    check_rewards,
    generate_images,
    goal_of_each,
)
from rlgen.models.generator import Cached
from rlgen.models.loading import ModelSettings, load_generator, load_perception
from rlgen.rewards.semantic import (
    Clip,
    MultiSemantic,
    PerceptReward,
    RewardSum,
    WeightedSum,
    name_of,
    reward_terms,
    weighted_sum,
)
from rlgen.rewards.shaping import Shaped, make_reward
from rlgen.rewards.similarity import Similarity
from rlgen.store import Store

GRAMMAR = Grammar.from_string("""
    S -> 'a' Colour 'square in' Scene
    Colour -> 'red' | 'green' | 'blue'
    Scene -> 'farm' | 'street'
""")
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


def draw(prompts, seeds):
    "Squares of the colour that the prompt names, brighter in a street; a plain function without a negative prompt."
    images = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        colour = next((c for name, c in COLOURS.items() if name in prompt), (90, 90, 90))
        images.append(Image.new("RGB", (8, 8), tuple(v + 50 * ("street" in prompt) + seed % 2 for v in colour)))
    return images


class Draws:
    "A foreign generator: `generate` and nothing else, not even a negative prompt."
    __slots__ = ("asked",)

    def __init__(self):
        self.asked = 0

    def generate(self, prompts, seeds):
        self.asked += len(prompts)
        return draw(prompts, seeds)


class Sees:
    "A foreign perception model: `perceive` and nothing else."
    __slots__ = ()

    def perceive(self, images, grammar):
        pixels = np.array([np.asarray(image, float)[0, 0] for image in images])
        labels = np.stack([pixels.argmax(1), (pixels.min(1) > 25).astype(int)], 1)
        probabilities = [np.eye(n)[column] for n, column in zip(grammar.nvec, labels.T, strict=True)]
        embeddings = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
        return Percept(labels, probabilities, embeddings.astype(np.float32))


class Embeds:
    "A foreign embedder: `embed_images` and nothing else."
    __slots__ = ()

    def embed_images(self, images):
        pixels = np.array([np.asarray(image, float).mean((0, 1)) for image in images])
        return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def redness(images, prompts, goals):
    "A foreign reward: a plain function."
    assert len(images) == len(prompts) == len(goals)
    return [np.asarray(image)[0, 0, 0] / 255 for image in images]


def likeness(images, prompts, goals):
    "A foreign reward that looks at its goals: an image, or a list of which any counts."
    found = []
    for image, goal in zip(images, goals, strict=True):
        wanted = goal if isinstance(goal, list) else [goal]
        found.append(max(-np.abs(np.asarray(image, float) - np.asarray(w, float)).mean() / 255 for w in wanted))
    return found


class Named:
    "A foreign reward that names its terms."
    def terms(self, images, prompts, goals):
        return {"red": np.array(redness(images, prompts, goals)), "length": [len(p) / 100 for p in prompts]}

    def __call__(self, images, prompts, goals):
        return sum(np.asarray(v) for v in self.terms(images, prompts, goals).values())


def goal(name="blue", scene="street"):
    return draw([f"a {name} square in {scene}"], [0])[0]


def world(generator=None):
    return World(GRAMMAR, Draws() if generator is None else generator, Sees())


REWARDS = {
    "a function": redness,
    "a function of goals": likeness,
    "named terms": Named(),
    "similarity": Similarity(Embeds()),
    "percepts": MultiSemantic(Sees(), GRAMMAR),
    "a shaped function": Shaped(redness),
    "a shaped function with its best": Shaped(likeness, best=0.),
    "a shaped sum": Shaped(weighted_sum((1, redness), (2, MultiSemantic(Sees(), GRAMMAR))), best=4.),
    "a sum of functions": weighted_sum((1, redness), (-2, likeness)),
    "a sum of both kinds": weighted_sum((1, redness), (2, MultiSemantic(Sees(), GRAMMAR)), (1, Similarity(Embeds()))),
    "a sum of percepts": weighted_sum((1, MultiSemantic(Sees(), GRAMMAR))),
}


# ---- the grid

@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_works_in_the_grid(name):
    "The value of a state is what the reward says of its image, and steps are rewarded by it or by its change."
    reward, here = REWARDS[name], world()
    env = SemanticGrid(here, goal(), reward)
    plain = reward.reward if isinstance(reward, Shaped) else reward
    env.reset(seed=0, options={"state": [0, 0]})
    _, paid, *_, info = env.step(0)
    images, prompts = here.images([0, 2]), [here.prompt(0), here.prompt(2)]
    before, after = plain(images, prompts, [goal()] * 2)
    assert info["state"] == 2 and sum(info["terms"].values()) == pytest.approx(after)
    if not isinstance(reward, Shaped):
        assert paid == pytest.approx(after)
    else:
        best = 0 if reward.best is None else reward.best
        assert paid == pytest.approx(.9 * (after - best) - (before - best) - .3)
    check_env(env, skip_render_check=True)


def test_every_reward_works_in_the_bandit_and_in_vectors():
    for name, reward in REWARDS.items():
        envs = SemanticGridVector(3, world=world(), goal=goal(), reward=reward)
        envs.reset(seed=0)
        assert envs.step(np.zeros(3, int))[1].shape == (3,), name
        if not isinstance(reward, Shaped):
            env = SemanticChoice(world(), goal(), reward)
            env.reset(seed=0)
            state = GRAMMAR.index([2, 1])
            expected = reward(env.state_values.world.images([state]), [env.state_values.world.prompt(state)], [goal()])
            assert env.step(np.array([2, 1]))[1] == pytest.approx(float(expected[0])), name


def test_of_several_goals_any_counts():
    both = [goal("red"), goal("blue")]
    for reward in (likeness, MultiSemantic(Sees(), GRAMMAR)):
        values = StateValues(world(), both, reward)
        a, b, other = values.visit([GRAMMAR.index([c, 1]) for c in (0, 2, 1)])
        assert a == b > other
    assert MultiSemantic(Sees(), GRAMMAR)([goal("blue")] * 2, ["", ""], [both, goal("red")]).tolist() == [2, 1]


def test_the_goal_is_given_as_it_came():
    met = []
    reward = lambda images, prompts, goals: met.extend(goals) or [0.] * len(images)  # noqa: E731
    one, several = goal(), [goal("red"), goal("green")]
    StateValues(world(), one, reward).visit([0, 1])
    StateValues(world(), several, reward).visit([0])
    assert met[0] is met[1] is one and met[2] is several


def test_a_foreign_generator_is_asked_once_for_each_state():
    here = world()
    values = StateValues(here, goal(), redness)
    assert values.visit([0, 1, 0]) == values.visit([0, 1, 0]) and here.generator.asked == 2
    assert values.unique_generator_calls == 2


def test_a_negative_prompt_is_passed_on_only_if_there_is_one():
    class Notes(Draws):
        def generate(self, prompts, seeds, negative=None):
            self.asked = negative
            return draw(prompts, seeds)
    generator = Notes()
    World(GRAMMAR, generator, Sees(), negative="blurred").images([0])
    assert generator.asked == "blurred"
    World(GRAMMAR, generator, Sees()).images([0])
    assert generator.asked is None


def test_a_plain_function_is_a_generator_after_one_line():
    here = World(GRAMMAR, SimpleNamespace(generate=draw), Sees())
    assert here.perceive([0])[0].encodings.tolist() == [[0, 0]]
    assert Cached(SimpleNamespace(generate=draw)).generate(["a red square"], [0])[0].getpixel((0, 0)) == (200, 0, 0)


# ---- tokens and support sets

PAIRS = [Pair("a square", "a square, blue", ("blue",), (goal("blue"),))]


@pytest.mark.parametrize("name", [n for n in REWARDS if "shaped" not in n])
def test_every_reward_works_behind_a_seed_prompt(name):
    task = TokenTask(PAIRS, Draws(), REWARDS[name])
    expected = REWARDS[name](draw(["a square, blue"], [0]), ["a square, blue"], [[goal("blue")]])
    assert task.score([0], ["blue"]) == pytest.approx(np.asarray(expected))
    assert task.ground_truth_reward() == pytest.approx(np.asarray(expected))
    check_env(PromptTokens(task, ["red", "blue"]), skip_render_check=True)


class Learns:
    "A foreign classifier, with the five methods that a support task uses."
    def prepare(self, images):
        return np.asarray(images, float)[:, 0, 0]

    def join(self, inputs):
        return np.concatenate(inputs)

    def fit(self, inputs, labels, val, start=None, seed=0):
        self.means = np.array([inputs[labels == k].mean(0) for k in range(3)])

    def evaluate(self, inputs, labels):
        right = ((inputs[:, None] - self.means) ** 2).sum(2).argmin(1) == labels
        per_class = [right[labels == k].mean() for k in range(3)]
        return SimpleNamespace(accuracy=right.mean(), entropy=.1, per_class=per_class)

    def state(self):
        return {}


def test_a_foreign_generator_fills_a_support_set():
    images = np.stack([np.asarray(p) for p in draw(list(COLOURS) * 2, range(6))])
    data = Labelled(images, np.array([0, 1, 2] * 2), tuple(COLOURS))
    generator = Draws()
    env = SupportSet(SupportTask(data, data, generator, Learns(), per_step=2, max_images=4))
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    while not env.step(np.array([0, 1, 0, 2]))[2]:
        pass
    assert env.size == 4 and generator.asked > 0


# ---- the store

def test_without_settings_images_stay_in_memory():
    generator = Draws()
    cached = Cached(generator)
    cached.generate(["a red square"] * 2, [1, 1])
    cached.generate(["a red square"], [1])
    assert (generator.asked, cached.calls, cached.hits) == (1, 1, 2)
    store = Store(":memory:")  # two of them may share a store in memory, and do not take each other's images
    Cached(generator, store).generate(["a red square"], [1])
    other = Cached(SimpleNamespace(generate=lambda prompts, seeds: [Image.new("RGB", (2, 2))] * len(prompts)), store)
    assert other.generate(["a red square"], [1])[0].size == (2, 2)


def test_a_name_with_a_version_brings_images_into_a_file(tmp_path):
    with Store(tmp_path / "images.sqlite") as store:
        for name, words in ((None, "give it a name with a version"), ("mine", "has no version")):
            with pytest.raises(ValueError, match=words):
                Cached(Draws(), store, name)
        with pytest.raises(ValueError, match="leave name out"):
            Cached(load_generator().generator, store, "mine-1")
        Cached(Draws(), store, name="mine-1").generate(["a red square"], [1])
    with Store(tmp_path / "images.sqlite") as store:
        same, newer = Draws(), Draws()
        Cached(same, store, name="mine-1").generate(["a red square"], [1])
        Cached(newer, store, name="mine-2").generate(["a red square"], [1])
        assert (same.asked, newer.asked) == (0, 1)


# ---- sums, shaping, names

def test_sums_name_their_terms():
    seen, prompt = [goal("blue", "farm")], ["a blue square in farm"]
    sum_ = REWARDS["a sum of both kinds"]
    assert isinstance(sum_, RewardSum) and isinstance(REWARDS["a sum of percepts"], WeightedSum)
    assert set(sum_.terms(seen, prompt, [goal()])) == {
        "redness", "MultiSemantic.Colour", "MultiSemantic.Scene", "Similarity.image"
    }
    assert sum_.terms(seen, prompt, [goal()]).keys() == sum_.terms(seen, prompt, [sum_.target([goal()])]).keys()
    assert name_of(redness) == "redness" and name_of(Named()) == "Named"
    for parts in ((), ((np.nan, redness),)):
        with pytest.raises(ValueError, match="weight"):
            weighted_sum(*parts)


def test_shaping_takes_the_best_value_of_a_foreign_reward():
    assert Shaped(redness).best_of(goal()) == 0 and Shaped(redness, best=2.).best_of(goal()) == 2
    multi = MultiSemantic(Sees(), GRAMMAR)
    assert Shaped(multi).best_of(goal()) == 2 and Shaped(multi, best=5.).best_of(goal()) == 5
    assert SemanticGrid(world(), goal(), Shaped(redness)).model()[1].shape == (6, 4)


def test_a_reward_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "mine_of_test.py").write_text("def ones(images, prompts, goals):\n    return [1.] * len(images)\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert make_reward("mine_of_test:ones", Sees(), GRAMMAR)([1, 2], ["", ""], [None] * 2) == [1, 1]
    shaped = make_reward("shaped-mine_of_test:ones", Sees(), GRAMMAR, discount=.5)
    assert isinstance(shaped, Shaped) and shaped.discount == .5 and sys.path == path
    for name in ("mine_of_test:nothing", "no_such_module:x", "mine_of_test:", ":x"):
        with pytest.raises(ValueError, match="write module:function"):
            make_reward(name, Sees(), GRAMMAR)
    with pytest.raises(ValueError, match="is no reward"):
        make_reward("sys:path", Sees(), GRAMMAR)


# ---- what is refused

@pytest.mark.parametrize("given, sentence", [
    ([1.], "shape \\(1,\\) for 2 images"), ([[1.], [2.]], "shape \\(2, 1\\) for 2 images"), (1., "shape \\(\\) for 2"),
    ([1., np.nan], "nan at index 1"), ([np.inf, 1.], "inf at index 0"), (["a", "b"], "must be one finite number"),
    (None, "gave None"), ([1., None], "None"), ([1., 1j], "1j"), ([1., 1e308], "1e.308 at index 1"),
    ([1.] * 3, "shape \\(3,\\) for 2 images"), (np.array([1., 2.], np.complex64), "j"), ([1., [2.]], "finite"),
])
def test_a_reward_that_is_not_one_finite_number_for_each_image_is_an_error(given, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        check_rewards(given, "my reward", 2)
    assert str(error.value).startswith("my reward gave") and "\n" not in str(error.value)
    bad = lambda images, prompts, goals: given  # noqa: E731
    for wrong in (bad, Shaped(bad), weighted_sum((1, redness), (1, bad))):
        env = SemanticGrid(world(), goal(), wrong, images_per_state=1)
        with pytest.raises(ValueError, match="a reward must be"):
            env.state_values.visit([0, 1])
        assert not env.state_values.values  # what failed is not kept
    with pytest.raises(ValueError, match="a reward must be"):
        TokenTask(PAIRS, Draws(), bad, image_seeds=(0, 1)).score([0], ["blue"])


WRONG = {  # what a reward may give for n images instead of n finite numbers
    "too few": lambda n: np.zeros(n - 1),
    "too many": lambda n: np.zeros(n + 1),
    "a column": lambda n: np.zeros((n, 1)),
    "one for all": lambda n: 1.,
    "nothing": lambda n: None,
    "None": lambda n: [None] * n,
    "text": lambda n: ["1"] * n,
    "complex": lambda n: np.ones(n, np.complex64),
    "a complex one": lambda n: [1j] * n,
    "nan": lambda n: [np.nan] * n,
    "infinity": lambda n: np.full(n, np.inf, np.float32),
    "1e308": lambda n: [1e308] * n,
    "-1e13": lambda n: [-1e13] * n,
    "a large integer": lambda n: [10 ** 400] * n,
}


class Scored(PerceptReward):
    "A foreign reward of percepts, whose only term is what it was given."
    given = staticmethod(np.zeros)

    def score(self, percept, goal):
        return {"term": self.given(len(percept))}


def scored(given):
    return type("Given", (Scored,), {"given": staticmethod(given)})(Sees(), GRAMMAR)


def named(given):
    terms = lambda self, images, prompts, goals: {"fine": np.ones(len(images)), "term": given(len(images))}
    return type("Terms", (), {"terms": terms, "__call__": lambda *_: None})()


def stepped(reward):
    env = SemanticChoice(world(), goal(), reward)
    env.reset(seed=0)
    env.step([0, 1])


ENTRIES = {
    "reset": lambda reward: SemanticGrid(world(), goal(), reward).reset(seed=0),
    "reset, shaped": lambda reward: SemanticGrid(world(), goal(), Shaped(reward, best=1.)).reset(seed=0),
    "reset of many": lambda reward: SemanticGridVector(2, world=world(), goal=goal(), reward=reward).reset(seed=0),
    "step": stepped,
    "model": lambda reward: SemanticGrid(world(), goal(), reward).model(),
    "visit": lambda reward: StateValues(world(), goal(), reward).visit([0, 1, 2]),
    "sum": lambda reward: weighted_sum((1, redness), (0, reward))([goal()] * 2, [""] * 2, goal()),
    "terms": lambda reward: reward_terms(reward, [goal()] * 2, [""] * 2, [goal()] * 2),
    "a text": lambda reward: TokenTask(PAIRS, Draws(), reward, image_seeds=(0, 1)).score([0], ["blue"]),
}
SCORES = {
    "alone": lambda reward: reward([goal()] * 2, [""] * 2, goal()),
    "best": lambda reward: reward.best(goal()),
    "best, shaped": lambda reward: SemanticGrid(world(), goal(), Shaped(reward)),
    "a sum of percepts": lambda reward: WeightedSum(reward.perception, GRAMMAR, ((0., reward),)).best(goal()),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_nothing_is_made_of_a_wrong_reward_wherever_it_comes_in(wrong):
    given = WRONG[wrong]
    plain = lambda images, prompts, goals: given(len(images))  # noqa: E731
    for enter in ENTRIES.values():
        for reward in (plain, named(given), scored(given), weighted_sum((1, redness), (1, plain))):
            refused(lambda: enter(reward), "a reward must be one finite number, from -1e12 to 1e12")
    for enter in SCORES.values():
        refused(lambda: enter(scored(given)), "term term, gave", "a reward must be")


@pytest.mark.parametrize("terms", [None, {}, [1.], np.zeros(1)])
def test_terms_have_names(terms):
    reward = type("Odd", (), {"terms": lambda *_: terms, "__call__": lambda *_: [0.]})()
    refused(lambda: SemanticGrid(world(), goal(), reward).reset(seed=0), "Odd gave", "at least one named term")


def test_a_single_reward_and_flags_of_any_type():
    for value in (1, 1., True, np.float32(1), np.int8(1), np.uint64(1), np.array(1.), np.bool_(True), np.longdouble(1)):
        assert check_reward(value, "mine") == 1. and type(check_reward(value, "mine")) is float
    assert check_reward(-MAX_REWARD, "mine") == -MAX_REWARD and check_rewards([MAX_REWARD], "mine") == MAX_REWARD
    for value in (None, "1", 1j, np.complex128(1), [1.], np.ones(1), np.nan, -np.inf, 1e308, 1.1e12, 10 ** 400, {}):
        refused(lambda: check_reward(value, "mine"), "mine gave", "a reward must be one finite number")
    for flag in (True, 1, np.bool_(True), np.int8(1), np.uint8(1), np.array(True), np.array(1)):
        assert check_flag(flag, "over") is True
    for flag in (2, -1, 1., np.nan, None, "True", [True], np.array([True]), 1j):
        refused(lambda: check_flag(flag, "over"), "over is", "True or False, or 1 or 0")
    assert check_flags([[1, 0]], "over", (1, 2)).tolist() == [[True, False]]
    for flags in ([1, 0, 1], [1, 2], [1., 0.], [True, None], "10", [[1], [0]], [1, [0]]):
        refused(lambda: check_flags(flags, "over", (2,)), "over is")


def test_a_squared_batch_of_large_returns_is_finite_in_single_precision():
    returns = np.full(1000, MAX_REWARD * 1e5, np.float32)
    assert np.isfinite((returns ** 2).sum())


@pytest.mark.parametrize("settings", [
    dict(discount=1.1), dict(discount=-.1), dict(discount=np.nan), dict(discount="0.9"), dict(step_cost=np.inf),
    dict(step_cost=None), dict(bonus=1e308), dict(bonus=1j), dict(best=np.nan), dict(best="4"),
])
def test_numbers_of_a_shaped_reward_are_finite(settings):
    refused(lambda: Shaped(redness, **settings), *settings)


@pytest.mark.parametrize("images, error, sentence", [
    ([], ValueError, "0 images for 1 prompts"), ([np.zeros((8, 8, 3))], TypeError, "gave a ndarray"),
    ([goal(), goal()], ValueError, "2 images for 1 prompts"),
])
def test_what_is_no_image_is_refused_from_every_generator(images, error, sentence):
    bad = SimpleNamespace(generate=lambda prompts, seeds: images)
    for call in (
        lambda: generate_images(bad, ["a"], [0]),
        lambda: Cached(bad).generate(["a"], [0]),
        lambda: World(GRAMMAR, bad, Sees()).images([0]),
        lambda: TokenTask(PAIRS, bad, redness).score([0], ["blue"]),
    ):
        with pytest.raises(error, match=sentence):
            call()


def test_images_of_other_modes_become_rgb():
    grey = SimpleNamespace(generate=lambda prompts, seeds: [Image.new("L", (8, 8), 7)] * len(prompts))
    assert [p.mode for p in (*generate_images(grey, ["a"], [0]), *Cached(grey).generate(["a"], [0]))] == ["RGB"] * 2


@pytest.mark.parametrize("percept, error, sentence", [
    ([[0, 0]], TypeError, "must give a Percept"),
    (Percept(np.zeros((2, 2), int), [], np.zeros((2, 3))), ValueError, "shape \\(2, 2\\) for 1 images and 2 axes"),
    (Percept(np.zeros((1, 3), int), [], np.zeros((1, 3))), ValueError, "shape \\(1, 3\\) for 1 images and 2 axes"),
])
def test_what_is_no_percept_is_refused(percept, error, sentence):
    here = World(GRAMMAR, Draws(), SimpleNamespace(perceive=lambda images, grammar: percept))
    with pytest.raises(error, match=sentence):
        here.perceive([0])
    with pytest.raises(error, match=sentence):
        SemanticGrid(here, goal(), redness)


def test_requests_are_checked():
    assert check_request(("a",), np.array([3])) == (["a"], [3])
    for request, sentence in ((("a", [0]), "give a list"), ((["a"], [0, 1]), "1 prompts came with 2 seeds"),
                              ((["a"], [-1]), "whole number"), (([1], [0]), "A prompt is a text"),
                              ((["a"], [0], 1), "A prompt is a text")):
        with pytest.raises((TypeError, ValueError), match=sentence):
            check_request(*request)


def test_one_goal_for_each_image():
    assert goal_of_each([1, 2], 2) == [1, 2] and goal_of_each(None, 2) == [None, None]
    with pytest.raises(ValueError, match="2 images came with 1 goals"):
        goal_of_each([1], 2)
    with pytest.raises(ValueError, match="give a goal image"):
        Clip(Sees(), GRAMMAR)([goal()], [""], [None])
    with pytest.raises(ValueError, match="no target image"):
        Similarity(Embeds())([goal()], [""], [None])


@pytest.mark.parametrize("make", [
    lambda: SemanticGrid(world(), goal(), redness), lambda: SemanticChoice(world(), goal(), redness),
    lambda: PromptTokens(TokenTask(PAIRS, Draws(), redness), ["red"]),
])
def test_an_action_outside_the_space_is_refused(make):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not in the action space"):
        env.step(np.array([99, 99]) if isinstance(env, SemanticChoice) else 99)


# ---- loading

def test_models_are_loaded_once():
    from rlgen.envs.grid import default_world
    from rlgen.envs.tokens import default_token_task
    worlds = [default_world() for _ in range(8)]
    assert len({id(w.generator.generator) for w in worlds}) == len({id(w.perception) for w in worlds}) == 1
    assert default_token_task().generator.generator is worlds[0].generator.generator
    assert load_generator(ModelSettings(inference_steps=11)).generator is not worlds[0].generator.generator
    assert load_perception() is worlds[0].perception
    assert len({id(w.generator.store) for w in worlds}) == 8  # but each has its own images


def test_a_folder_that_has_changed_is_loaded_again(tmp_path):
    import shutil
    from importlib.resources import files

    folder = tmp_path / "clip"
    shutil.copytree(str(files("rlgen") / "weights" / "clip"), folder)
    settings = ModelSettings(perception=str(folder))
    first = load_perception(settings)
    assert load_perception(settings) is first
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ")
    assert load_perception(settings) is not first


def test_keys_of_stored_images_are_what_they_were():
    "A change here loses every image that anybody has stored."
    generator = load_generator()
    assert set(generator.settings) == {
        "model", "steps", "size", "dtype", "guidance", "scheduler", "plan", "vae", "attention_slicing"
    }
    assert generator.settings["model"] == "2e6637c7433fc795"


def test_served_models_are_loaded_by_name(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    served = load_generator(ModelSettings(model="openai:some-model", size=512))
    assert served.settings["model"] == "some-model" and served.settings["size"] == "512x512"
    for name, value in (("guidance", 2.), ("scheduler", "ddim"), ("dtype", "float16"), ("inference_steps", 20)):
        with pytest.raises(ValueError, match=f"{name} is decided by the server"):
            load_generator(ModelSettings(model="openai:some-model", **{name: value}))


@pytest.mark.parametrize("wrong", [
    {"inference_steps": 0}, {"batch_size": 0}, {"guidance": -1.}, {"guidance_until": 0.}, {"size": 60},
])
def test_model_settings_are_checked_when_they_are_made(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ModelSettings(**wrong)


# ---- without an import of ours

def test_environments_are_made_without_an_import(tmp_path):
    code = """
import sys, gymnasium
assert not [name for name in sys.modules if name.partition(".")[0] == "rlgen"]
for name in ("SemanticGrid", "SemanticChoice", "PromptTokens", "SupportSet", "Schedule", "Latent"):
    env = gymnasium.make(f"rlgen.envs:rlgen/{name}-v0")
    assert env.observation_space.contains(env.reset(seed=0)[0])
"""
    status, _, said = Process(exec, code, {}, folder=tmp_path).wait()
    assert status == 0, said


def test_registering_loads_nothing_heavy():
    code = """
import sys, gymnasium, rlgen.envs
assert sum(name.startswith("rlgen/") for name in gymnasium.registry) == 6
heavy = {"torch", "diffusers", "transformers", "open_clip", "matplotlib", "PIL", "pandas", "scipy"} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registered_ids_are_these():
    import rlgen.envs  # noqa: F401
    assert sorted(n for n in gym.registry if n.startswith("rlgen/")) == [
        f"rlgen/{n}-v0" for n in ("Latent", "PromptTokens", "Schedule", "SemanticChoice", "SemanticGrid", "SupportSet")
    ]


# ---- the names of the root

def loaded_by(code):
    "Modules that a fresh Python has loaded after some code, but not without it."
    show = "import sys; print(*sorted(sys.modules))"
    out = [subprocess.run([sys.executable, "-c", f"{c}\n{show}"], check=True, capture_output=True, text=True).stdout
           for c in ("pass", code)]
    return set(out[1].split()) - set(out[0].split())


def test_importing_the_package_loads_nothing_but_itself():
    "So it takes a few milliseconds more than Python itself; and one light name does not bring a heavy library along."
    assert {name.split(".")[0] for name in loaded_by("import rlgen")} <= {"rlgen", "lazy_loader", "ast", "_ast"}
    heavy = {"torch", "diffusers", "transformers", "open_clip", "matplotlib", "pandas"}
    assert not heavy & loaded_by("from rlgen import Grammar, ModelSettings, QLearning, SemanticGrid, Store, render")


def test_the_names_of_the_root():
    assert 20 <= len(rlgen.__all__) <= 30 and list(rlgen.__all__) == sorted(rlgen.__all__)
    for name in rlgen.__all__:
        assert getattr(rlgen, name).__name__ == name
    with pytest.raises(AttributeError):
        rlgen.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", ["rlgen", *(
    f"rlgen.{m.name}" for m in pkgutil.iter_modules(rlgen.__path__) if m.ispkg
)])
def test_no_public_name_hides_a_module(package):
    "A function `clone` in a package with a module `clone` would be overwritten as soon as that is imported."
    here = importlib.import_module(package)
    assert not {m.name for m in pkgutil.iter_modules(here.__path__)} & set(here.__all__)


@pytest.mark.parametrize("package", [m.name for m in pkgutil.iter_modules(rlgen.__path__) if m.ispkg])
def test_a_package_offers_what_its_modules_do(package):
    "Each name of `__all__` of each module, once; read from the files, so that nothing heavy is loaded."
    folder, names = Path(rlgen.__file__).parent / package, Counter()
    for file in folder.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__" and file.stem[0] != "_":
                names.update(ast.literal_eval(node.value))
    assert [name for name, n in names.items() if n > 1] == []
    assert sorted(importlib.import_module(f"rlgen.{package}").__all__) == sorted(names)


# ---- our own parts keep what the protocols say

@pytest.mark.parametrize("protocol, ours", [
    (interfaces.TextToImage, "models.generator:Generator models.generator:Cached models.served:RemoteGenerator"),
    (interfaces.Perceiver, "models.perception:Perception"),
    (interfaces.Embedder, "models.perception:Perception"),
    (interfaces.Reward, "rewards.semantic:MultiSemantic rewards.semantic:RewardSum rewards.similarity:Similarity"),
    (interfaces.Agent, "agents.tabular:QLearning agents.tabular:Sarsa agents.blackbox:RandomSearch agents.ppo:PPO"),
    (interfaces.TokenPolicy, "models.prompt_policy:PromptPolicy"),
])
def test_our_own_have_the_methods_of_the_protocols(protocol, ours):
    "Each method, with the same arguments in the same order; more of them only behind."
    for place in ours.split():
        module, name = place.split(":")
        own = getattr(importlib.import_module(f"rlgen.{module}"), name)
        for method, function in vars(protocol).items():
            if inspect.isfunction(function) and (method[0] != "_" or method == "__call__"):
                wanted, given = (list(inspect.signature(f).parameters) for f in (function, getattr(own, method)))
                assert given[:len(wanted)] == wanted, (place, method)
