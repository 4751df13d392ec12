"""Each text-to-image pipeline of the installed diffusers, as a small copy with random weights."""
import json
import shutil
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import diffusers
import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
from refusals import refused
from small_pipelines import BUILDERS, CHANGES, build, shrink

from rlgen.clone.run import prepare
from rlgen.clone.shards import generate_batches
from rlgen.experiments.rldf import RLDFSettings, search
from rlgen.models.captioner import Captioner
from rlgen.models.folders import GENERATOR_NAMES, GONE, PRESETS, SHIPPED, locate
from rlgen.models.generator import Cached, Generator
from rlgen.models.loading import ModelSettings
from rlgen.models.perception import Perception
from rlgen.models.pipelines import (
    ALONE,
    FULL,
    UNTESTED,
    PipelineCall,
    memory_table,
    pipeline_class,
    refusal,
    text_to_image_classes,
)
from rlgen.models.prompt_policy import PromptPolicy

# of diffusers and transformers about their own code
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Future", "Deprecation")]

PROMPTS = ["a photo of one dog", "a cat", "a painting of a rocket and a tree"]
WORKS = sorted(name for name, pipeline in text_to_image_classes().items() if not refusal(pipeline))


def arrays(images):
    return np.array([np.asarray(image.convert("RGB")) for image in images], int)


def load(folder, pipe, **options):
    "A generator from a folder that a pipeline was saved to."
    pipe.save_pretrained(folder)
    return Generator.load(str(folder), device="cpu", **options)


def by_hand(case, prompt, seed, **words):
    "The image of the plain pipeline, called as its documentation says."
    generator = torch.Generator().manual_seed(seed)
    return arrays(case.pipe(prompt=prompt, generator=generator, **case.words | words).images)[0]


SLOW = {"GlmImagePipeline"}  # its language model samples 256 tokens for an image, so it has a test of its own


@pytest.fixture(scope="module", params=sorted(set(BUILDERS) - SLOW))
def case(request, tmp_path_factory):
    "A pipeline, its generator with two steps, and the words of a plain call that asks for the same."
    name, changes, folder = request.param, CHANGES.get(request.param, {}), tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        pipeline_class(name)  # finds the modules that diffusers has moved
        default = load(folder, build(name))
        generator = default.with_settings(
            inference_steps=2, size=changes.get("height"), guidance=changes.get("guidance_scale"))
        pipe = getattr(diffusers, name).from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        prior = {"prior_num_inference_steps": 2} if "prior_steps" in generator.settings else {}
        words = {"num_inference_steps": 2, **prior, **changes}
        yield SimpleNamespace(name=name, default=default, generator=generator, pipe=pipe, words=words, folder=folder)


def test_an_image_is_that_of_the_plain_call(case):
    images = arrays(case.generator.generate(PROMPTS[:1] * 2, [1, 2])), case.generator.generate(PROMPTS[:1], [2**40])
    plain = by_hand(case, PROMPTS[0], 1)
    alone = arrays(case.generator.generate(PROMPTS[:1], [1]))[0]
    assert (alone == plain).all() and images[1][0].mode == "RGB"
    assert (images[0][0] != images[0][1]).any() and (arrays(images[1])[0] != alone).any()


def test_neighbours_in_a_padded_batch_move_no_value_by_more_than_one_level(case):
    together = arrays(case.generator.generate(PROMPTS, [1, 1, 3]))  # padded to four
    alone = np.concatenate([arrays(case.generator.generate([p], [s])) for p, s in zip(PROMPTS, [1, 1, 3], strict=True)])
    assert np.abs(together - alone).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 1  # the prompt shows


def test_negative_prompts_do_what_the_plain_call_does_or_are_refused(case):
    generator, call = case.generator, PipelineCall(case.pipe)
    if not call.guides(generator.settings["guidance"]) or "negative_prompt" not in call.takes:
        refused(lambda: generator.generate(PROMPTS[:1], [1], negative="blue"), case.name)
        refused(lambda: generator.with_settings(negative="blue"), case.name)
        assert (arrays(generator.generate(PROMPTS[:1], [1], negative="")) == by_hand(case, PROMPTS[0], 1)).all()
        return
    plain = by_hand(case, PROMPTS[0], 1, negative_prompt="a blue photo of many people")
    own = generator.with_settings(negative="a blue photo of many people")
    assert (arrays(own.generate(PROMPTS[:1], [1]))[0] == plain).all() and (plain != by_hand(case, PROMPTS[0], 1)).any()
    unguided = generator.with_settings(guidance=0)
    refused(lambda: unguided.generate(PROMPTS[:1], [1], negative="blue"), "would change nothing", case.name)


