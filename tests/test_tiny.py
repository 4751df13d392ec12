"""Training in a small setting, and the shipped models against what their cards say."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlgen.grammar import Grammar
from rlgen.models import evaluators
from rlgen.models.perception import Perception
from rlgen.scenes import MODIFIERS, render
from rlgen.training import diffusion, loop, shipped

WEIGHTS = Path(loop.__file__).parents[1] / "weights"


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return diffusion.new_vae().requires_grad_(False)


def tensors(trainer_folder):
    from safetensors.torch import load_file
    return load_file(Path(trainer_folder) / "checkpoint.safetensors")


RECIPES = {
    "vae": lambda folder, vae, until: diffusion.train_vae(
        folder, training_steps=4, batch_size=2, compile=False, stop_at_step=until
    ),
    "decoder": lambda folder, vae, until: diffusion.train_vae(
        folder, training_steps=4, batch_size=2, compile=False, stop_at_step=until, encoder=vae
    ),
    "unet": lambda folder, vae, until: diffusion.train_unet(
        folder, vae, training_steps=4, batch_size=2, compile=False, stop_at_step=until
    ),
    "clip": lambda folder, vae, until: shipped.train_clip(
        folder, training_steps=4, batch_size=4, stop_at_step=until, vae=vae
    ),
    "gpt2": lambda folder, vae, until: shipped.train_gpt2(folder, training_steps=4, batch_size=4, stop_at_step=until),
    "judges": lambda folder, vae, until: shipped.train_evaluators(
        folder, vae, training_steps=4, batch_size=4, stop_at_step=until
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_interrupted_training_ends_in_the_same_weights(tmp_path, name):
    def fresh():
        torch.manual_seed(0)
        return diffusion.new_vae()
    RECIPES[name](tmp_path / "whole", fresh(), None)
    RECIPES[name](tmp_path / "parts", fresh(), 2)
    RECIPES[name](tmp_path / "parts", fresh(), None)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)


def test_decoder_training_leaves_the_encoder_alone(tmp_path):
    torch.manual_seed(0)
    before = diffusion.new_vae()
    keep = {k: v.clone() for k, v in before.state_dict().items()}
    after = diffusion.train_vae(tmp_path, training_steps=2, batch_size=2, compile=False, encoder=before).state_dict()
    assert all(torch.equal(keep[k], after[k]) for k in keep if k.startswith(("encoder", "quant_conv")))
    assert any(not torch.equal(keep[k], after[k]) for k in keep if k.startswith("decoder"))


def test_gpt2_learns(tmp_path):
    shipped.train_gpt2(tmp_path, training_steps=51, batch_size=16)
    first, last = [
        json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert last < .6 * first


def test_batches_do_not_depend_on_where_they_start_or_how_many_share_them():
    whole = list(loop.batches(4, 3))
    late = list(loop.batches(4, 3, start=2))
    halves = [list(loop.batches(4, 3, rank=r, world=2)) for r in (0, 1)]
    assert late[0][:2] == whole[2][:2] and torch.equal(late[0][2], whole[2][2])
    for step, prompts, pictures in whole:
        assert prompts == halves[0][step][1] + halves[1][step][1]
        assert torch.equal(pictures, torch.cat([halves[0][step][2], halves[1][step][2]]))


def test_two_processes_learn_as_one(tmp_path):
    "With the gradients averaged, both end in the same weights, whatever part of the batch each has seen."
    code = """
