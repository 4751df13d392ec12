"""The generator, on the shipped model and on pipelines of other shapes made here."""
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import load_file, save_file

from rlgen.models.folders import check_folder, fast_in_bfloat16, fingerprint, locate
from rlgen.models.generator import Cached, Generator, new_scheduler
from rlgen.models.loading import ModelSettings, load_generator
from rlgen.models.served import RemoteGenerator
from rlgen.store import Store
from rlgen.training import diffusion, loop

PROMPTS = [
    "a photo of one dog and no people in farm",
    "a photo of many apple and many people in beach",
    "a painting of a cat, rocket, and tree",
]


@pytest.fixture(scope="module")
def generator():
    return Generator.load("tiny", inference_steps=2, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A pipeline of the shipped shape with random weights, saved as anyone would save one."
    torch.manual_seed(0)
    tokenizer, out = loop.new_tokenizer(), tmp_path_factory.mktemp("model") / "random"
    diffusion.save_pipeline(
        out, diffusion.new_vae(), diffusion.new_unet(), diffusion.new_text_encoder(tokenizer), tokenizer
    )
    return out


def arrays(pictures):
    return np.array([np.asarray(p) for p in pictures], int)


def test_same_prompt_and_seed_same_pixels(generator):
    assert (arrays(generator.generate(PROMPTS, [1, 2, 3])) == arrays(generator.generate(PROMPTS, [1, 2, 3]))).all()
    one, two = generator.generate(PROMPTS[:1], [1]), generator.generate(PROMPTS[:1], [2])
    assert (arrays(one) != arrays(two)).any()


def test_neighbours_in_a_batch_do_not_matter(generator):
    a = arrays(generator.generate(PROMPTS, [1, 2, 3]))           # padded from 3 to 4
    b = arrays(generator.generate([PROMPTS[0], "", "", ""], [1, 7, 8, 9]))
    assert (a[0] == b[0]).all()


def test_batch_size_moves_pixels_by_a_level_at_most(generator):
    alone, together = (
        arrays(sum((generator.generate([p], [i]) for i, p in enumerate(PROMPTS)), [])),
        arrays(generator.generate(PROMPTS, range(3))),
    )
    assert np.abs(alone - together).max() <= 2 and (alone != together).mean() < .01


def test_negative_prompt_steps_and_guidance_matter(generator):
    base = arrays(generator.generate(PROMPTS[:1], [1]))
    assert (arrays(generator.generate(PROMPTS[:1], [1], negative="people")) != base).any()
    assert (arrays(Generator.load("tiny", inference_steps=3, device="cpu").generate(PROMPTS[:1], [1])) != base).any()
    unguided = Generator.load("tiny", inference_steps=2, guidance=1, device="cpu")
    assert (arrays(unguided.generate(PROMPTS[:1], [1])) != base).any()


def test_equals_the_plain_pipeline(generator):
    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(locate("tiny"))
    pipe.set_progress_bar_config(disable=True)
    plain = pipe(
        PROMPTS[0], num_inference_steps=2, guidance_scale=2.5, generator=torch.Generator().manual_seed(5)
    ).images
    assert np.abs(arrays(plain) - arrays(generator.generate(PROMPTS[:1], [5]))).max() <= 1


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++", "euler"])
def test_another_scheduler_clips_latents_only_if_the_model_says_so(name):
    import diffusers
    for own in (diffusers.DPMSolverMultistepScheduler(), diffusers.DDIMScheduler(clip_sample=True)):
        pipe = SimpleNamespace(scheduler=own)
        assert new_scheduler(pipe, name).config.get("clip_sample", False) is own.config.get("clip_sample", False)


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "ddim"},
        {"scheduler": "EulerDiscreteScheduler"},
        {"size": 48},
        {"dtype": "bfloat16"},
        {"channels_last": True},
        {"attention_slicing": True},
    ],
)
def test_options_change_the_settings_and_still_draw(folder, options):
    plain, changed = (
        Generator.load(str(folder), inference_steps=2, device="cpu"),
        Generator.load(str(folder), inference_steps=2, device="cpu", **options),
    )
    assert "channels_last" in options or plain.settings != changed.settings
    assert changed.generate(["a photo"], [0])[0].size == (options.get("size", 64),) * 2


