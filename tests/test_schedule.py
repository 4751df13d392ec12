"""A schedule as an environment, and what is compared on it: steps, episodes, budgets, copies, plans, spacings."""
import pickle
from dataclasses import replace
from itertools import pairwise

import diffusers
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from refusals import not_yet, refused
from stable_baselines3.common.env_checker import check_env as check_for_sb3

import rlgen.envs  # noqa: F401, registers the environments
from rlgen.agents.diffusion_policy import ddim_step
from rlgen.agents.ppo import PPO, PPOSettings
from rlgen.envs.schedule import Schedule, ScheduleTask, ScheduleVector, compute_ahead, jump, trailing_levels
from rlgen.exercises.generative import check_jump, check_schedule_count, jump_reference, schedule_count
from rlgen.experiments.schedules import (
    SPACINGS,
    ScheduleSettings,
    all_plans,
    compare_schedules,
    learn_schedule,
    play_schedule,
    rate_plans,
    spaced_levels,
)
from rlgen.models.generator import Generator
from rlgen.models.loading import load_generator

PROMPTS = ["a photo of one dog and no people in farm", "a photo of many cat and one people in beach"]


def red(images, prompts, goals):
    "A reward that needs no model: how red an image is, 0 to 1."
    return [np.asarray(image)[..., 0].mean() / 255 for image in images]


def new_task(**changed):
    return ScheduleTask(**dict(generator=load_generator(), reward=red, prompts=PROMPTS, image_seeds=(3,)) | changed)


@pytest.fixture(scope="module")
def task():
    return new_task()


# ---- the step

@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_step_is_that_of_the_policy_without_noise(prediction):
    rng = torch.Generator().manual_seed(0)
    x, said = torch.randn(2, 3, 4, 2, 2, generator=rng, dtype=torch.float64)
    a, later = torch.tensor([.1, .4, .9], dtype=torch.float64), torch.tensor([.3, .99, 1.], dtype=torch.float64)
    mean, std = ddim_step(x, said, a, later, 0., prediction)
    assert torch.allclose(jump(x, said, a, later, prediction)[0], mean, atol=1e-12) and not std.any()
    assert torch.allclose(jump(x, said, a, torch.ones(3, dtype=torch.float64), prediction)[0],
                          jump(x, said, a, later, prediction)[1])