import sys
from rlgen.training import diffusion
torch = diffusion.torch
vae = diffusion.train_vae(sys.argv[1], training_steps=2, batch_size=4, compile=False)
mine = torch.cat([p.detach().flatten() for p in vae.parameters()])
both = [torch.empty_like(mine), torch.empty_like(mine)]
torch.distributed.all_gather(both, mine)
assert torch.equal(*both)
torch.distributed.barrier()  # who leaves while the other still reads breaks its connection
torch.distributed.destroy_process_group()
"""
    (tmp_path / "learn.py").write_text(code)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "--local-addr",
            "127.0.0.1",  # what the machine is called need not lead to it
            "--rdzv-conf",
            "join_timeout=3600,read_timeout=3600,keep_alive_max_attempt=720",  # a busy machine answers late
            tmp_path / "learn.py",
            tmp_path / "vae",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(shipped.__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr  # all of it: the launcher's summary stands behind the worker's own error
    assert tensors(tmp_path / "vae")
    with pytest.raises(ValueError, match="multiple of 2"):
        next(loop.batches(3, 1, world=2))


def test_whitening_changes_latents_but_not_pictures(vae):
    from copy import deepcopy
    white = diffusion.whiten(deepcopy(vae), n_images=64, batch_size=32)
    latents = torch.cat([white.encode(evaluators.unit(x)).latent_dist.mean for _, _, x in loop.batches(32, 2, seed=9)])
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4 and (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3
    x = evaluators.unit(next(loop.batches(2, 1))[2])
    before, after = (m.decode(m.encode(x).latent_dist.mean).sample for m in (vae, white))
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_captions_true_of_pictures():
    prompts = [
        "a photo of one dog and many people in farm",
        "a photo of one dog and many people in farm, 4k",
        "a photo of one dog and many old dark women cycling in farm",
    ]
    said = torch.tensor(np.array([evaluators.facts(p) for p in prompts]))
    assert shipped.true_of(said, said).tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    rng = np.random.default_rng(0)
    for _ in range(50):
        text, row = shipped.fragment(prompts[2], rng)
        assert shipped.true_of(torch.tensor(row[None]), said)[2, 0], text


def test_contrastive_loss_takes_all_true_pairs():
    images = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    eye = torch.eye(4, dtype=torch.bool)
    plain = (torch.nn.functional.cross_entropy(5 * images @ images.T, torch.arange(4)) * 2) / 2
    torch.testing.assert_close(shipped.clip_loss(images, images, 5., eye), plain)
    assert (
        shipped.clip_loss(images[[0, 0]], images[[0, 0]], 5., torch.ones(2, 2, dtype=torch.bool))
        == pytest.approx(np.log(2))
    )


def test_every_word_is_one_token():
    tokenizer = loop.new_tokenizer()
    prompt = (
        "a photo of many butterfly and many old dark women teaching in snowy playground at night, dramatic lighting, "
        "octane render, rembrandt"
    )
    assert len(tokenizer.tokenize(prompt)) == len(prompt.replace(",", " ,").split())
    assert tokenizer.decode(tokenizer("Zürich ☂")["input_ids"], skip_special_tokens=True).strip() == "zürich ☂"


# What is shipped

@pytest.fixture(scope="module")
def eye():
    return Perception.load("tiny", device="cpu")


def test_card_numbers_hold_on_a_sample():
    "96 of the 480 base prompts, ten denoising steps; the bounds leave room for the smaller sample."
    from rlgen.models.generator import Generator
    grammar = Grammar.scenes()
    prompts = [grammar.decode(grammar.unindex(i)) for i in range(3, 480, 5)]
    pictures = Generator.load("tiny", inference_steps=10, device="cpu").generate(
        prompts, range(20_000, 20_000 + len(prompts))
    )
    columns = [list(evaluators.FACTS).index(axis) for axis in shipped.BASE]
    ok = {
        name: r[:, columns].all(1).mean()
        for name, r in evaluators.right(pictures, prompts, evaluators.load_evaluators(WEIGHTS / "judges")).items()
    }
    assert ok["colour"] > .92 and ok["grey"] > .88


def test_loads_as_a_plain_pipeline():
    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / "sd")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(
        "a photo of one dog and no people in farm",
        negative_prompt="people",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert picture.size == (64, 64) and type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"


def test_gpt2_writes_prompts():
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(WEIGHTS / "gpt2", dtype=torch.float32),
        AutoTokenizer.from_pretrained(WEIGHTS / "gpt2"),
    )
    start = torch.tensor([tokenizer("a photo of one")["input_ids"][:-1]])
    text = tokenizer.decode(model.generate(start, max_new_tokens=24, do_sample=False)[0], skip_special_tokens=True)
    from rlgen.scenes import read_prompt
    assert read_prompt(text.replace(" ,", ","))["Frequency"] == "one"


@pytest.mark.parametrize("modifier", MODIFIERS)
def test_perception_tells_each_modifier_from_none(eye, modifier):
    grammar = Grammar.scenes()
    prompts = [grammar.decode(e) for e in grammar.sample(seed=8, n=20)]
    right = 0
    for i, prompt in enumerate(prompts):
        pair = [prompt, f"{prompt}, {modifier}"]
        seen = eye.zero_shot([render(p, seed=70_000 + i)[0] for p in pair], pair)
        right += (seen.argmax(1) == [0, 1]).sum()
    assert right / (2 * len(prompts)) >= .9
