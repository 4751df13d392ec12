"""The environment of support sets: rewards by hand, the right classifier at the right time,
the same pictures again, checkers, bad input.
"""
import math
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image
from refusals import refused

from rlgen.data.labelled import Labelled
from rlgen.envs.support import SupportSet, SupportTask, labelled_additions
from rlgen.models.classifier import Evaluation, Network, Probe, Recipe
from rlgen.reproducibility import image_seed

CLASSES = ("car", "dog", "ship")


class Painter:
    "A generator that can be foreseen: the picture is one colour, by its prompt, and the seed is in a corner."
    def __init__(self, size=16):
        self.size, self.asked = size, []

    def generate(self, prompts, seeds):
        self.asked += list(zip(prompts, seeds, strict=True))
        def paint(prompt, seed):
            p = np.full(
                (self.size, self.size, 3), 30 + 60 * CLASSES.index(prompt.split(" of a ")[1].split(",")[0]), np.uint8
            )
            p[0, 0] = seed % 251, prompt.startswith("a sketch"), 0
            return Image.fromarray(p)
        return [paint(p, s) for p, s in zip(prompts, seeds, strict=True)]


class Eye:
    def embed_images(self, images):
        return np.array(
            [np.asarray(i, float)[8:].reshape(-1, 3).mean(0) / 255 + [0, .1, 0] for i in images], np.float32
        )


class Scripted:
    "A classifier whose evaluations are written down; it notes what it was trained on, and with which images beside."
    def __init__(self, stands, selects=False):
        self.stands, self.fits, self.beside, self.selects = iter(stands), [], [], selects

    def prepare(self, pictures):
        return np.asarray(pictures)

    def join(self, parts):
        return np.concatenate(parts)

    def state(self):
        return {"weights": np.full(1, len(self.fits))}

    def fit(self, inputs, labels, val=None, start=None, seed=0):
        self.fits.append((inputs, list(labels), start, seed))
        self.beside.append(val)

    def evaluate(self, inputs, labels):
        self.seen, self.seen_labels = inputs, labels
        a, e = next(self.stands)
        return Evaluation(a, np.array([a, 0, 1]), e, 0., len(labels))


def data(n=2, value=0, size=16):
    return Labelled(np.full((3 * n, size, size, 3), value, np.uint8), np.repeat(range(3), n), CLASSES)


def scripted(stands=((.5, 1.), (.6, .9), (.55, .7), (.9, .1)), generator=None, **settings):
    return SupportTask(
        data(),
        data(1, 7),
        generator or Painter(),
        Scripted(stands),
        **({"domains": ("photo", "sketch"), "per_step": 4, "max_images": 10} | settings),
    )


def real(**settings):
    "Real learning on colours: the probe tells the painter's classes apart after a picture or two."
    chance = np.random.default_rng(0)
    def part(n):
        return Labelled(chance.integers(0, 256, (3 * n, 16, 16, 3), dtype=np.uint8), np.repeat(range(3), n), CLASSES)
    val = Labelled(
        np.repeat(np.array([30, 90, 150], np.uint8), 2)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8),
        np.repeat(range(3), 2),
        CLASSES,
    )
    return SupportTask(
        part(2),
        val,
        Painter(),
        Probe(Eye(), 3),
        **({"domains": ("photo", "sketch"), "per_step": 4, "max_images": 12} | settings),
    )


def test_as_many_classes_as_there_are():
    "600 classes make a thousand million prompts, none of which is counted one by one."
    classes = tuple(f"thing {i}" for i in range(600))
    few, many = (Labelled(np.zeros((600, 2, 2, 3), np.uint8), np.arange(600), classes) for _ in range(2))
    model = Scripted([(.5, 1.), (.6, .9)])
    model.evaluate = lambda *_: Evaluation(.5, np.full(600, .5), 1., 0., 600)
    generator = SimpleNamespace(generate=lambda prompts, seeds: [Image.new("RGB", (2, 2))] * len(prompts))
    env = SupportSet(SupportTask(few, many, generator, model, per_step=2, max_images=4))
    assert env.task.grammar.n_states == 5 * 600**3
    env.reset(seed=0)
    *_, info = env.step(np.array([4, 599, 0, 598]))
    assert info["prompt"].endswith(" of a thing 599, thing 0, and thing 598")
    assert model.fits[-1][1][-2:] == [599, 599]