@pytest.mark.parametrize(
    "can, fast",
    [
        ({"avx2": True}, False),
        ({"avx512_f": True}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"avx512_bf16": False}, False),
    ],
)
def test_bfloat16_needs_instructions(monkeypatch, can, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    assert fast_in_bfloat16() == fast_in_bfloat16("cpu") == fast

def test_a_torch_that_does_not_say_counts_as_slow(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not fast_in_bfloat16()


def test_another_autoencoder(folder, tmp_path):
    torch.manual_seed(1)
    diffusion.new_vae().save_pretrained(tmp_path / "vae")
    plain, other = (
        Generator.load(str(folder), inference_steps=1, device="cpu"),
        Generator.load(str(folder), inference_steps=1, device="cpu", vae=str(tmp_path / "vae")),
    )
    assert plain.settings["vae"] is None and other.settings["vae"]
    assert (arrays(plain.generate(["a"], [0])) != arrays(other.generate(["a"], [0]))).any()


def test_half_precision_folder_loads_in_full_precision(folder):
    pipe = Generator.load(str(folder), device="cpu").pipe
    assert {p.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters()} == {torch.float32}


def test_fingerprint_follows_the_weights(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).add_(1e-2)
    save_file(tensors, path, metadata={"format": "pt"})
    a, b, c = (Generator.load(str(f), device="cpu").settings["model"] for f in (folder, tmp_path / "other", folder))
    assert a == c != b


def test_memory_runs_out(generator, monkeypatch):
    sizes, draw = [], Generator._generate
    def scarce(self, prompts, seeds, negative):
        sizes.append(len(prompts))
        if len(prompts) > 2: raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(self, prompts, seeds, negative)
    monkeypatch.setattr(Generator, "_generate", scarce)
    generator = generator.with_settings(batch_size=8)
    with pytest.warns(UserWarning, match="at most [24] images are generated at once"):
        pictures = generator.generate(PROMPTS * 2, range(6))
    assert len(pictures) == 6 and sizes == [6, 4, 2, 2, 2] and generator.batch_size == 2
    monkeypatch.setattr(
        Generator, "_generate", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    )
    one = pytest.raises(ValueError, match="One image alone needs more memory")
    with pytest.warns(UserWarning, match="at most 1 images"), one:
        generator.generate(PROMPTS, range(3))


def test_nan_is_an_error(folder):
    broken = Generator.load(str(folder), inference_steps=1, device="cpu")
    next(broken.pipe.vae.decoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="gave NaN"):
        broken.generate(["a photo"], [0])


def test_texts_are_encoded_once(folder, monkeypatch):
    generator, seen = Generator.load(str(folder), inference_steps=1, device="cpu"), []
    encode = generator._pipe.encode_prompt
    monkeypatch.setattr(
        generator._pipe, "encode_prompt", lambda text, *a, **k: seen.append(text) or encode(text, *a, **k)
    )
    generator.generate(["dog", "cat", "dog"], [0, 1, 2])
    generator.generate(["cat"], [5])
    # None: the pipeline passing embeddings on
    assert sorted(text for text in seen if text is not None) == ["", "cat", "dog"]


def test_long_prompts_are_said_to_be_cut(generator):
    with pytest.warns(UserWarning, match="'rocket' is not seen"):
        generator.generate(["dog " * 30 + "rocket"], [0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        generator.generate([PROMPTS[0]], [0])


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda g: g.generate(["a"], [1, 2]), "1 prompts came with 2 seeds"),
        (lambda g: g.generate("a", [1]), "give a list"),
        (lambda g: g.generate([3], [1]), "A prompt is a text"),
        (lambda g: g.generate(["a"], [-1]), "whole number"),
        (lambda g: g.generate(["a"], [1.5]), "whole number"),
        (lambda g: g.generate(["a"], [True]), "whole number"),
        (lambda g: g.generate(["a"], [1], negative=5), "A prompt is a text"),
        (lambda g: Generator.load("tiny", inference_steps=0), "steps is 0"),
        (lambda g: Generator.load("tiny", guidance=-1), "guidance is -1"),
        (lambda g: Generator.load("tiny", size=50), "multiple of 8"),
        (lambda g: Generator.load("tiny", scheduler="magic"), "choose one of dpm"),
        (lambda g: Generator.load("tiny", scheduler="UNet2DConditionModel"), "choose one of dpm"),
        (lambda g: Generator.load("tiny", device="toaster"), "cannot be used here"),
        (lambda g: Generator.load("tiny", dtype="int8"), "choose one of float32"),
        (lambda g: Generator.load("nowhere"), "no model 'nowhere'"),
        (lambda g: Generator.load("nobody/nothing"), "could not be fetched"),
        (lambda g: Generator.load("tiny", vae="nobody/nothing"), "could not be fetched"),
        (lambda g: Generator.load("tiny", batch_size=0), "batch_size is 0"),
    ],
)
def test_errors_are_sentences(generator, call, sentence):
    with pytest.raises((ValueError, TypeError, OSError), match=sentence) as error:
        call(generator)
    assert "\n" not in str(error.value)


def test_nothing_asked_nothing_drawn(generator):
    assert generator.generate([], []) == []


@pytest.mark.parametrize(
    "name, content",
    [
        ("pipeline.py", b"print()"),
        ("unet/model.py", b"print()"),
    ],
)
def test_code_is_refused(folder, tmp_path, name, content):
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad" / name).write_bytes(content)
    with pytest.raises(ValueError, match=Path(name).name):
        Generator.load(str(tmp_path / "bad"))


@pytest.mark.parametrize(
    "change, sentence", [({"unet": ["my_module", "UNet"]}, "my_module"), ({"_class_name": "MyPipeline"}, "MyPipeline")]
)
def test_foreign_classes_are_refused(folder, tmp_path, change, sentence):
    shutil.copytree(folder, tmp_path / "bad")
    index = tmp_path / "bad" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text(encoding="utf-8")) | change))
    with pytest.raises(ValueError, match=sentence):
        check_folder(tmp_path / "bad")
    index.write_text("{")
    with pytest.raises(ValueError, match="model_index.json is damaged"):
        check_folder(tmp_path / "bad")
    index.unlink()
    with pytest.raises(FileNotFoundError, match="no model_index.json"):
        check_folder(tmp_path / "bad")