def test_the_store_has_one_image_for_each_key(case):
    cached = Cached(case.generator)
    first = cached.generate([PROMPTS[0], PROMPTS[1], PROMPTS[0]], [1, 1, 1])
    again = cached.generate(PROMPTS[:1], [1])
    assert (cached.calls, cached.hits) == (2, 2) and (arrays(again)[0] == arrays(first)[0]).all()
    assert Cached(case.generator.with_settings(inference_steps=3)).key("a", 1) != cached.key("a", 1)
    if not PipelineCall(case.pipe).embeds:
        assert cached.key("a", 1) != cached.key("a", 1, "")  # no negative prompt is not an empty one


def test_steps_and_guidance_are_those_of_the_signature_where_nobody_says_another(case):
    takes = PipelineCall(case.pipe).takes
    scale = "true_cfg_scale" if case.name.startswith("QwenImage") else "guidance_scale"
    scale = scale if scale in takes else "prior_guidance_scale"
    assert case.default.settings["steps"] == takes["num_inference_steps"]
    assert case.default.settings["guidance"] == takes[scale]
    assert case.default.settings.get("prior_steps") == takes.get("prior_num_inference_steps")


def test_weights_in_8_bits_are_smaller_and_make_other_images_or_are_refused(case):
    if case.name in FULL:
        refused(lambda: Generator.load(str(case.folder), device="cpu", memory="8bit"), case.name, "memory='low'")
        return
    small = Generator.load(str(case.folder), device="cpu", memory="8bit")
    assert small.settings == case.default.settings | {"memory": "8bit"}
    s = case.generator.settings
    small = small.with_settings(inference_steps=2, size=s["size"], guidance=s["guidance"])
    before, after = (memory_table(made.pipe, 16, bytes_each=4)[0]["MB"] for made in (case.generator, small))
    assert after < .98 * before
    full, image = (arrays(g.generate(PROMPTS[:1], [1]))[0] for g in (case.generator, small))
    assert (image != full).any() and image.shape == full.shape


def test_every_class_of_diffusers_is_tested_or_refused_or_listed():
    assert set(WORKS) == set(BUILDERS) | set(UNTESTED) and not set(BUILDERS) & set(UNTESTED)
    assert len(BUILDERS) >= 25 and set(ALONE) <= set(WORKS)


@pytest.mark.parametrize("name", sorted(set(text_to_image_classes()) - set(WORKS)) + ["StableAudioPipeline"])
def test_what_does_not_work_is_refused_before_weights_are_read(tmp_path, name):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "unet": ["diffusers", "Missing"]}))
    with pytest.raises(ValueError, match=f"^{name} .*; what works are the pipelines .*[.]$") as caught:
        Generator.load(str(tmp_path), device="cpu")
    assert all(works.removesuffix("Pipeline") in str(caught.value) for works in WORKS)


@pytest.mark.parametrize("name", ["PixArtSigmaPipeline", "QwenImagePipeline", "StableCascadeCombinedPipeline"])
def test_a_search_with_it(tmp_path, name):
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        pipeline_class(name)
        build(name).save_pretrained(tmp_path / "model")
        models = ModelSettings(
            str(tmp_path / "model"), inference_steps=1, size=CHANGES[name]["height"], device="cpu", batch_size=4)
        result = search(None, RLDFSettings(max_steps=2, episode=2, models=models), tmp_path / "run")
    assert result.steps == 2 and result.generator_calls >= 2


