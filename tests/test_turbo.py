"""The generator of two passes: the shipped weights against their bars, and the training that made them: it learns, it
repeats bit for bit, it resumes, and it refuses what it cannot distil.
"""
import json
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file

from rlgen.agents.diffusion_policy import clean_and_noise
from rlgen.exercises.generative import check_progressive_target
from rlgen.files import read_csv
from rlgen.models.evaluators import load_evaluators
from rlgen.models.folders import lender, locate
from rlgen.models.generator import Generator
from rlgen.models.pipelines import embed_text, noise_of
from rlgen.training.diffusion import new_scheduler, new_text_encoder, new_vae
from rlgen.training.distillation import (
    check_teacher,
    distill,
    distillation_loss,
    few_passes,
    guided,
    images_right,
    make_targets,
    pass_times,
    progressive_target,
    save_student,
    shown_right,
    target_prompts,
)
from rlgen.training.loop import new_tokenizer

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = files("rlgen") / "weights"


# The shipped weights

@pytest.fixture(scope="module")
def turbo():
    return Generator.load("tiny-turbo")


def test_two_passes_show_what_the_prompt_says(turbo):
    found = shown_right(turbo, load_evaluators(str(WEIGHTS / "judges")), every=5)  # 96 of the 480 prompts
    assert found["perception"] >= .97 and found["colour"] >= .97 and found["grey"] >= .95, found


def test_the_measured_bars_are_met():
    rows = read_csv(ROOT / "nbs" / "generative" / "few_steps.csv")
    def row(model, steps, guidance):
        wanted = model, steps, guidance
        found, = [r for r in rows if (r["model"], int(r["steps"]), float(r["guidance"])) == wanted]
        return {name: float(value) for name, value in found.items() if name != "model"}
    turbo, default = row("tiny-turbo", 2, 1), row("tiny", 10, 2.5)
    assert turbo["passes"] == 2 and default["passes"] == 20
    assert turbo["perception"] >= .98
    assert all(turbo[name] >= default[name] - .01 for name in ("colour", "grey"))
    assert turbo["images_per_second"] >= 5 * default["images_per_second"]


def test_right_images_are_those_of_their_own_prompt(turbo):
    prompts = ["a photo of one dog and no people in farm", "a photo of many bus and many people in street"]
    evaluators = load_evaluators(str(WEIGHTS / "judges"))
    for asked, expected in ((prompts, True), (prompts[::-1], False)):
        maker = SimpleNamespace(generate=lambda _, seeds: turbo.generate(prompts, seeds))
        found = images_right(maker, evaluators, asked, [1, 2])
        assert set(found) == {"perception", *evaluators} and all((ok == expected).all() for ok in found.values())
    assert set(images_right(turbo, {}, prompts, [1, 2])) == {"perception"}


def test_it_takes_one_pass_a_step(turbo):
    assert (turbo.settings["steps"], turbo.settings["guidance"]) == (2, 1)
    seen, unet = [], turbo.pipe.unet
    hook = unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((len(args[0]), int(args[1]))), with_kwargs=True
    )
    turbo.generate(["a photo of one dog and no people in farm"], [0])
    hook.remove()
    assert seen == [(1, 999), (1, 499)]