class Counting:
    "Stands in for a generator and counts."
    settings = {"model": "counting"}

    def __init__(self):
        self.asked = []

    negative, batch_size = "", 32
    def generate(self, prompts, seeds, negative=None):
        self.asked += list(zip(prompts, seeds, strict=True))
        return [Image.new("RGB", (4, 4), (s, 0, 0)) for s in seeds]


def test_a_hit_never_reaches_the_generator(tmp_path):
    with Store(tmp_path / "store") as store:
        first = Cached(Counting(), store)
        pictures = first.generate(["a", "b", "a", "a"], [1, 2, 1, 3])
        assert first.generator.asked == [("a", 1), ("b", 2), ("a", 3)] and (first.calls, first.hits) == (3, 1)
        assert [p.getpixel((0, 0))[0] for p in pictures] == [1, 2, 1, 3]
        pictures[0].putpixel((0, 0), (99, 0, 0))  # a copy: the store and the others keep theirs
        assert pictures[2].getpixel((0, 0))[0] == 1
        again = Cached(Counting(), store)
        again.generate(["b", "a"], [2, 3])
        assert again.generator.asked == [] and (again.calls, again.hits) == (0, 2)
        again.generate(["b"], [2], negative="x")
        assert again.calls == 1


def test_other_settings_are_other_pictures():
    store = Store(":memory:")
    a, b = Cached(Counting(), store), Cached(Counting(), store)
    b.generator.settings = {"model": "another"}
    assert a.key("p", 1) != b.key("p", 1) and a.key("p", 1) != a.key("p", 1, "x")
    assert a.key("p", 1) == a.key("p", 1, "")