def test_flux_guides_by_its_network_or_away_from_a_negative_prompt(tmp_path):
    words = {"num_inference_steps": 2, "height": 16, "width": 16}
    dev = load(tmp_path / "dev", build("FluxPipeline"), inference_steps=2, size=16)
    schnell = load(tmp_path / "schnell", build("FluxPipeline", embeds=False), inference_steps=2, size=16)
    assert (dev.settings["guidance"], schnell.settings["guidance"]) == (3.5, 1.)
    strong = arrays(dev.with_settings(guidance=9.).generate(PROMPTS[:1], [1]))
    assert (strong != arrays(dev.generate(PROMPTS[:1], [1]))).any()
    assert (strong == by_hand(SimpleNamespace(pipe=dev.pipe, words=words), PROMPTS[0], 1, guidance_scale=9.)).all()
    refused(lambda: dev.with_settings(guidance=9., negative="blue"), "distilled into its network")

    guided = schnell.with_settings(guidance=4.)
    refused(lambda: guided.generate(PROMPTS[:1], [1]), "give one, which may be empty")
    plain = by_hand(SimpleNamespace(pipe=schnell.pipe, words=words), PROMPTS[0], 1, negative_prompt="blue",
                    true_cfg_scale=4.)
    assert (arrays(guided.generate(PROMPTS[:1], [1], negative="blue"))[0] == plain).all()
    assert (arrays(guided.generate(PROMPTS[:1], [1], negative=""))[0] != plain).any()


@pytest.mark.filterwarnings("ignore:Kwargs passed to")
def test_glm_image_is_that_of_the_plain_call(tmp_path):
    made = load(tmp_path, build("GlmImagePipeline"), inference_steps=2, size=32)
    plain = diffusers.GlmImagePipeline.from_pretrained(tmp_path)
    plain.set_progress_bar_config(disable=True)
    case = SimpleNamespace(pipe=plain, words={"num_inference_steps": 2, "height": 32, "width": 32})
    images = arrays(made.generate(PROMPTS[:2], [1, 1]))
    assert (images[0] == by_hand(case, PROMPTS[0], 1)).all() and (images[0] != images[1]).any()


def test_a_distilled_pipeline_has_no_second_pass(tmp_path):
    klein = load(tmp_path, build("Flux2KleinPipeline", distilled=True))
    assert not PipelineCall(klein.pipe).guides(4.)


def test_an_option_that_a_class_has_no_use_for_is_refused(tmp_path):
    kandinsky = load(tmp_path / "kandinsky", build("KandinskyV22CombinedPipeline"))
    refused(lambda: kandinsky.with_settings(scheduler="ddim"), "leave scheduler out")
    refused(lambda: Generator.load(str(tmp_path / "kandinsky"), vae=str(tmp_path)), "leave vae out")
    refused(lambda: kandinsky.with_settings(guidance_until=.5), "cannot stop guiding")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        ideogram = load(tmp_path / "ideogram", build("Ideogram4Pipeline"))
    assert ideogram.settings["guidance"] is None
    refused(lambda: ideogram.with_settings(inference_steps=4), "each of 48 steps: give guidance as well")