def test_its_key_is_its_own_and_knows_the_shared_parts(turbo):
    tiny = Generator.load("tiny")
    assert turbo.settings["model"] != tiny.settings["model"]
    assert turbo.settings["parts"] == tiny.settings["model"] and "parts" not in tiny.settings
    assert lender(locate("tiny")) is None and lender(locate("tiny-turbo")) == locate("tiny")
    for name in ("vae", "text_encoder"):
        ours, theirs = (getattr(g.pipe, name).state_dict() for g in (turbo, tiny))
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert sorted(p.name for p in locate("tiny-turbo").iterdir()) == [
        "README.md", "model_index.json", "scheduler", "unet",
    ]
    weights = load_file(locate("tiny-turbo") / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {np.dtype("float16")}


# The training

def random_pipe():
    "A Stable Diffusion of 8 x 8 latents, with random weights."
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=128, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    tokenizer = new_tokenizer()
    return diffusers.StableDiffusionPipeline(
        vae=new_vae(32), text_encoder=new_text_encoder(tokenizer).eval(), tokenizer=tokenizer, unet=unet.eval(),
        scheduler=new_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )


@pytest.fixture(scope="module")
def pipe():
    return random_pipe()


@pytest.fixture(scope="module")
def targets(pipe, tmp_path_factory):
    return make_targets(tmp_path_factory.mktemp("targets"), pipe, 1, lambda shard: target_prompts(shard)[:8], steps=2)


OPTIONS = {"training_steps": 16, "batch_size": 4, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def trained(pipe, targets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return distill(folder, pipe, targets, **OPTIONS), folder


def test_the_loss_goes_down_and_the_teacher_stays(pipe, targets, trained):
    student, _ = trained
    text = embed_text(pipe, targets.prompts)
    def loss(unet):
        with torch.inference_mode():
            ends = few_passes(lambda *x: unet(*x).sample, targets.noise, text, pipe.scheduler.alphas_cumprod)
            return float(distillation_loss(ends, targets.latents)["loss"])
    assert loss(student) < .8 * loss(pipe.unet)
    assert not student.training and not any(p.requires_grad for p in student.parameters())
    assert all(torch.equal(p, q) for p, q in zip(pipe.unet.parameters(), random_pipe().unet.parameters(), strict=True))


def test_a_seed_gives_the_same_student_also_when_interrupted(pipe, targets, trained, tmp_path):
    distill(tmp_path, pipe, targets, stop_at_step=6, **OPTIONS)
    resumed = distill(tmp_path, pipe, targets, **OPTIONS)
    assert all(torch.equal(p, q) for p, q in zip(trained[0].parameters(), resumed.parameters(), strict=True))
    other = distill(tmp_path / "other", pipe, targets, stop_at_step=2, seed=8, **OPTIONS)
    first = distill(tmp_path / "first", pipe, targets, stop_at_step=2, **OPTIONS)
    assert any(not torch.equal(p, q) for p, q in zip(first.parameters(), other.parameters(), strict=True))


def test_targets_are_read_again_and_those_of_other_settings_refused(pipe, targets, tmp_path):
    def prompts(shard):
        return target_prompts(shard)[:2]
    made = make_targets(tmp_path, pipe, 2, prompts, steps=2)
    (tmp_path / "001.safetensors").unlink()
    again = make_targets(tmp_path, pipe, 2, prompts, steps=2)
    assert made.prompts == again.prompts and torch.equal(made.latents, again.latents)
    assert torch.equal(made.noise, again.noise) and len(made.noise.unique(dim=0)) == 4
    with pytest.raises(ValueError, match="other prompts or settings: name another folder"):
        make_targets(tmp_path, pipe, 2, prompts, steps=3)


def test_an_epoch_has_each_pair_once(targets):
    items, n = targets.source(0), len(targets.prompts)
    epochs = [[items[i] for i in range(start, start + n)] for start in (0, n)]
    assert [sorted(p for p, _ in epoch) for epoch in epochs] == [sorted(targets.prompts)] * 2
    assert [p for p, _ in epochs[0]] != [p for p, _ in epochs[1]]
    where = targets.prompts.index(epochs[0][0][0])
    assert torch.equal(epochs[0][0][1], torch.stack([targets.noise[where], targets.latents[where]]))


def test_prompts_of_two_shards_are_the_base_prompts():
    assert len({*target_prompts(0), *target_prompts(1)}) == 480 and len(target_prompts(2)) == 240
    assert target_prompts(0) != target_prompts(3)


def test_a_whole_folder_is_a_plain_pipeline(pipe, trained, tmp_path):
    save_student(tmp_path / "whole", pipe, trained[0])
    save_student(tmp_path / "part", pipe, trained[0], whole=False)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "whole", use_safetensors=True)
    start, text = noise_of([3], (4, 8, 8)), embed_text(loaded, ["one dog"])
    with torch.inference_mode():
        ours = few_passes(lambda *x: loaded.unet(*x).sample, start, text, loaded.scheduler.alphas_cumprod)[-1]
    loaded.set_progress_bar_config(disable=True)
    theirs = loaded("one dog", num_inference_steps=2, guidance_scale=1, latents=start, output_type="latent").images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert json.loads((tmp_path / "part" / "model_index.json").read_text())["unet"][1] == "UNet2DConditionModel"
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == ["model_index.json", "scheduler", "unet"]


# The equations

@settings(max_examples=50, deadline=None)
@given(st.floats(.01, .5), st.floats(.55, 1), st.integers(0, 99))
def test_one_step_to_the_target_lands_where_the_teacher_is(alpha_bar, later, seed):
    noisy, reached = np.random.default_rng(seed).normal(size=(2, 5))
    target = progressive_target(noisy, reached, alpha_bar, later)
    noise = (noisy - alpha_bar ** .5 * target) / (1 - alpha_bar) ** .5
    np.testing.assert_allclose(later ** .5 * target + (1 - later) ** .5 * noise, reached, atol=1e-9)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_both_predictions_give_clean_latent_and_noise(kind):
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    alpha_bar = torch.tensor(.3).double()
    noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    said = noise if kind == "epsilon" else alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    for got, wanted in zip(clean_and_noise(noisy, said, alpha_bar, kind), (clean, noise), strict=True):
        torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(guided(clean, noise, 1.), noise)


@pytest.mark.parametrize("passes", [1, 2, 3, 4, 7])
def test_times_are_those_of_diffusers(passes):
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(passes)
    assert pass_times(passes) == scheduler.timesteps.tolist()


def test_the_check_names_the_mistake(capsys):
    assert check_progressive_target(progressive_target)
    assert not check_progressive_target(lambda noisy, reached, alpha_bar, later: reached)
    assert "only at the clean end" in capsys.readouterr().out


# What it refuses

@pytest.mark.parametrize("options, message", [
    ({"passes": 0}, "passes is 0; it must be from 1 to 1000"),
    ({"passes": 1001}, "passes is 1001"),
    ({"training_steps": 0}, "training_steps is 0; it must be 1 or more")])
def test_numbers_out_of_range_are_refused(pipe, targets, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        distill(tmp_path / "new", pipe, targets, **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("scheduler", [
    diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.DDIMScheduler(prediction_type="sample")])
def test_other_kinds_of_models_are_refused(scheduler, tmp_path):
    other = SimpleNamespace(unet=object(), scheduler=scheduler)
    with pytest.raises(ValueError, match="cannot be distilled: it needs a UNet that predicts v_prediction or epsilon"):
        make_targets(tmp_path / "new", other)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="cannot be distilled"):
        check_teacher(SimpleNamespace(scheduler=diffusers.DDIMScheduler()))


def test_no_shards_are_refused(pipe, tmp_path):
    with pytest.raises(ValueError, match="shards is 0; it must be 1 or more"):
        make_targets(tmp_path, pipe, 0)