def test_presets_are_the_paper_s(monkeypatch, tmp_path):
    """Presets reach the pipeline, what is given goes before them, and nothing is downloaded in this test."""
    import rlgen.models.generator as module
    vae = tmp_path / "vae"
    Generator.load("tiny", inference_steps=1, device="cpu").pipe.vae.save_pretrained(vae)
    asked = []
    monkeypatch.setattr(module, "locate", lambda name, *_, real=module.locate: (asked.append(name), real("tiny"))[1])
    monkeypatch.setattr(module, "_vae_folder", lambda name: (asked.append(name), str(vae))[1])
    for name in ("sd-1.4", "CompVis/stable-diffusion-v1-4"):
        drawer = Generator.load(name, inference_steps=1, size=64, device="cpu")
        assert drawer.settings["scheduler"] == "DPMSolverMultistepScheduler" and drawer.settings["attention_slicing"]
        assert drawer.settings["guidance"] == 7.5 and drawer.settings["vae"] and "disfigured" in drawer.negative
    assert "stabilityai/sd-vae-ft-mse" in asked
    own = Generator.load(
        "sd-2.1",
        inference_steps=1,
        size=64,
        vae="",
        attention_slicing=False,
        negative="blurred",
        guidance=3,
        device="cpu",
    )
    assert (
        own.settings["vae"] is None
        and not own.settings["attention_slicing"]
        and own.negative == "blurred"
        and own.settings["guidance"] == 3
    )


def test_negative_prompt_of_the_generator_is_used_and_stored_apart():
    from rlgen.store import Store
    cached = Cached(
        Generator.load("tiny", inference_steps=2, device="cpu", negative="a photo of one cat and no people in beach"),
        Store(":memory:"),
    )
    prompt = "a photo of one dog and no people in farm"
    own, none = cached.generate([prompt], [1])[0], cached.generate([prompt], [1], negative="")[0]
    assert cached.calls == 2 and own.tobytes() != none.tobytes()
    assert (
        cached.key(prompt, 1)
        == cached.key(prompt, 1, "a photo of one cat and no people in beach")
        != cached.key(prompt, 1, "")
    )


def test_what_was_drawn_before_a_failure_is_kept(generator):
    from rlgen.store import Store
    class Failing:
        settings, negative, batch_size = generator.settings, "", 2
        def generate(self, prompts, seeds, negative=None):
            if 5 in seeds: raise ConnectionError("gone")
            return generator.generate(prompts, seeds, negative)
    cached = Cached(Failing(), Store(":memory:"))
    with pytest.raises(ConnectionError):
        cached.generate(["a"] * 6, range(6))
    assert cached.calls == 4
    cached.generate(["a"] * 4, range(4))
    assert cached.hits == 4


# ---- guidance that ends early ----

def test_guidance_ends_early():
    "The passes after the end have half of the rows, and each picture keeps its own prompt."
    full, half = (Generator.load("tiny", inference_steps=5, device="cpu", guidance_until=share) for share in (1., .4))
    rows = []
    half.pipe.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    together = arrays(half.generate(PROMPTS[:2], [1, 2]))
    assert rows == [4, 4, 2, 2, 2]
    assert (together != arrays(full.generate(PROMPTS[:2], [1, 2]))).any()
    alone = arrays(half.generate(PROMPTS[:1], [1]))[0]
    assert np.abs(together[0] - alone).max() <= 2
    assert (arrays(half.generate(PROMPTS[:2], [1, 2])) == together).all()  # the pipeline guides again in the next call