# Rewards and states

def test_rewards_by_hand():
    env = SupportSet(scripted())
    state, info = env.reset(seed=0)
    assert (
        state == pytest.approx([.5, 1 / math.log(3), 0, .5, 0, 1])
        and info["accuracy"] == .5
        and info["unique_generator_calls"] == 0
    )
    state, reward, ended, cut, info = env.step([1, 0, 2, 2])
    assert reward == pytest.approx((.6 - .5) - (.9 - 1.))  # equation 2, against the pretrained classifier
    assert (
        state == pytest.approx([.6, .9 / math.log(3), .4, .6, 0, 1])
        and not ended
        and info["prompt"] == "a sketch of a car, ship, and ship"
        and info["size"] == 4
    )
    _, reward, ended, cut, _ = env.step([0, 1, 1, 1])
    assert reward == pytest.approx((.55 - .6) - (.7 - .9)) and not ended
    state, reward, ended, cut, info = env.step(np.array([0, 1, 1, 1]))
    # only two more fitted
    assert (
        reward == pytest.approx((.9 - .55) - (.1 - .7)) and ended and not cut and info["size"] == 10 and state[2] == 1
    )
    assert len(env.task.generator.asked) == 10 == info["unique_generator_calls"]


def test_entropy_has_a_weight():
    for weight, pay in ((0., .1), (.5, .15), (2., .3)):
        env = SupportSet(scripted(), entropy=weight)
        env.reset(seed=0)
        assert env.step([1, 0, 2, 2])[1] == pytest.approx(pay)
    for bad in (-1., math.nan, math.inf):
        refused(lambda: SupportSet(scripted(), entropy=bad), "entropy", "0 or more")


def test_what_the_classifier_is_trained_on():
    task = scripted()
    env = SupportSet(task)
    env.reset()
    for action in ([1, 0, 2, 2], [0, 1, 1, 1], [0, 1, 1, 1]):
        env.step(action)
    fits = task.model.fits
    assert [len(inputs) for inputs, *_ in fits] == [6, 10, 14, 16]
    # the first class is the label
    assert fits[0][1] == [0, 0, 1, 1, 2, 2] and fits[3][1] == [0, 0, 1, 1, 2, 2] + [0] * 4 + [1] * 6
    assert (fits[3][0][:6] == 0).all() and (fits[3][0][6:10, 8] == 30).all() and (fits[3][0][10:, 8] == 90).all()
    # warm from the pretrained weights, not from the last step's
    assert fits[0][2] is None and [f[2]["weights"].tolist() for f in fits[1:]] == [[1]] * 3
    # evaluated on the validation images and nothing else, of which `fit` sees none
    assert task.model.beside == [None] * 4
    assert (task.model.seen == 7).all() and len(task.model.seen) == 3
    cold = scripted(warm_start=False)
    cold.evaluated([cold.generate((0, 0, 0, 0))])
    assert [f[2] for f in cold.model.fits] == [None, None]


