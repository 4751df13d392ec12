"""Fine-tuning a generator: steps against diffusers, formulas in float64, what is learned, resumption, refusals."""
import math
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from refusals import refused
from small_pipelines import build

from rlgen import cli
from rlgen.agents.diffusion_policy import (
    RULES,
    DiffusionPolicy,
    DiffusionPolicySettings,
    ddim_step,
    denoising_errors,
    gaussian_kl,
    gaussian_log_probability,
    imitation_weights,
    noise_levels,
    policy_gradient_losses,
    sample_trajectories,
)
from rlgen.agents.policy_gradient import kl_estimate
from rlgen.experiments.finetune import (
    FinetuneSettings,
    best_of_n,
    check_trainable,
    fine_tune,
    finetune_steps,
    start_finetuning,
    task_prompts,
    train_part,
)
from rlgen.models.generator import Generator
from rlgen.models.loading import ModelSettings, load_own_generator
from rlgen.runs import Run, run_config

# of diffusers and transformers about their own code
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Future", "Deprecation")]
pytestmark += [pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")]


# ---- one step ----

@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0., .5, 1.])
def test_a_step_is_that_of_diffusers(prediction, eta):
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, prediction_type=prediction, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    levels = noise_levels(1000, 10)
    assert scheduler.timesteps.tolist() == levels[:-1].tolist() and levels[-1] == -1
    rng = torch.Generator().manual_seed(0)
    x, out, noise = torch.randn(3, 10, 2, 4, 4, dtype=torch.float64, generator=rng)
    alphas = torch.cat([scheduler.alphas_cumprod.double(), torch.ones(1, dtype=torch.float64)])
    mean, std = ddim_step(x, out, alphas[levels[:-1]], alphas[levels[1:]], eta, prediction)
    for i, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(out[i], t, x[i], eta=eta, variance_noise=noise[i]).prev_sample
        torch.testing.assert_close(mean[i] + std[i] * noise[i], theirs, rtol=0, atol=1e-6)  # its alphas are float32


def step_by_hand(x, out, a, a_next, eta, prediction):
    "Song et al. 2021, equations 12 and 16, for one number."
    if prediction == "v_prediction":  # Salimans and Ho 2022, appendix D
        image, noise = math.sqrt(a) * x - math.sqrt(1 - a) * out, math.sqrt(a) * out + math.sqrt(1 - a) * x
    else:
        image, noise = (x - math.sqrt(1 - a) * out) / math.sqrt(a), out
    sigma = eta * math.sqrt((1 - a_next) / (1 - a)) * math.sqrt(1 - a / a_next)
    return math.sqrt(a_next) * image + math.sqrt(1 - a_next - sigma**2) * noise, sigma


def test_formulas_in_float64():
    rng = np.random.default_rng(0)
    for prediction in ("epsilon", "v_prediction"):
        x, out, then, other = torch.from_numpy(rng.standard_normal((4, 5, 3)))
        a = torch.from_numpy(rng.uniform(.01, .5, 5))
        a_next, eta = a + torch.from_numpy(rng.uniform(.05, .4, 5)), float(rng.uniform(.2, 1))
        mean, std = ddim_step(x, out, a, a_next, eta, prediction)
        logp, kl = gaussian_log_probability(then, mean, std), gaussian_kl(mean, other, std)
        for i in range(5):
            logs, divergences = [], []
            for k in range(3):
                m, s = step_by_hand(
                    float(x[i, k]), float(out[i, k]), float(a[i]), float(a_next[i]), eta, prediction
                )
                assert abs(m - float(mean[i, k])) < 1e-9 and abs(s - float(std[i])) < 1e-9
                z = float(then[i, k])
                logs.append(math.log(math.exp(-((z - m) / s) ** 2 / 2) / (s * math.sqrt(2 * math.pi))))
                divergences.append((m - float(other[i, k])) ** 2 / (2 * s * s))
            assert abs(np.mean(logs) - float(logp[i])) < 1e-9 and abs(np.mean(divergences) - float(kl[i])) < 1e-9


def test_the_divergence_is_the_mean_of_k3():
    rng = torch.Generator().manual_seed(0)
    mean, reference, std = torch.tensor([.3]), torch.tensor([0.]), torch.tensor([.8])
    x = mean + std * torch.randn(200_000, 1, generator=rng)
    logp, old = (gaussian_log_probability(x, m.expand_as(x), std.expand(len(x))) for m in (mean, reference))
    assert abs(kl_estimate(logp, old).mean() - gaussian_kl(mean[None], reference[None], std)) < 2e-3