def test_guidance_that_ends_early_is_a_setting():
    full, half = (Generator.load("tiny", inference_steps=5, device="cpu", guidance_until=share) for share in (1., .4))
    assert "guidance_until" not in full.settings and half.settings == full.settings | {"guidance_until": .4}
    for share in (0, 1.1, -1):
        with pytest.raises(ValueError, match="guidance_until is .*; it must be above 0, up to 1"):
            Generator.load("tiny", guidance_until=share)


def test_at_least_one_step_is_guided():
    few = Generator.load("tiny", inference_steps=3, device="cpu", guidance_until=.01)
    rows = []
    few.pipe.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    few.generate(PROMPTS[:1], [1])
    assert rows == [2, 1, 1]


# ---- keys and images agree ----

def as_bytes(generator):
    return generator.generate(PROMPTS[:1], [1])[0].tobytes()


def test_nothing_that_a_user_can_set_changes_images_but_not_the_key(folder):
    "Every attribute of the generator and of its pipeline, and every setting; values that matter where they could."
    import diffusers
    generator = Generator.load(str(folder), inference_steps=2, device="cpu")
    before, settings, other = as_bytes(generator), generator.settings, diffusers.DDIMScheduler()
    values = {"scheduler": other, "vae": None, "unet": None, "text_encoder": None, "tokenizer": None}
    names = {name for name in dir(generator) if not name.startswith("__")} | {*settings, "guidance", "size", "steps"}
    for name in sorted(names):
        with pytest.raises(AttributeError, match=f"{name} of a generator cannot be set.*with_settings"):
            setattr(generator, name, values.get(name, 7.5))
    pipe = generator.pipe
    for name in sorted({*vars(pipe), *pipe.components}):
        setattr(pipe, name, values.get(name))
        setattr(generator.pipe, name, values.get(name))
    for name in settings:
        generator.settings[name] = values.get(name, 7.5)
    assert as_bytes(generator) == before and generator.settings == settings
    own = diffusers.DiffusionPipeline.from_pretrained(folder)
    own.set_progress_bar_config(disable=True)
    mine = Generator(own, settings)
    own.scheduler = settings["guidance"] = None  # what a generator was made from does not lead into it either
    assert as_bytes(mine) == before


@pytest.mark.parametrize("change", [
    {"inference_steps": 3}, {"guidance": 3.}, {"guidance_until": .5}, {"scheduler": "euler-a"}, {"size": 48},
    {"negative": "people"}, {"guidance": np.float32(1)}, {"inference_steps": np.int64(3), "size": np.int64(48)},
])
def test_other_settings_are_another_generator_and_as_loaded_anew(folder, change):
    plain = Generator.load(str(folder), inference_steps=2, device="cpu")
    before, other = as_bytes(plain), plain.with_settings(**change)
    anew = Generator.load(str(folder), device="cpu", **{"inference_steps": 2} | change)
    assert (other.settings, other.negative) == (anew.settings, anew.negative)
    assert as_bytes(other) == as_bytes(anew) != before == as_bytes(plain)
    assert Cached(other).key("a", 1) == Cached(anew).key("a", 1) != Cached(plain).key("a", 1)
    assert other.pipe.unet is plain.pipe.unet and pickle.loads(pickle.dumps(other)).settings == other.settings
    assert other.with_settings().settings == other.settings


def test_settings_out_of_range_are_refused_and_a_generator_keeps_its_own(generator):
    for change, sentence in (
        ({"guidance": -1}, "guidance is -1"), ({"inference_steps": 0}, "inference_steps is 0"),
        ({"size": 50}, "size is 50"),
        ({"scheduler": "magic"}, "no scheduler 'magic'"), ({"batch_size": 0}, "batch_size is 0"),
        ({"guidance_until": 0}, "guidance_until is 0"),
    ):
        refused(lambda: generator.with_settings(**change), sentence)
    half = generator.with_settings(guidance_until=.5)
    assert half.with_settings(guidance_until=1.).settings == generator.settings


