"""What happens while a generator generates: images that a safety checker blackens or a server refuses, memory that runs
out, devices that are not there.
"""
import json
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from standins import GRAMMAR, Drawing, draw, goal_image, world_of
from transformers import BatchFeature

from rlgen.cli import main
from rlgen.clone.engines import make
from rlgen.clone.manifest import write_manifest
from rlgen.clone.plan import Plan
from rlgen.clone.shards import CLONE_FORMATS, clone_rows, read_clone, status
from rlgen.data.labelled import Labelled
from rlgen.data.prompts import Pair
from rlgen.envs.support import SupportSet, SupportTask, labelled_additions
from rlgen.envs.tokens import PromptTokens, TokenTask
from rlgen.experiments import preference, support_set
from rlgen.experiments.preference import PreferenceSettings
from rlgen.experiments.rldf import RLDFSettings, search_steps
from rlgen.experiments.support_set import SupportSettings
from rlgen.interfaces import Refused
from rlgen.models.classifier import Network, Recipe
from rlgen.models.folders import pick_device
from rlgen.models.generator import REDRAWS, Cached, Generator
from rlgen.reproducibility import image_seed
from rlgen.runs import Run
from rlgen.store import Store

PROMPT = "a photo of one dog and no people in farm"
OTHERS = [image_seed(1 + 1, number) for number in range(1, REDRAWS + 1)]  # seeds that are tried instead of 1


@pytest.fixture(scope="module")
def tiny():
    return Generator.load("tiny", inference_steps=1, device="cpu")


class Checker(torch.nn.Module):
    "Blackens images that look like one of some others, as the safety checker of Stable Diffusion does it."
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, bad):
        super().__init__()
        self.bad = [np.asarray(image, float) for image in bad]

    def forward(self, images, clip_input):
        levels = (images.clone().permute(0, 2, 3, 1).numpy() / 2 + .5).clip(0, 1) * 255
        found = [any(np.abs(image - bad).max() < 3 for bad in self.bad) for image in levels]
        images[found] = 0
        return images, found


def checked(tiny, seeds):
    "The tiny model with a checker that finds its images of PROMPT with some seeds."
    made = tiny.with_settings()
    made._pipe.safety_checker = Checker([tiny.generate([PROMPT], [seed])[0] for seed in seeds])
    made._pipe.feature_extractor = lambda images, return_tensors: BatchFeature({"pixel_values": torch.zeros(1)})
    return made


def black(image):
    return not np.asarray(image).any()


def test_a_black_image_is_generated_again_with_another_seed(tiny):
    cached = Cached(checked(tiny, [1, OTHERS[0]]))
    with pytest.warns(UserWarning, match="blackened an image"):
        first, again = cached.generate([PROMPT] * 2, [0, 1])
    assert first.tobytes() == tiny.generate([PROMPT] * 2, [0, 1])[0].tobytes()
    assert again.tobytes() == tiny.generate([PROMPT], [OTHERS[1]])[0].tobytes()
    assert [cached.store.meta(cached.key(PROMPT, seed)).get("redrawn") for seed in (0, 1)] == [None, OTHERS[1]]
    assert cached.generate([PROMPT], [1])[0].tobytes() == again.tobytes()


@pytest.mark.filterwarnings("ignore:The safety checker")
def test_what_stays_black_is_refused_and_not_stored(tiny):
    cached = Cached(checked(tiny, [1, *OTHERS]))
    with pytest.raises(Refused, match="There is no image of 'a photo of one dog.* with 3 other seeds too") as caught:
        cached.generate([PROMPT] * 3, [0, 1, 1])
    error = pickle.loads(pickle.dumps(caught.value))
    assert [image is None for image in error.images] == [False, True, True] and list(error.reasons) == [1, 2]
    assert cached.generate([PROMPT], [0])[0].tobytes() == error.images[0].tobytes() and cached.hits == 2
    assert len(cached.store) == 1 and not any(black(cached.store.get(key)) for key in cached.store)


def test_keys_tell_a_model_with_a_checker(tiny, monkeypatch):
    from rlgen.models import generator as page
    load = page._pipeline
    def with_checker(*arguments):
        pipe = load(*arguments)
        pipe.safety_checker = Checker([])
        return pipe
    monkeypatch.setattr(page, "_pipeline", with_checker)
    assert Generator.load("tiny", inference_steps=1, device="cpu").settings == tiny.settings | {"redraws": REDRAWS}