def test_a_classifier_that_chooses_on_v_is_rewarded_on_the_other_half_of_it():
    val = Labelled(np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8),
                   np.repeat(range(3), 4), CLASSES)
    def task(seed, model):
        return SupportTask(data(), val, Painter(), model, ("photo",), 4, 10, seed)
    model = Scripted([(.5, 1.)] * 9, selects=True)
    env = SupportSet(task(0, model))
    env.reset()
    env.step([0, 1, 1, 1])
    numbers = lambda images: {int(image[0, 0, 0]) for image in images}
    for images, labels in model.beside:
        assert not numbers(images) & numbers(model.seen) and numbers(images) | numbers(model.seen) == set(range(12))
        assert sorted(labels) == sorted(model.seen_labels) == [0, 0, 1, 1, 2, 2]
        assert [n // 4 for n in sorted(numbers(images))] == sorted(labels)
    assert len(model.beside) == 2 and env.evaluation.n_images == 6
    other = Scripted([(.5, 1.)] * 9, selects=True)
    task(1, other)
    assert numbers(other.seen) != numbers(model.seen), "the seed decides"
    refused(lambda: SupportTask(data(), data(1), Painter(), model, per_step=4, max_images=10), "half of V", "2 images")

def test_the_reward_of_a_network_is_not_the_best_of_its_epochs():
    "Labels are random, so nothing can be learned: the best of many epochs looks better on V than it is."
    from rlgen.data.labelled import stratified
    chance = np.random.default_rng(0)
    draw = lambda n: Labelled(
        chance.integers(0, 256, (3 * n, 16, 16, 3), dtype=np.uint8), np.repeat(range(3), n), CLASSES
    )
    train, val = draw(8), draw(40)
    network = Network("small", 3, 16, Recipe(epochs=12, batch=8, patience=0))
    task = SupportTask(train, val, Painter(), network, per_step=4, max_images=8)
    chosen, rewarded = (part.labels for part in stratified(val, (.5, .5), 0))
    assert (task.selection[1] == chosen).all() and (task.val_inputs[1] == rewarded).all()
    on_chosen = network.evaluate(*task.selection).accuracy
    assert on_chosen == max(network.history) and task.pretrained.accuracy == network.evaluate(*task.val_inputs).accuracy
    assert task.pretrained.accuracy < on_chosen

def test_pictures_of_a_prompt_go_on_and_come_again():
    task = scripted([(.5, 1.)] * 20, seed=3)
    env = SupportSet(task)
    env.reset()
    for action in ([0, 1, 1, 1], [0, 1, 1, 2], [0, 1, 1, 1]):
        env.step(action)
    seeds = [a.image_seeds for a in env.additions]
    first = tuple(image_seed(3, i) for i in range(6))
    assert seeds == [first[:4], first[:4], first[4:]] and scripted().generate([0, 1, 1, 1]).image_seeds == (0, 1, 2, 3)
    env.reset()
    env.step([0, 1, 1, 1])
    assert env.additions[0].image_seeds == seeds[0] and task.unique_generator_calls == 10
    s = labelled_additions(env.additions, CLASSES)
    assert len(s) == 4 and s.labels.tolist() == [1] * 4 and (s.images[:, 8] == 90).all()


def test_pictures_are_scaled_to_the_data():
    task = scripted(generator=Painter(size=40))
    assert task.generate((0, 2, 0, 0)).images.shape == (4, 16, 16, 3)


def test_it_learns_for_real():
    env = SupportSet(real())
    first = env.reset()[1]
    paid = [env.step([0, k, k, k])[1] for k in range(3)]
    assert env.evaluation.accuracy == 1 > first["accuracy"]
    assert (
        sum(paid)
        == pytest.approx((env.evaluation.accuracy - first["accuracy"]) - (env.evaluation.entropy - first["entropy"]))
    )


def test_a_network_will_do():
    chance = np.random.default_rng(0)
    part = Labelled(chance.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8), np.repeat(range(3), 2), CLASSES)
    env = SupportSet(
        SupportTask(part, part, Painter(), Network("small", 3, 16, Recipe(epochs=1, batch=4)), per_step=2, max_images=4)
    )
    def play():
        env.reset()
        return [env.step([0, k, k, k])[1] for k in (0, 2)]
    assert play() == play()


# Caps

def test_a_full_set_takes_no_step_and_neither_does_none():
    env = SupportSet(real())
    refused(lambda: env.step([0, 0, 0, 0]), "call reset")
    env.reset()
    while not env.step([0, 1, 1, 1])[2]:
        pass
    calls = env.task.unique_generator_calls
    refused(lambda: env.step([0, 1, 1, 1]), "full", "call reset")
    assert env.size == 12 and env.task.unique_generator_calls == calls
    env.reset()
    assert not env.step([0, 1, 1, 1])[2]

def test_a_set_may_be_smaller_than_the_task_allows():
    env = SupportSet(real(), n_images=6)
    env.reset()
    sizes = []
    ended = False
    while not ended:
        state, _, ended, _, info = env.step([0, 1, 1, 1])
        sizes.append(info["size"])
    assert sizes == [4, 6] == [4, env.task.unique_generator_calls]
    assert state[2] == .5, "a share of what the task allows"
    for wrong in (0, 13, -1):
        refused(lambda: SupportSet(real(), n_images=wrong), "n_images", "1 to 12")


# The interface