@pytest.mark.parametrize("spacing, prediction, steps, one", [
    ("trailing", "v_prediction", 4, True), ("leading", "v_prediction", 4, True), ("leading", "v_prediction", 4, False),
    ("trailing", "epsilon", 2, True),
])
def test_with_its_time_steps_it_is_the_ddim_of_diffusers(spacing, prediction, steps, one):
    """With guidance too, and with the alpha bar that the scheduler has at the end. The steps divide 1,000: for others
    diffusers goes from a time step to one that is 1 off the next.
    """
    loaded = load_generator().generator
    kept = {k: v for k, v in loaded.pipe.scheduler.config.items() if k in ("beta_start", "beta_end", "beta_schedule")}
    ddim = diffusers.DDIMScheduler(**kept, prediction_type=prediction, timestep_spacing=spacing, steps_offset=1,
                                   clip_sample=False, set_alpha_to_one=one)
    pipe = diffusers.StableDiffusionPipeline(**{**loaded.pipe.components, "scheduler": ddim},
                                             requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    own = new_task(generator=Generator(pipe, loaded.settings))
    ways = [own.begin(row, 3) for row in (0, 1)]
    for guidance in (1., 2.5):
        noise = torch.stack([way.latents for way in ways])
        theirs = pipe(PROMPTS, num_inference_steps=steps, guidance_scale=guidance, latents=noise, output_type="latent")
        ddim.set_timesteps(steps)
        finished = own.follow(ways, ddim.timesteps.tolist(), [guidance] * steps)
        ours = torch.stack([way.latents for way in finished])
        assert torch.allclose(ours, theirs.images, atol=2e-4, rtol=1e-4), (ours - theirs.images).abs().max()
        assert [way.passes for way in finished] == [steps * (1 + (guidance > 1))] * 2


def test_no_step_is_computed_twice(task, monkeypatch):
    ways, calls = [task.begin(row, 5) for row in (0, 1)], []
    inner = task.model.pipe.unet.forward
    monkeypatch.setattr(task.model.pipe.unet, "forward", lambda x, *a, **k: calls.append(len(x)) or inner(x, *a, **k))
    first = task.follow(ways, [999, 454, 90], [1., 2.5, 1.])
    assert calls == [2, 4, 2]
    again = task.follow([*ways, task.begin(0, 6)], [999, 454], [1., 2.5])
    assert calls[3:] == [1, 6]  # the new noise, then the last, new step of three: two passes each
    assert first[0].passes == 4 and again[0].passes == 3 and again[0].level == -1
    refused(lambda: new_task(reward=lambda i, p, g: [np.nan] * len(i)).quality(first), "nan")


# ---- the environment

def test_both_checkers_accept_it(task):
    for settings in ({}, {"budget": 2, "relative": True}):
        env = gym.make("rlgen.envs:rlgen/Schedule-v0", task=task, render_mode="rgb_array", **settings).unwrapped
        check_env(env)
        check_for_sb3(env)
    image = env.render()
    assert image.dtype == np.uint8 and image.shape == (64, 64, 3)


def test_an_episode_by_hand(task):
    env = Schedule(task, budget=5, cost=.01)
    observation, info = env.reset(seed=0, options={"prompt": 1})
    assert observation.tolist() == [1, 1, 0, 0] and info["prompt"] == PROMPTS[1] and info["passes"] == 0
    observation, reward, ended, truncated, info = env.step(np.array([5, 0]))
    assert info["level"] == task.levels[6] and not (ended or truncated) and reward == pytest.approx(-.01)
    assert observation[:2] == pytest.approx([(task.levels[6] + 1) / 1000, .8]) and observation[3] == 0
    _, reward, _, _, info = env.step(np.array([0, 1]))
    assert info["level"] == task.levels[7] and info["passes"] == 3 and reward == pytest.approx(-.02)
    observation, reward, ended, _, info = env.step(np.array([10, 0]))
    way = task.follow([task.begin(1, 3)], [999, task.levels[6], task.levels[7]], [1., 2.5, 1.])[0]
    assert ended and info["level"] == -1 and info["passes"] == 4 and torch.equal(way.latents, env.way.latents)
    assert reward == pytest.approx(red(task.images([way]), [], [])[0] - .01) and observation[0] == 0
    refused(lambda: env.step(np.array([0, 0])), "call reset")


def test_a_budget_is_a_hard_cap(task):
    for budget in (1, 2, 3, 4):
        env = Schedule(task, budget=budget)
        for action in ([0, 0], [0, 1], [10, 1], [3, 1]):
            env.reset(seed=1)
            steps = [env.step(np.array(action)) for _ in range(99) if not env.ended]
            assert steps[-1][2] and steps[-1][4]["passes"] == env.way.passes <= budget
    env.reset(seed=1)  # one pass of four is left: the guided step is made without
    for action in ([0, 1], [0, 0], [0, 1]):
        last = env.step(np.array(action))
    assert last[2] and env.way.path[-1] == (-1, 1.) and env.way.passes == 4


def test_what_is_relative_is_compared_with_even_steps_of_the_same_noise(task):
    env = Schedule(task, budget=2, cost=0., relative=True)
    for row in (0, 1):
        env.reset(seed=0, options={"prompt": row})
        env.step(np.array([4, 0]))
        reward = env.step(np.array([10, 0]))[1]
        own, even = (task.quality(task.follow([task.begin(row, 3)], [999, level], [1., 1.]))[0]
                     for level in (task.levels[5], trailing_levels(1000, 2)[1]))
        assert reward == pytest.approx(own - even) and reward != 0


def test_episodes_are_functions_of_their_seed(task):
    rows = []
    for env in (Schedule(task), Schedule(new_task(image_seeds=(3,)))):
        observation, info = env.reset(seed=11)
        rows.append([observation.tolist(), info["prompt"]])
        for action in ([2, 0], [3, 1], [1, 0]):
            observation, reward, *_ = env.step(np.array(action))
            rows[-1] += [observation.tolist(), reward]
    assert rows[0] == rows[1]


def test_a_vector_is_as_many_single_ones(task):
    envs = gym.make_vec("rlgen.envs:rlgen/Schedule-v0", num_envs=3, vectorization_mode="vector_entry_point", task=task,
                        budget=3, relative=True)
    assert isinstance(envs.unwrapped, ScheduleVector)
    singles = [Schedule(new_task(), budget=3, relative=True) for _ in range(3)]
    seen, _ = envs.reset(seed=5)
    assert np.array_equal(seen, [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)])
    rng, ended = np.random.default_rng(0), np.zeros(3, bool)
    for _ in range(6):
        actions = rng.integers(envs.single_action_space.nvec, size=(3, 2))
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        for i, env in enumerate(singles):
            if ended[i]:
                assert observations[i] == pytest.approx(env.reset()[0]) and rewards[i] == 0 and not terminated[i]
                continue
            observation, reward, end, _, _ = env.step(actions[i])
            assert observations[i] == pytest.approx(observation, abs=1e-4)
            assert rewards[i] == pytest.approx(reward, abs=2e-3) and terminated[i] == end  # a pixel may be rounded
        ended = terminated
    assert not truncated.any()
    refused(lambda: envs.step(np.full((3, 2), 99)), "not in the action space")