class Moderated(Drawing):
    "Refuses prompts with some words, as a server does, and counts how often it is asked for each."
    batch_size = 8

    def __init__(self, *words):
        super().__init__()
        self.words, self.asked = words, []

    def generate(self, prompts, seeds, negative=None):
        self.asked += prompts
        bad = {i: "moderation" for i, p in enumerate(prompts) if any(word in p for word in self.words)}
        images = [None if i in bad else draw(self.labels[p]) for i, p in enumerate(prompts)]
        if bad: raise Refused(prompts, images, bad)
        return images


SETTINGS = RLDFSettings(grammar=GRAMMAR, agent="q-learning", reward="shaped-clip", max_steps=400, episode=20)


def test_a_search_goes_on_past_refused_states_and_is_resumed(tmp_path):
    def run(folder, stop=None):
        generator, store = Moderated("cat"), Store(tmp_path / f"{folder}.sqlite")
        world = world_of(Cached(generator, store))
        opened = Run.create(tmp_path / folder, {"seed": 0}, kind="search")
        with opened, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for trace in search_steps(world, goal_image((1, 2, 1, 3)), SETTINGS, run=opened):
                if stop and len(trace.states) >= stop: break
        return trace, generator, store, told
    whole, generator, store, told = run("whole")
    values = whole.env.state_values
    refused = values.refused
    assert whole.found and refused and all("cat" in values.world.prompt(s) for s in refused)
    assert max(values.values[s] for s in refused) <= min(values.values.values())
    assert sum("takes such a state for the worst" in str(w.message) for w in told) == 1
    assert max(generator.asked.count(values.world.prompt(s)) for s in refused) == 1
    assert len(store) == len(values.values) - len(refused)
    run("parts", 50)
    parts, generator, _, _ = run("parts")
    assert (parts.states, parts.rewards) == (whole.states, whole.rewards)
    assert parts.env.state_values.refused == refused
    assert parts.images(refused[:1])[0].getpixel((0, 0)) == (128, 128, 128) and not black(parts.images(parts.states)[0])


@pytest.mark.filterwarnings("ignore:There is no image")
def test_a_refused_goal_is_not_found_and_never_the_answer():
    world = world_of(Cached(Moderated("car", "beach")))
    *_, trace = search_steps(world, goal_image((1, 2, 1, 1)), SETTINGS)
    assert 0 in trace.distances and not trace.found
    assert trace.answer not in world.refused


@pytest.mark.filterwarnings("ignore:Memory ran out")
@pytest.mark.parametrize("error", [
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:66] . DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 6.40 GB, max allowed: 6.40 GB)."),
    RuntimeError("Invalid buffer size: 16.00 GiB"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
], ids=str)
def test_memory_runs_out_in_many_words(tiny, monkeypatch, error):
    sizes, call = [], type(tiny._pipe).__call__
    def scarce(self, *arguments, generator, **words):
        sizes.append(len(generator))
        if len(generator) > most: raise error
        return call(self, *arguments, generator=generator, **words)
    monkeypatch.setattr(type(tiny._pipe), "__call__", scarce)
    made, most = tiny.with_settings(batch_size=4), 1
    with pytest.warns(UserWarning, match="Memory ran out, so at most 2"):
        images = made.generate([PROMPT] * 3, [0, 1, 2])
    assert len(images) == 3 and sizes == [4, 2, 1, 1, 1] and made.batch_size == 1
    most = 0
    with pytest.raises(ValueError, match="One image alone needs more memory .*dtype='bfloat16'"):
        made.generate([PROMPT], [0])


def test_other_errors_are_not_taken_for_want_of_memory(tiny, monkeypatch):
    def broken(self, **words):
        raise RuntimeError("illegal memory access")
    monkeypatch.setattr(type(tiny._pipe), "__call__", broken)
    with pytest.raises(ValueError, match="cannot generate .illegal memory access"):
        tiny.with_settings().generate([PROMPT] * 2, [0, 1])


class Noise:
    "Images of noise; the prompts of cats are refused, those of cars get another seed."
    settings, batch_size = {"model": "noise"}, 4

    def __init__(self, word="cat"):
        self.word, self.asked = word, 0

    def generate(self, prompts, seeds, negative=None):
        self.asked += 1
        images = [Image.fromarray(np.random.default_rng(s).integers(1, 256, (16, 16, 3), np.uint8)) for s in seeds]
        for prompt, image in zip(prompts, images, strict=True):
            if "car" in prompt:
                image.info["redrawn"] = 5
        bad = {i: "it is black" for i, prompt in enumerate(prompts) if self.word in prompt}
        if bad: raise Refused(prompts, [None if i in bad else image for i, image in enumerate(images)], bad)
        return images