def test_losses_by_hand():
    settings = DiffusionPolicySettings(clip=.1, kl=.5)
    logp = torch.tensor([0., .2, -.2, .2, -.2], dtype=torch.float64, requires_grad=True)
    A, kl = torch.tensor([1., 1., 1., -1., -1.]).double(), torch.full((5,), .2, dtype=torch.float64)
    losses = policy_gradient_losses(logp, torch.zeros(5).double(), A, kl, settings)
    up, down = math.exp(.2), math.exp(-.2)
    expected = torch.tensor([-1., -1.1, -down, up, .9], dtype=torch.float64) + .1
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-12)
    losses.sum().backward()
    wanted = torch.tensor([-1., 0., -down, up, 0.], dtype=torch.float64)
    torch.testing.assert_close(logp.grad, wanted, rtol=0, atol=1e-12)
    score = replace(settings, rule="score", epochs=1, gradient_steps=1, kl=0.)
    torch.testing.assert_close(policy_gradient_losses(logp, logp, A, kl, score), -(logp * A))


def test_weights_of_imitation():
    A, rows = np.array([1., -1., 0., 2.]), np.array([0, 0, 1, 1])
    weighted = imitation_weights(A, rows, DiffusionPolicySettings("weighted", temperature=2.))
    np.testing.assert_allclose(weighted, np.exp(A / 2) / np.exp(A / 2).mean(), atol=1e-12)
    best = imitation_weights(A, rows, DiffusionPolicySettings("best", best_share=.5))
    assert best.tolist() == [1, 0, 0, 1]


# ---- a denoiser of two numbers, whose images are N(0, 1) before it learns ----

class Toy:
    prediction, shape, alphas = "epsilon", (2,), torch.linspace(.99, .02, 50)

    def __init__(self):
        torch.manual_seed(0)
        self.net = torch.nn.Linear(1, 2)
        torch.nn.init.zeros_(self.net.weight), torch.nn.init.zeros_(self.net.bias)

    def predict(self, latents, t, rows, frozen=False):
        noise = (1 - self.alphas[t])[:, None].sqrt() * latents
        return noise if frozen else noise + self.net(torch.from_numpy(rows[:, None]).float())


def toy_agent(**settings):
    "An agent that should make the first number large and the second one small; prompts mean nothing."
    wanted = {"steps": 6, "prompts": 2, "samples": 16, "gradient_steps": 2, "learning_rate": .02, "clip": .05}
    reward = lambda rows, x: (x[:, 0] - x[:, 1]).numpy()
    return DiffusionPolicy(Toy(), reward, 3, DiffusionPolicySettings(**wanted | settings))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns(rule):
    agent = toy_agent(rule=rule, **({"gradient_steps": 1} if rule == "score" else {}))
    seen = []
    agent.learn(25, seen.append)
    first, last = (np.mean([u.rewards.mean() for u in part]) for part in (seen[:3], seen[-3:]))
    assert last > first + .5 and seen[-1].kl > seen[0].kl == 0


def test_the_penalty_keeps_it_close():
    far, near = (toy_agent(kl=kl).learn(25).step().kl for kl in (0., 20.))
    assert near < far / 3


def test_the_gradient_is_the_policy_gradient():
    "One step of rule score without clipping is Williams' estimator, made here from torch.distributions."
    agent = toy_agent(rule="score", gradient_steps=1, learned_share=1., max_gradient=1e9, advantage="centred")
    state = agent.generator.get_state()
    order = torch.randperm(3, generator=agent.generator).numpy()
    rows = np.repeat(order[:2], 16)
    paths = sample_trajectories(agent.denoiser, rows, 6, 1., agent.generator, 32)
    rewards = agent.reward(rows, paths.latents[:, -1])
    A = torch.from_numpy(rewards.reshape(2, 16) - rewards.reshape(2, 16).mean(1, keepdims=True)).reshape(-1)
    alphas, total = torch.cat([agent.denoiser.alphas, torch.ones(1)]), 0.
    for k in range(5):  # the sixth step adds no noise
        a, b = alphas[paths.levels[k]], alphas[paths.levels[k + 1]]
        x = paths.latents[:, k]
        noise = agent.denoiser.predict(x, torch.full((32,), int(paths.levels[k])), rows)
        std = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        mean = b.sqrt() * (x - (1 - a).sqrt() * noise) / a.sqrt() + (1 - b - std**2).sqrt() * noise
        logp = torch.distributions.Normal(mean, std).log_prob(paths.latents[:, k + 1]).mean(1)
        total = total - (A * logp).sum() / (5 * 32)
    expected = torch.autograd.grad(total, agent.denoiser.net.bias)[0]
    agent.generator.set_state(state)
    agent.step()
    torch.testing.assert_close(agent.denoiser.net.bias.grad.double(), expected.double(), rtol=1e-4, atol=1e-6)