def test_a_copy_goes_on_bit_for_bit(task):
    env = Schedule(task, budget=4)
    env.reset(seed=2)
    env.step(np.array([3, 0]))
    sent = pickle.dumps(env)
    again = pickle.loads(sent)
    assert len(sent) < 100_000 and not again.task.known
    for _ in range(2):
        mine, its = env.step(np.array([2, 1])), again.step(np.array([2, 1]))
        assert np.array_equal(mine[0], its[0]) and mine[1:] == its[1:]
        if mine[2]:
            break


def test_what_cannot_be_used_is_refused(task):
    for wrong, words in (
        ({"prompts": []}, ("prompts", "at least one")), ({"image_seeds": ()}, ("image_seeds",)),
        ({"levels": [999]}, ("levels", "falling")), ({"levels": [10, 20]}, ("falling",)),
        ({"levels": [1000, 20]}, ("from 999",)), ({"guidances": (.5,)}, ("guidances",)),
        ({"guidances": (np.inf,)}, ("guidances",)), ({"image_seeds": (-1,)}, ("image",)),
    ):
        refused(lambda wrong=wrong: new_task(**wrong), *words)
    for wrong in ({"budget": 0}, {"budget": 1.5}, {"cost": -1}, {"cost": np.nan}, {"render_mode": "human"}):
        refused(lambda wrong=wrong: Schedule(task, **wrong), next(iter(wrong)))
    refused(lambda: ScheduleVector(0, task=task), "num_envs")
    refused(lambda: Schedule(task).reset(options={"prompt": 2}), "no prompt 2")
    refused(lambda: Schedule(task).step(np.array([0, 0])), "call reset")
    refused(lambda: trailing_levels(10, 11), "steps")
    loaded = load_generator().generator
    sample = diffusers.DDIMScheduler(prediction_type="sample", steps_offset=1, clip_sample=False)
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler(), sample):
        pipe = diffusers.StableDiffusionPipeline(**{**loaded.pipe.components, "scheduler": scheduler},
                                                 requires_safety_checker=False)
        refused(lambda pipe=pipe: new_task(generator=Generator(pipe, loaded.settings)), "epsilon")


# ---- the experiment

def test_spacings(task):
    alphas = task.alphas[:-1]
    for name in SPACINGS:
        for steps in (2, 3, 6, 10):
            levels = spaced_levels(name, steps, alphas, np.random.default_rng(steps))
            assert len(levels) == steps and all(a > b for a, b in pairwise(levels)) and levels[-1] >= 0
            assert levels[0] == 999 or name == "leading"
    for spacing, name in (("linspace", "uniform"), ("trailing", "trailing"), ("leading", "leading")):
        ddim = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=1 if name == "leading" else 0)
        for steps in (2, 4, 5, 10):
            ddim.set_timesteps(steps)
            assert np.abs(ddim.timesteps.numpy() - spaced_levels(name, steps, alphas)).max() <= 1, (name, steps)
    euler = diffusers.EulerDiscreteScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear",
                                             use_karras_sigmas=True)
    euler.set_timesteps(8)
    assert np.abs(euler.timesteps.numpy() - spaced_levels("Karras", 8, alphas)).max() <= 1
    published = diffusers.schedulers.AysSchedules["StableDiffusionTimesteps"]
    assert np.abs(np.array(published) - spaced_levels("AYS", 10, alphas)).max() <= 3
    refused(lambda: spaced_levels("even", 3, alphas), "even", "trailing")
    refused(lambda: spaced_levels("AYS", 1, alphas), "steps")


def test_all_plans_are_all_and_different():
    levels = list(range(50, -1, -5))
    for passes in (1, 2, 3, 4, 5):
        plans = all_plans(levels, passes, (1., 2.5))
        assert len(set(plans)) == len(plans) == schedule_count(10, passes)
        for chosen, guidances in plans:
            assert chosen[0] == 50 and len(chosen) == len(guidances) and all(a > b for a, b in pairwise(chosen))
            assert sum(1 + (g > 1) for g in guidances) == passes
    assert len(all_plans([5, 1], 4)) == 0