@pytest.mark.filterwarnings("ignore:There is no image")
@pytest.mark.parametrize("format", CLONE_FORMATS)
def test_a_clone_goes_without_refused_images_and_counts_them(tmp_path, format):
    plan, generator = Plan({"train": 3, "val": 1}, ("cat", "dog", "car")), Noise()
    manifest = write_manifest(tmp_path / "manifest.parquet", plan, generator, {"name": "noise 1"}, batch=4)
    done = make(manifest, tmp_path / "out", generator, format, shard=4)
    assert done.complete and (done.done, done.refused) == ({"train": 6, "val": 2}, {"train": 3, "val": 1})
    assert "complete: train 6 of 9, val 2 of 3" in str(done)
    assert "refused: 4; generated with another seed: 4" in str(done)
    rows = [row for row, _ in clone_rows(tmp_path / "out")]
    assert len(rows) == 8 and {row["class"] for row in rows} == {"dog", "car"}
    _, output = read_clone(tmp_path / "out")
    notes = [row for path in output.files() for row in output.notes(output.name(path))]
    assert {(row["class"], row["note"]) for row in notes} == {("cat", "refused"), ("car", "redrawn with seed 5")}
    asked = generator.asked
    assert make(manifest, tmp_path / "out", generator, format, shard=4) == done and generator.asked == asked
    output.files()[0].unlink()  # its notes no longer count, so its refused images are asked for again
    assert not status(tmp_path / "out").complete
    kind = Noise(word="nothing")
    again = make(manifest, tmp_path / "out", kind, format, shard=4)
    assert again.complete and sum(again.done.values()) > 8 and sum(again.refused.values()) < 4


@pytest.fixture
def support_task():
    labels = np.repeat([0, 1], 4)
    data = Labelled(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8), labels, ("dog", "cow"))
    return lambda generator: SupportTask(data, data, generator, Network("small", 2, 16, Recipe(epochs=1), device="cpu"))


class Once(Noise):
    "Refuses the first images that it is asked for, and no others."
    def generate(self, prompts, seeds, negative=None):
        self.word = "a" if not self.asked else "nothing"
        return super().generate(prompts, seeds, negative)


def test_a_support_set_takes_other_seeds_for_refused_images(support_task):
    task = support_task(Once())
    with pytest.warns(UserWarning, match="Other seeds take their places"):
        added = task.generate([0, 0, 0, 0], n=3)
    assert task.refused == 3 and len(set(added.image_seeds)) == 3 and added.images.all(axis=(1, 2, 3)).all()
    assert set(added.image_seeds).isdisjoint(range(3))


@pytest.mark.filterwarnings("ignore:There is no image")
def test_a_step_with_a_refused_prompt_adds_nothing_and_the_set_goes_on(support_task):
    generator = Noise(word="cow")
    env = SupportSet(support_task(generator), n_images=30, render_mode="rgb_array")
    env.reset(seed=0)
    _, gained, _, _, before = env.step(np.array([0, 0, 0, 0]))
    with pytest.warns(UserWarning, match="adds nothing to the support set"):
        _, reward, full, _, info = env.step(np.array([0, 1, 1, 1]))
    assert reward == min(0, gained) and env.size == 10 and not full and info["accuracy"] == before["accuracy"]
    assert env.additions[-1].images.shape == (0, 16, 16, 3) and (env.render() == 128).all()
    asked = generator.asked
    assert env.step(np.array([0, 1, 1, 1]))[2] and generator.asked == asked and env.unwrapped.size == 10
    assert len(env.task.refused_prompts) == 1 and env.task.unique_generator_calls == 10
    assert len(labelled_additions(env.additions, ("dog", "cow"))) == 10


@pytest.mark.filterwarnings("ignore:There is no image")
def test_support_sets_without_refused_prompts_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(support_set, "load_generator", lambda models, store: Cached(Noise(), store))
    settings = SupportSettings(
        classes=("dog", "cat"), arms=("random", "ours"), test_classifiers=("probe",), real=1, validation=2, test=2,
        per_step=2, max_images=8, episodes=2, seed=1)
    result = support_set.learn_support_set(settings, tmp_path / "run")
    left_out = [n for prompt, n in result.prompts if "cat" in prompt]
    assert set(left_out) == {0} and result.refused["ours"] == len(left_out) and "prompts refused" in str(result)
    assert support_set.learn_support_set(settings, tmp_path / "run") == result
    again = Cached(Noise("nothing"))
    monkeypatch.setattr(support_set, "load_generator", lambda models, store: again)
    assert support_set.load_support_result(tmp_path / "run", settings).refused == result.refused and not again.calls