def test_an_agent_goes_on_bit_for_bit(tmp_path):
    whole, half = toy_agent().learn(4), toy_agent().learn(2)
    half.save(tmp_path / "agent.safetensors")
    other = DiffusionPolicy.load(
        tmp_path / "agent.safetensors", denoiser=Toy(), reward=half.reward, prompts=3, settings=half.settings
    ).learn(2)
    assert other.images == whole.images == 128
    for a, b in zip(whole.learned, other.learned, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.act(0), other.act(0)) and whole.act(1, greedy=False).shape == (2,)


def test_the_ordinary_loss_is_zero_for_the_truth():
    denoiser = Toy()
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 4, 2, generator=rng)
    denoiser.predict = lambda latents, t, rows: noise
    assert denoising_errors(denoiser, x, np.zeros(4, int), np.array([0, 9, 30, 49]), noise).abs().max() == 0
    denoiser.prediction = "v_prediction"
    a = denoiser.alphas[[0, 9, 30, 49]][:, None]
    denoiser.predict = lambda latents, t, rows: a.sqrt() * noise - (1 - a).sqrt() * x
    assert denoising_errors(denoiser, x, np.zeros(4, int), np.array([0, 9, 30, 49]), noise).abs().max() == 0


@pytest.mark.parametrize("given, word", [
    (math.nan, "finite"), (np.zeros(3), "shape"), ("good", "good"), (None, "None"),
])
def test_rewards_that_are_none(given, word):
    agent = toy_agent()
    agent.reward = lambda rows, x: np.where(rows == rows[0], given, 0.) if isinstance(given, float) else given
    refused(agent.step, "The reward", word)
    assert agent.images == 0


@pytest.mark.parametrize("settings, words", [
    ({"rule": "ddpo"}, "clipped, score"), ({"advantage": "z"}, "standardised"), ({"clip": 0.}, "clip is 0"),
    ({"eta": 0.}, "eta is 0"), ({"rule": "score"}, "one gradient step"),
    ({"rule": "best", "kl": 1.}, "no such penalty"),
    ({"samples": 1}, "2 or more"), ({"learning_rate": math.nan}, "above 0"), ({"seed": -1}, "seed"),
])
def test_settings_are_refused(settings, words):
    refused(lambda: DiffusionPolicySettings(**settings), words)


# ---- a pipeline ----

QUICK = DiffusionPolicySettings(steps=2, prompts=2, samples=2, gradient_steps=1, batch_size=8, learning_rate=1e-3)
SMALL = FinetuneSettings(budget=8, held_out=4, evaluate_every=1, learning=QUICK, models=ModelSettings(device="cpu"))


def brightness(images, prompts, goals):
    return [np.asarray(image).mean() / 255 for image in images]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    "A run on the shipped model."
    return fine_tune(SMALL, tmp_path_factory.mktemp("runs") / "whole")


def test_a_killed_run_goes_on_bit_for_bit(tuned, tmp_path):
    with Run.create(tmp_path / "again", run_config(SMALL), kind="fine-tuning") as run:
        steps = finetune_steps(SMALL, run=run)
        next(steps), next(steps)
        steps.close()
    again = fine_tune(SMALL, tmp_path / "again")
    assert (again.before, again.after) == (tuned.before, tuned.after) and again.unique_generator_calls == 8
    assert Run(tuned.folder).rows() == Run(again.folder).rows() and len(Run(again.folder).rows()) == 2
    assert fine_tune(SMALL, tmp_path / "again") == again


def test_the_saved_pipeline_generates_under_a_key_of_its_own(tuned):
    assert tuned.option == "--model" and tuned.before["reward"] < 0 and "right, grey" in tuned.after
    assert tuned.before != tuned.after and tuned.summary in str(tuned) and tuned.saved in str(tuned)
    base, mine = (load_own_generator(ModelSettings(name, device="cpu", inference_steps=2))
                  for name in ("tiny", tuned.saved))
    assert base.settings["model"] != mine.settings["model"]
    ask = ["a photo of one dog and no people in farm"], [1]
    assert base.generate(*ask)[0].tobytes() != mine.generate(*ask)[0].tobytes()


@pytest.fixture(scope="module")
def random_sd(tmp_path_factory):
    "A random Stable Diffusion that predicts epsilon, and prompts for it."
    folder = tmp_path_factory.mktemp("sd")
    build("StableDiffusionPipeline").save_pretrained(folder / "sd")
    (folder / "prompts.txt").write_text("\n".join(f"a photo of {n} dog" for n in "one two three four five six".split()))
    return folder