def test_the_best_plan_is_found_and_ppo_finds_a_good_one():
    task = new_task(levels=[999, 800, 500, 200])
    ways, plans = [task.begin(row, 3) for row in (0, 1)], all_plans([999, 800, 500, 200], 2, (1., 2.5))
    rewards = rate_plans(task, ways, plans)
    assert rewards.shape == (4, 2) and task.unique_generator_calls == 8
    alone = task.quality(task.follow(ways, *plans[2]))
    assert np.array_equal(rewards[2], alone)
    agent = learn_schedule(task, ScheduleSettings(episodes=600), budget=2)
    own = play_schedule(agent, task, 2)
    assert [way.row for way in own] == [0, 1] and all(way.passes <= 2 for way in own)
    assert task.quality(own).mean() >= rewards.mean(1).max() - .02  # it may stop after a pass, and treat images apart
    again = learn_schedule(task, ScheduleSettings(episodes=600), budget=2)
    assert all(torch.equal(x, y) for x, y in zip(agent.parameters, again.parameters, strict=True))


def test_ours_and_sb3s_ppo_take_the_environment(task):
    from stable_baselines3 import PPO as Theirs
    env = Schedule(task, budget=2)
    Theirs("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(8)
    agent = PPO(env.observation_space, env.action_space, PPOSettings(rollout_steps=5, epochs=1, minibatch=4))
    arrays, note = agent.learn(Schedule(task, budget=2), 5).state_dict()
    other = PPO(env.observation_space, env.action_space, agent.settings).load_state_dict(arrays, note)
    agent.learn(agent._rollout.env, 5)
    other.learn(Schedule(task, budget=2), 5)
    assert all(torch.equal(x, y) for x, y in zip(agent.parameters, other.parameters, strict=True))


def test_a_small_study_is_finished_once(tmp_path, monkeypatch):
    small = ScheduleSettings(budgets=(2,), searched=(2,), learned=(2,), steps=1, chosen_on=2, held_out=4, episodes=8,
                             free_budget=2, draws=2, learners=2, seed=1)
    sets, images = compare_schedules(small, tmp_path / "run")
    learned = [("PPO", 0), ("PPO, cost", 0), ("PPO", 1), ("PPO, cost", 1)]
    assert [(row["method"], row["seed"]) for row in sets] == [
        *((name, 0) for name in SPACINGS), ("random", 1), *[("trailing, guided", 0)] * 2, ("exhaustive", 0), *learned
    ]
    exhaustive = sets[-5]
    assert exhaustive["calls"] == 22 and exhaustive["schedules"] == 1 and exhaustive["passes"] == 2
    assert len(images) == 4 * len(sets) and {row["image"] for row in images} == {0, 1, 2, 3}
    for row in images:
        assert 0 <= row["reward"] <= 1 and row["passes"] <= 2 and row["colour"] in (0, 1) and row["grey"] in (0, 1)
    assert sets[0]["schedule"] == "999 0" and all(0 < row["calls"] <= 24 for row in sets[-4:])
    monkeypatch.setattr("rlgen.experiments.schedules.ScheduleStudy", None)  # not run again
    assert compare_schedules(small, tmp_path / "run") == (sets, images)
    refused(lambda: compare_schedules(replace(small, seed=2), tmp_path / "run"), "another config")


def test_settings_refuse():
    for wrong in ({"chosen_on": 1}, {"held_out": 3}, {"episodes": 0}, {"learners": 0}, {"draws": 0}, {"budgets": (1,)},
                  {"learned": (0,)}, {"chosen_on": 470}, {"seed": -1}):
        refused(lambda wrong=wrong: ScheduleSettings(**wrong), next(iter(wrong)))
    compute_ahead([], [])  # nothing to do


def test_the_checks_name_the_mistake(capsys):
    assert check_jump(jump_reference) and check_schedule_count(schedule_count)
    capsys.readouterr()
    for answer, hint in (
        (lambda x, e, a, b: (x - (1 - a)**.5 * e) / a**.5, "Put noise back"),
        (lambda x, e, a, b: jump_reference(x, e, b, a), "exchanged"),
        (lambda x, e, a, b: b * (x - (1 - a) * e) / a + (1 - b) * e, "roots"),
    ):
        not_yet(check_jump, answer, hint, capsys)
    from math import comb
    not_yet(check_schedule_count, lambda k, n: comb(k, n - 1), "Guided steps are missing", capsys)
    not_yet(check_schedule_count, lambda k, n: sum(comb(k, s - 1) * 2**s for s in range(1, n + 1)), "free", capsys)