def brightness(images, prompts, goals):
    return [np.asarray(image).mean() / 255 for image in images]


def token_task(generator):
    pair = Pair("a dog", "a dog, red", ("red",), (Image.new("RGB", (16, 16)),))
    return TokenTask([pair], generator, brightness, image_seeds=(0, 1))


def test_a_prompt_without_an_image_has_the_worst_reward_and_is_counted():
    generator = Noise()
    task = token_task(generator)
    with pytest.warns(UserWarning, match="gets the worst reward") as told:
        rewards = task.score([0] * 4, ["red", "cat", "blue", "a cat"])
    assert len(told) == 1 and (rewards[[1, 3]] == 0).all() and (rewards[[0, 2]] > 0).all()
    assert task.refused == {"a dog, cat", "a dog, a cat"}
    asked, again = generator.asked, token_task(generator)
    again.restore(json.loads(json.dumps(task.state())))
    assert again.refused == task.refused and (again.score([0], ["cat"]) == 0).all() and generator.asked == asked
    env = PromptTokens(task, ["cat"], 1, "rgb_array")
    env.reset(seed=0)
    assert env.step(0)[1] == 0 and (env.render() == 128).all()


class Half(Noise):
    "Refuses every second image."
    def generate(self, prompts, seeds, negative=None):
        images = super().generate(prompts, seeds)
        raise Refused(prompts, [None if i % 2 else image for i, image in enumerate(images)], {
            i: "it is black" for i in range(1, len(images), 2)})


@pytest.mark.filterwarnings("ignore:There is no image")
def test_the_reward_of_a_prompt_is_that_of_the_images_it_has():
    whole, half = token_task(Noise("nothing")), token_task(Half("nothing"))
    first = brightness(whole.images([0], ["red"])[:1], [], [])
    assert half.score([0], ["red"]).tolist() == first and half.refused == {"a dog, red"}


@pytest.mark.filterwarnings("ignore:There is no image")
def test_preference_prompts_are_learned_past_refused_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr(preference, "load_generator", lambda models, store: Cached(Noise("many"), store))
    settings = PreferenceSettings(agent="random", pairs=10, length=2, budget=12, evaluated=2, evaluate_every=0)
    train, test = preference.load_pairs(settings, None)
    assert any("many" in pair.seed for pair in train)
    result = preference.tune_prompt(settings, tmp_path / "run", pairs=(train, test))
    assert 0 < result.refused <= result.unique_generator_calls and f"{result.refused} prompts refused" in str(result)
    kept = [pair for pair in test if "many" not in pair.seed]
    assert len(result.held_out["image"]["seed"]) == (len(kept) or len(test))
    assert preference.tune_prompt(settings, tmp_path / "run", pairs=(train, test)) == result


@pytest.mark.filterwarnings("ignore:There is no image")
def test_targets_that_are_refused_leave_their_pairs_out():
    pairs = [Pair(seed, f"{seed}, red", ("red",)) for seed in ("a dog", "a cat", "a car")]
    left = preference._with_targets(pairs, Noise(), [1])
    assert [pair.seed for pair in left] == ["a dog", "a car"] and all(pair.targets for pair in left)


@pytest.mark.filterwarnings("ignore:There is no image")
def test_the_gradient_agent_goes_on_past_refused_states():
    world = world_of(Cached(Moderated("cat")))
    *_, trace = search_steps(world, goal_image((1, 2, 1, 3)), replace(SETTINGS, agent="gradient", max_steps=40))
    refused = trace.env.state_values.refused
    assert refused and trace.answer not in refused and len(trace.states) > 10


DEVICES = [name for name in ("mps", "xpu", "cuda:7", "banana", "privateuseone") if not (
    name == "mps" and torch.backends.mps.is_available() or name == "xpu" and torch.xpu.is_available())]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_is_not_there_is_a_sentence_and_no_folder(tmp_path, monkeypatch, capsys, device):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text('{"classes": ["dog"], "splits": {"train": 1}, "out": "clone"}')
    for command in (["search"], ["rldf-table"], ["prefer"], ["support"], ["clone", "plan.json"], ["bench"]):
        assert main([*command, "--device", device]) == 2, command
        said = capsys.readouterr().err
        assert f"The device '{device}' cannot be used here" in said and "use 'cpu'" in said
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_mac_computes_on_its_gpu(monkeypatch):
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: asked.append(str(device)) or zeros(*size))
    asked = []
    pick_device(None)
    pick_device("cpu")
    assert asked == ["mps", "cpu"]