def test_a_size_that_a_pipeline_does_not_make_is_refused(tmp_path):
    lumina = load(tmp_path / "lumina", build("LuminaPipeline"), inference_steps=1, size=24)
    refused(lambda: lumina.generate(["a"], [1]), "LuminaPipeline refuses what it is asked for", "divisible by 16")
    hunyuan = load(tmp_path / "hunyuan", build("HunyuanDiTPipeline"), inference_steps=1, size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.hunyuandit.pipeline_hunyuandit.SUPPORTED_SHAPE", [(48, 48)])
        patch.setattr("diffusers.pipelines.hunyuandit.pipeline_hunyuandit.map_to_standard_shapes", lambda *_: (48, 48))
        refused(lambda: hunyuan.generate(["a"], [1]), "makes 48 x 48 pixels where 32 x 32 are asked for")


def test_a_clone_without_a_negative_prompt_has_none(tmp_path):
    generator = load(tmp_path / "model", build("StableDiffusionXLPipeline"), inference_steps=1)
    plan = {"out": str(tmp_path / "clone"), "classes": ["dog"], "splits": {"train": 1}}
    manifest, generator = prepare(plan, generator)
    [[_, table]] = manifest.shards(10)
    [[_, images]] = generate_batches(generator, table, 1)
    prompt, seed = table["prompt"].to_pylist(), table["seed"].to_pylist()
    assert (arrays(images) == arrays(generator.generate(prompt, seed))).all()
    assert (arrays(images) != arrays(generator.generate(prompt, seed, negative=""))).any()


# ---- weights and names that cannot be had ----

@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_cut_off_are_named(tmp_path, part):
    build("StableDiffusionPipeline").save_pretrained(tmp_path)
    file = next((tmp_path / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    refused(lambda: Generator.load(str(tmp_path), device="cpu"), str(file), "incomplete")


def test_other_autoencoders_captioners_language_models_and_clip_are_named_too(tmp_path):
    for shipped, load_it in (("captioner", Captioner.load), ("gpt2", PromptPolicy.load), ("clip", Perception.load)):
        folder = shutil.copytree(files("rlgen") / "weights" / shipped, tmp_path / shipped)
        file = next(Path(folder).glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-100])
        refused(lambda load_it=load_it, folder=folder: load_it(str(folder)), str(file), "incomplete")
    build("StableDiffusionPipeline").vae.save_pretrained(tmp_path / "vae")
    file = next((tmp_path / "vae").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:50])
    refused(lambda: Generator.load("tiny", vae=str(tmp_path / "vae"), device="cpu"), str(file), "incomplete")


@pytest.mark.parametrize("status, kind, words", [
    (403, GatedRepoError, "accept its licence"), (401, GatedRepoError, "hf auth login"),
    (404, RepositoryNotFoundError, "has no model"), (401, RepositoryNotFoundError, "keeps it private"),
    (None, OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"), (None, ConnectionError, "check the name and the network"),
])
def test_what_the_hub_refuses_is_a_sentence(monkeypatch, status, kind, words):
    def refuse(*_, **__):
        request = httpx.Request("GET", "https://huggingface.co")
        own = kind("no", response=httpx.Response(status, request=request)) if status else kind("no")
        try:
            raise own
        except Exception as error:
            raise OSError("Cannot load the model.\nSee above.") from error  # as diffusers wraps it
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", refuse)
    refused(lambda: Generator.load("owner/model", device="cpu"), words, "'owner/model'", kind=ConnectionError)


def test_a_model_that_its_owner_removed_is_said_to_be_gone():
    for name, mirror in GONE.items():
        assert name not in (*PRESETS, *GENERATOR_NAMES.values())
        refused(lambda name=name: locate(name), name, mirror, GENERATOR_NAMES[mirror], kind=ConnectionError)
    assert set(GENERATOR_NAMES.values()) | set(SHIPPED) == set(PRESETS)


def test_presets_reach_the_settings(monkeypatch, tmp_path):
    folders = {
        "stabilityai/sdxl-turbo": "StableDiffusionXLPipeline", "black-forest-labs/FLUX.1-schnell": "FluxPipeline",
        "stabilityai/stable-diffusion-xl-base-1.0": "StableDiffusionXLPipeline",
    }
    def download(name, **_):
        changes = {"embeds": False} if "FLUX" in name else {}
        build(folders[name], **changes).save_pretrained(tmp_path / name)
        return tmp_path / name
    monkeypatch.setattr("rlgen.models.folders.download", download)
    found = {name: Generator.load(name, device="cpu").settings for name in ("sdxl-turbo", "sdxl", "flux-schnell")}
    assert {name: (s["steps"], s["guidance"], s["size"]) for name, s in found.items()} == {
        "sdxl-turbo": (1, 0., 512), "sdxl": (50, 5., None), "flux-schnell": (4, 1., None)}
    assert Generator.load("sdxl-turbo", device="cpu", guidance=2., inference_steps=3).settings["steps"] == 3


def test_a_preset_s_negative_prompt_is_left_out_where_it_would_change_nothing(monkeypatch, tmp_path):
    build("StableDiffusionPipeline").save_pretrained(tmp_path)
    monkeypatch.setattr("rlgen.models.folders.download", lambda name, **_: tmp_path)
    options = {"vae": "", "device": "cpu", "size": 32}
    guided, plain = Generator.load("sd-1.4", **options), Generator.load("sd-1.4", guidance=1., **options)
    assert (guided.negative, plain.negative) == (PRESETS[GENERATOR_NAMES["sd-1.4"]]["negative"], "")
    refused(lambda: guided.with_settings(guidance=1.), "would change nothing")
    assert guided.with_settings(guidance=1., negative="").settings == plain.settings