def test_a_cached_generator_is_not_exchanged(generator):
    cached = Cached(generator)
    with pytest.raises(AttributeError):
        cached.generator = generator.with_settings(guidance=3.)
    assert cached.key("a", np.int64(1)) == cached.key("a", 1)


def test_a_remote_generator_keeps_its_settings():
    remote = RemoteGenerator("m", base_url="http://localhost/v1", retries=np.int64(3))
    remote.settings["model"] = "other"
    with pytest.raises(AttributeError):
        remote.settings = {}
    assert remote.settings["model"] == "m" and remote.retries == 3


def test_the_keys_of_images_from_the_cpu_stay(generator):
    "Those of a store that an earlier release has written."
    assert Cached(generator).key(PROMPTS[0], 1) == "49c33f9ffd7342c86394228bd4300f55a1b0443f115993fc20db91464404ffc3"


def test_another_kind_of_device_is_another_key(folder, monkeypatch):
    import rlgen.models.generator as module
    plain = Generator.load(str(folder), device="cpu")
    monkeypatch.setattr(type(plain.pipe), "to", lambda self, device: self)
    monkeypatch.setattr(module, "pick_device", torch.device)
    monkeypatch.setattr(module, "pick_dtype", lambda dtype, device: torch.float32)
    cuda = Generator.load(str(folder), device="cuda")
    assert "device" not in plain.settings and cuda.settings == plain.settings | {"device": "cuda"}
    assert Generator.load(str(folder), device="cuda:1").settings == cuda.settings


def test_only_the_hubs_own_cache_is_named_by_its_commit(tmp_path):
    commit = "0123456789" * 4
    def weights(*parts):
        place = tmp_path.joinpath(*parts)
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"one")
        return place
    for place in (
        weights("snapshots", "best"), weights("a", "snapshots", commit), weights("models--a--b", "snapshots", "main"),
        weights("b", "models--a--b", commit), weights("datasets--a--b", "snapshots", commit),
    ):
        before = fingerprint(place)
        (place / "model.safetensors").write_bytes(b"two")
        assert fingerprint(place) != before and fingerprint(place) != commit[:16], place
    hub = weights("models--a--b", "snapshots", commit)
    assert fingerprint(hub) == commit[:16]
    (hub / "spiece.model").write_bytes(b"words")
    other = weights("plain")
    before = fingerprint(other)
    (other / "spiece.model").write_bytes(b"words")
    assert fingerprint(other) != before  # a tokenizer decides images, too


def test_a_folder_that_changed_is_loaded_again_even_by_an_older_file(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    settings = ModelSettings(model=str(tmp_path / "model"), inference_steps=1, device="cpu")
    first = load_generator(settings)
    path = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).add_(1e-2)
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, (0, 0))  # as a copy that keeps its times
    second = load_generator(settings)
    assert first.generator is not second.generator and first.key("a", 1) != second.key("a", 1)


def test_seeds_of_more_than_32_bits_give_images_of_their_own(generator):
    seeds = [1, 2**32 + 1, 2**33 + 1, 2**63 - 1]
    pictures = [generator.generate(PROMPTS[:1], [s])[0].tobytes() for s in seeds]
    assert len(set(pictures)) == len(seeds)
    assert generator.generate(PROMPTS[:1], [np.uint64(2**63 - 1)])[0].tobytes() == pictures[-1]


def test_a_large_model_in_one_thread_is_said_to_be_slow(folder, monkeypatch):
    import rlgen.models.generator as module
    monkeypatch.setattr(module, "LARGE", 1000)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.warns(UserWarning, match="set OMP_NUM_THREADS=8 before Python starts"):
        Generator.load(str(folder), device="cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    Generator.load(str(folder), device="cpu")  # in which a warning is an error