def test_lora_on_a_random_stable_diffusion(random_sd, tmp_path):
    settings = replace(
        SMALL, part="lora", rank=2, budget=4, prompts=str(random_sd / "prompts.txt"),
        models=ModelSettings(str(random_sd / "sd"), device="cpu", guidance=3.),
        learning=replace(QUICK, learning_rate=.1),
    )
    trace = start_finetuning(settings, brightness)
    assert {name.split(".")[-3] for name in trace.denoiser.start} == {"lora_A", "lora_B"}
    before, frozen = trace.sample(), trace.sample(frozen=True)
    trace.agent.step(4)
    after = trace.sample()
    assert [i.tobytes() for i in before] == [i.tobytes() for i in frozen] == [
        i.tobytes() for i in trace.sample(frozen=True)] != [i.tobytes() for i in after]
    found = fine_tune(settings, tmp_path / "run", brightness)
    assert found.option == "--lora" and set(found.after) == {"images", "reward", "KID", "diversity"}
    base, mine = (
        Generator.load(str(random_sd / "sd"), device="cpu", inference_steps=2, lora=lora)
        for lora in ([], [found.saved])
    )
    assert mine.settings != base.settings and mine.settings["lora"]
    with torch.no_grad():  # the adapters that were saved are those that were trained
        x, t, words = torch.randn(1, *trace.denoiser.shape), torch.tensor([500]), trace.denoiser.embed("a photo")
        ours, theirs = trace.denoiser.net(x, t, words).sample, mine.pipe.unet(x, t, words).sample
        assert (theirs - base.pipe.unet(x, t, words).sample).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_parts(random_sd):
    for part, named in (("all", "conv_in.weight"), ("head", "conv_out.weight")):
        net = diffusers.UNet2DConditionModel.from_pretrained(random_sd / "sd", subfolder="unet")
        train_part(net, part)
        learn = [name for name, p in net.named_parameters() if p.requires_grad]
        assert named in learn and (part == "all" or learn == ["conv_out.weight", "conv_out.bias"])
    refused(lambda: train_part(net, "tail"), "all, lora, head")


def test_the_best_of_n():
    rewards = np.array([1., 5., 2., 4., 0., 3.])
    trace = SimpleNamespace(
        train=["x"] * 3, held_out=["y", "z"], sample=lambda n: list("abcdef")[:2 * n],
        score=lambda rows, images: rewards if rows.tolist() == [3, 3, 3, 4, 4, 4] else None,
    )
    assert best_of_n(trace, 7) == ["b", "d"]


def test_baselines(tmp_path):
    frozen = fine_tune(replace(SMALL, method="frozen"), tmp_path / "frozen")
    best = fine_tune(replace(SMALL, method="best-of-n", budget=12), tmp_path / "best")
    assert frozen.before == frozen.after == best.before and frozen.unique_generator_calls == 0
    assert best.after["reward"] != best.before["reward"] and best.unique_generator_calls == 12 and not best.saved


def test_prompts(tmp_path):
    for name in ("scenes", "collages", "modifiers"):
        train, held_out = task_prompts(name, 96)
        assert len(held_out) == 96 and len(train) > 300 and not set(train) & set(held_out)
    (tmp_path / "few.txt").write_text("a dog\na cat\n")
    refused(lambda: task_prompts(str(tmp_path / "few.txt")), "2 different prompts")
    refused(lambda: task_prompts("scene"), "scenes, collages", kind=FileNotFoundError)


def pipe_of(cls, scheduler):
    return type(cls, (), {"scheduler": scheduler})()


def test_models_that_cannot_be_fine_tuned():
    refused(lambda: check_trainable(pipe_of("FluxPipeline", diffusers.FlowMatchEulerDiscreteScheduler())), "flow-match")
    sample = SimpleNamespace(config={"prediction_type": "sample"})
    refused(lambda: check_trainable(pipe_of("StableDiffusionPipeline", sample)), "'sample'", "epsilon or v_prediction")
    refused(lambda: check_trainable(pipe_of("PixArtAlphaPipeline", sample)), "PixArtAlphaPipeline", "StableDiffusion")


@pytest.mark.parametrize("options, words", [
    (["--reward", "beauty"], "compressible, aesthetic"), (["--budget", "1"], "2 or more"),
    (["--scheduler", "ddim"], "leave scheduler out"), (["--prompts", "nowhere.txt"], "There are no prompts"),
    (["--reward", "alignment", "--prompts", "modifiers"], "scenes or collages"),
    (["--part", "tail"], "all, lora, head"),
    (["--learning.clip", "0"], "above 0"), (["--learning.eta", "2"], "eta is 2"),
])
def test_the_command_refuses_in_a_sentence(options, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["finetune", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rlgen: ") and error.count("\n") == 1 and words in error
    assert not list(tmp_path.glob("runs/*"))