def test_checkers():
    from stable_baselines3.common.env_checker import check_env as check_sb3
    for mode in (None, "rgb_array"):
        check_env(SupportSet(real(), render_mode=mode), skip_render_check=mode is None)
    check_sb3(SupportSet(real()), warn=True)


def test_registered_and_random_agents_play():
    env = gym.make("rlgen/SupportSet-v0", task=real())
    env.action_space.seed(0)
    state, _ = env.reset(seed=0)
    for _ in range(3):
        state, reward, ended, cut, _ = env.step(env.action_space.sample())
    assert ended and env.observation_space.contains(state) and math.isfinite(reward)


def test_render():
    env = SupportSet(real(), render_mode="rgb_array")
    env.reset()
    assert (env.render() == 128).all()
    env.step([0, 0, 0, 0])
    assert env.render().shape == (16, 64, 3) and (env.render()[8] == 30).all()
    with pytest.raises(ValueError, match="render_mode is 'human'"):
        SupportSet(real(), render_mode="human")


def test_one_domain():
    task = scripted(domains=("photo",))
    assert (
        task.prompt([0, 1, 2, 0]) == "a photo of a dog, ship, and car"
        and SupportSet(task).action_space.nvec.tolist() == [1, 3, 3, 3]
    )


def test_the_shipped_models():
    env = gym.make("rlgen/SupportSet-v0")
    assert env.action_space.nvec.tolist() == [5, 20, 20, 20] and env.observation_space.shape == (23,)
    env.reset()
    _, reward, _, _, info = env.step([0, *[env.unwrapped.task.classes.index("dog")] * 3])
    assert (
        info["prompt"] == "a photograph of a dog, dog, and dog"
        and info["unique_generator_calls"] == 10
        and math.isfinite(reward)
    )


# The test set

def test_nobody_can_reach_the_test_set():
    "The task takes no test set, and whoever holds one sees that it is not looked at."
    from rlgen.data.labelled import stratified
    class Sealed(np.ndarray):
        def __array_finalize__(self, obj):
            pass

        def __getitem__(self, key):
            raise AssertionError("the test set was looked at")
    chance = np.random.default_rng(0)
    whole = Labelled(chance.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8), np.arange(60) % 3, CLASSES)
    train, val, test = stratified(whole)
    object.__setattr__(test, "images", test.images.view(Sealed))
    with pytest.raises(AssertionError, match="looked at"):
        test.images[0]
    task = SupportTask(train, val, Painter(), Probe(Eye(), 3), per_step=4, max_images=8)
    env = SupportSet(task)
    env.reset()
    while not env.step([0, 1, 2, 0])[2]:
        pass
    held = [v for v in vars(task).values() if isinstance(v, Labelled)]
    assert held == [train, val] and not any(np.shares_memory(np.asarray(test.images), d.images) for d in held)
    mine = {p.tobytes() for p in np.asarray(test.images.view(np.ndarray))}
    assert not mine & {p.tobytes() for d in held for p in d.images}


# Bad input

@pytest.mark.parametrize(
    "change, words",
    [
        (dict(max_images=3), "4 images and a support set holds 3"),
        (dict(per_step=0), "0 images"),
        (dict(domains=()), "1 domain or more"),
        (dict(train=Labelled(np.zeros((2, 16, 16, 3), np.uint8), [0, 0], ("car",))), "one class only, 'car'"),
        (dict(train=data()[:0]), "training set is empty"),
        (dict(val=data()[:0]), "validation set is empty"),
        (dict(train=data()[2:]), "training set has no images of 'car'"),
        (dict(val=data()[:2]), "validation set has no images of 'dog', 'ship'"),
        (dict(val=Labelled(np.zeros((3, 16, 16, 3), np.uint8), range(3), ("car", "dog", "cat"))), "different classes"),
        (dict(val=data(size=20)), "read both with one size"),
    ],
)
def test_bad_input(change, words):
    settings = {
        "train": data(),
        "val": data(1),
        "generator": Painter(),
        "model": Scripted([(.5, 1.)] * 3),
        "domains": ("photo", "sketch"),
        "per_step": 4,
        "max_images": 10,
    } | change
    with pytest.raises(ValueError, match=words) as caught:
        SupportTask(**settings)
    assert "\n" not in str(caught.value)
