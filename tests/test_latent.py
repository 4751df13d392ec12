"""The noise as an environment, and searches in it: steps, episodes, cost, copies, learners, arms."""
import pickle
from dataclasses import replace
from importlib.resources import files

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from PIL import Image
from refusals import refused

import rlgen.envs  # noqa: F401, registers the environments
from rlgen.agents.ppo import PPO, Batch, PPOSettings, log_probability
from rlgen.envs.latent import Latent, LatentTask, LatentVector, default_latent_task, noise_directions, shell_step
from rlgen.exercises.generative import check_chosen_scores, check_shell_step, chosen_scores, great_circle_step
from rlgen.experiments.image_evaluation import climb_noise
from rlgen.experiments.latents import (
    LATENT_ARMS,
    LATENT_LEARNING,
    as_reinforce,
    cmaes_noise,
    named_probability,
    policy_noise,
    searched,
)
from rlgen.grammar import Grammar
from rlgen.models.evaluators import facts, load_evaluators
from rlgen.models.generator import Generator
from rlgen.rewards.images import Compressibility

class Compass:
    "A stand-in for a generator: an image is the brighter, the nearer its noise points to north."
    north = noise_directions(256, 8).sum(0) / 8**.5

    def __init__(self):
        self.generated = 0

    def noise(self, seeds):
        return torch.stack([torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(s % 2**32)) for s in seeds])

    def embed(self, prompts):
        return torch.zeros(len(prompts), 1)

    def denoise(self, texts, noise):
        assert len(texts) == len(noise)
        return 2 * noise

    def decode(self, latents):
        self.generated += len(latents)
        flat = latents.flatten(1).double().numpy()
        cosines = flat @ self.north / np.linalg.norm(flat, axis=1)
        return [Image.new("RGB", (4, 4), (round(255 * (1 + c) / 2),) * 3) for c in cosines]


def brightness(images, prompts, goals):
    return [np.asarray(image).mean() / 255 for image in images]


def compass(prompts=("north",), **settings):
    return Latent(LatentTask(prompts, Compass(), brightness), **settings)


def test_a_step_on_the_shell_keeps_the_length_and_the_angle():
    assert np.allclose(shell_step(np.array([1., 1.]), np.pi / 4 * np.array([1., -1.])), [2**.5, 0])
    rng = np.random.default_rng(0)
    for n in (2, 5, 300):
        z, v = rng.normal(size=(2, n))
        moved = shell_step(z, v)
        tangent = v - (v @ z) / (z @ z) * z
        assert np.isclose(np.linalg.norm(moved), np.linalg.norm(z))
        cosine = moved @ z / (z @ z)
        assert np.isclose(cosine, np.cos(np.linalg.norm(tangent) / np.linalg.norm(z)))
        assert np.allclose(shell_step(z, 3 * z), z) and np.allclose(shell_step(z, 0 * z), z)
    assert great_circle_step(z, v) == pytest.approx(moved)


def test_directions_are_orthonormal_and_fixed():
    basis = noise_directions(64, 8)
    assert np.allclose(basis @ basis.T, np.eye(8)) and np.array_equal(basis, noise_directions(64, 8))
    assert not np.allclose(basis, noise_directions(64, 8, seed=1))
    assert np.allclose(noise_directions(64, 3), basis[:3], atol=1) and noise_directions(3, 3).shape == (3, 3)
    refused(lambda: noise_directions(4, 5), "1 to 4")


@pytest.mark.parametrize("settings", [{}, {"space": "latent"}, {"levels": 3}, {"shell": False}, {"starts": 4}])
@pytest.mark.filterwarnings("ignore:.*infinity. This is probably too:UserWarning")
def test_environment_checkers_find_nothing(settings):
    from stable_baselines3.common.env_checker import check_env as check_env_sb3
    env = compass(("a", "b"), render_mode="rgb_array", **settings)
    check_env(env)
    check_env_sb3(env)


def test_rewards_add_up_to_the_gain_and_known_codes_cost_nothing():
    env = compass(("a", "b"), max_steps=4)
    observation, info = env.reset(seed=5)
    first, rewards = info["value"], []
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 8)).astype(np.float32)
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
    assert terminated and not truncated and np.isclose(sum(rewards), info["value"] - first)
    assert info["unique_generator_calls"] == env.task.model.generated == 5
    assert observation[8] == pytest.approx(info["value"] - first) and observation[9] == 0
    assert observation[:8] == pytest.approx(env.basis @ env.code.ravel(), abs=1e-5)
    env.reset(options={"prompt": env.row})
    again = [env.step(action)[1] for action in actions]
    assert again == rewards and env.task.unique_generator_calls == env.task.model.generated == 5
    assert env.task.best[env.row].value == max(first + np.cumsum([0, *rewards]))
    refused(lambda: env.step(actions[0]), "call reset")


def test_an_action_goes_as_far_as_it_says():
    for levels, action in ((None, np.ones(8, np.float32)), (5, np.full(8, 4))):
        env = compass(levels=levels, angle=.4)
        env.reset(seed=0)
        z, moved = env.code.ravel().astype(float), env.moved(action).ravel().astype(float)
        assert 0 < np.arccos(z @ moved / (np.linalg.norm(z) * np.linalg.norm(moved))) <= .4 + 1e-6
        assert np.isclose(np.linalg.norm(moved), np.linalg.norm(z))
    straight = compass(shell=False)
    straight.reset(seed=0)
    moved = straight.moved(np.ones(8, np.float32)) - straight.code
    assert np.isclose(np.linalg.norm(moved), .5 * np.linalg.norm(straight.code))
    middle = compass(levels=3)
    middle.reset(seed=0)
    assert np.array_equal(middle.coefficients(np.array([0, 1, 2, 1, 1, 1, 1, 1])), [-1, 0, 1, 0, 0, 0, 0, 0])
    assert np.allclose(middle.moved(np.ones(8, int)), middle.code)


def test_a_seed_decides_everything_and_a_copy_goes_on():
    rows = []
    for _ in range(2):
        env = compass(("a", "b"), starts=3)
        env.action_space.seed(1)
        found = [env.reset(seed=3)[0]] + [env.step(env.action_space.sample())[0] for _ in range(3)] + [env.reset()[0]]
        rows.append(np.array(found))
    assert np.array_equal(*rows)
    env.reset(seed=8)
    again = pickle.loads(pickle.dumps(env))
    action = np.full(8, .3, np.float32)
    assert np.array_equal(env.step(action)[0], again.step(action)[0])
    assert np.array_equal(env.reset()[0], again.reset()[0])
    starts = {(env.reset()[1]["prompt"], round(env.value, 6)) for _ in range(60)}
    assert len(starts) == 6


@pytest.mark.parametrize("settings, words", [
    ({"space": "pixels"}, ["pixels", "noise, latent"]),
    ({"max_steps": 0}, ["max_steps is 0"]),
    ({"angle": 2.}, ["angle is 2.0", "pi / 2"]),
    ({"levels": 1}, ["levels is 1", "2 or more"]),
    ({"levels": 0}, ["levels is 0", "2 or more"]),
    ({"starts": 0}, ["starts is 0"]),
    ({"prompt": 1}, ["no prompt 1", "there are 1"]),
    ({"directions": 0}, ["directions is 0", "1 to 256"]),
    ({"render_mode": "human"}, ["human", "rgb_array"]),
])
def test_settings_out_of_range_are_refused(settings, words):
    refused(lambda: compass(**settings), *words)


def test_bad_actions_rewards_and_prompts_are_refused():
    env = compass()
    refused(lambda: env.step(np.zeros(8, np.float32)), "call reset")
    env.reset(seed=0)
    for action in (np.full(8, 1.5), np.zeros(7), np.full(8, np.nan), "up", [[0], [1, 2]]):
        refused(lambda: env.step(action), "not in the action space")
    refused(lambda: env.reset(options={"start": 1}), "no start 1")
    refused(lambda: LatentTask([], Compass(), brightness), "no prompts")
    broken = Latent(LatentTask(["a"], Compass(), lambda images, prompts, goals: [float("nan")] * len(images)))
    refused(lambda: broken.reset(), "nan")


def test_a_vector_gives_what_single_environments_give():
    made, settings = ("a", "b", "c"), dict(max_steps=2, levels=3)
    envs = LatentVector(3, LatentTask(made, Compass(), brightness), **settings)
    single = [compass(made, prompt=i, **settings) for i in range(3)]
    observations, _ = envs.reset(seed=0)
    assert np.allclose(observations, [env.reset(seed=i)[0] for i, env in enumerate(single)])
    rng = np.random.default_rng(0)
    for _ in range(2):
        actions = rng.integers(3, size=(3, 8))
        observations, rewards, ended, *_ = envs.step(actions)
        theirs = [env.step(action) for env, action in zip(single, actions, strict=True)]
        assert np.allclose(observations, [t[0] for t in theirs]) and np.allclose(rewards, [t[1] for t in theirs])
    assert ended.all() and envs.task.unique_generator_calls == 9
    assert not envs.step(actions)[2].any() and envs.task.unique_generator_calls == 9  # new episodes, known images
    assert pickle.loads(pickle.dumps(envs)).task.unique_generator_calls == 9


def test_both_ppos_learn_where_the_optimum_is_known():
    import stable_baselines3
    settings, steps = PPOSettings(learning_rate=.003, rollout_steps=150, minibatch=50, discount=1.), 2400
    env = compass(levels=3)
    ours = PPO(env.observation_space, env.action_space, settings)
    ours.learn(env, steps)
    theirs = stable_baselines3.PPO("MlpPolicy", compass(), learning_rate=.003, n_steps=150, batch_size=50, gamma=1.,
                                   seed=0, device="cpu")
    theirs.learn(steps)
    last = [np.mean(ours.returns[-50:]), np.mean([episode["r"] for episode in theirs.ep_info_buffer][-50:])]
    assert min(last) > .3 and abs(last[0] - last[1]) < .15 and np.mean(ours.returns[:50]) < .15


def test_reinforce_is_one_step_of_ppo():
    torch.manual_seed(0)
    settings = as_reinforce(replace(LATENT_LEARNING, normalise=False, value_coefficient=0.), 2)
    assert (settings.epochs, settings.lam, settings.minibatch) == (1, 1, 2 * settings.rollout_steps)
    agent = PPO(Box(-1, 1, (3,)), MultiDiscrete([3, 3]), settings)
    seen, acted, advantages = torch.randn(24, 3), torch.randint(3, (24, 2)), torch.randn(24)
    old = log_probability(agent.policy(seen), acted, (3, 3))
    loss, _ = agent.losses(Batch(seen, acted, old.detach(), advantages, advantages, advantages))
    weights = list(agent.policy.parameters())
    mine, known = (torch.autograd.grad(x, weights) for x in (loss, -(advantages * old).mean()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(mine, known, strict=True))


def test_cmaes_climbs_and_keeps_its_budget_and_its_reach():
    task = LatentTask(["a", "b"], Compass(), brightness)
    climbs = list(cmaes_noise(task, budget=80, population=8))
    values = [climb.rewards.mean() for climb in climbs]
    assert climbs[-1].generations == task.model.generated == 2 * 73 and values == sorted(values)
    assert values[-1] > values[0] + .25
    near = LatentTask(["a"], Compass(), brightness)
    *_, last = cmaes_noise(near, budget=41, reach=.2)
    start, best = near.start(0, 0).ravel(), near.best[0].code.ravel()
    cosine = start @ best / (np.linalg.norm(start) * np.linalg.norm(best))
    assert cosine >= np.cos(.2) - 1e-5 and last.rewards[0] < values[-1]
    def values_of(seed):
        return [c.rewards[0] for c in cmaes_noise(LatentTask(["a"], Compass(), brightness), 25, seed)]
    assert values_of(0) == values_of(0) != values_of(1)


@pytest.mark.parametrize("settings, reinforce", [(LATENT_LEARNING, False), (LATENT_LEARNING, True), (None, False)])
def test_policies_keep_their_budget(settings, reinforce):
    task = LatentTask(["a", "b"], Compass(), brightness)
    climbs = list(policy_noise(task, 25, 0, settings, reinforce))
    values = [climb.rewards.mean() for climb in climbs]
    assert climbs[0].generations == 2 and values == sorted(values)
    assert 2 * 24 <= climbs[-1].generations == task.model.generated <= 2 * 25


@pytest.fixture(scope="module")
def generator():
    return Generator.load("tiny-turbo", device="cpu").with_settings(1)


def test_every_arm_runs_at_equal_images_and_is_measured_at_its_marks(generator):
    prompts, calls = [Grammar.domains().decode(e) for e in Grammar.domains().sample(1, 2)], []
    evaluators = load_evaluators(str(files("rlgen") / "weights" / "judges"))
    def measure(images, said):
        calls.append(len(images))
        return named_probability(images, said, evaluators)
    for arm in LATENT_ARMS:
        rows = searched(arm, LatentTask(prompts, generator, Compressibility()), measure, budget=9, every=4)
        assert [row["images"] for row in rows] == [1, 5, 9], arm
        assert all(row["unique_generator_calls"] <= 2 * row["images"] for row in rows), arm
        values = [row["value"] for row in rows]
        assert values == sorted(values) and all(0 < row["grey"] < 1 for row in rows), arm
    assert set(calls) == {2}
    refused(lambda: searched("luck", LatentTask(prompts, generator, Compressibility()), measure), "luck", "best of N")
    *_, last = climb_noise(generator, Compressibility(), prompts, 0, 2, 4, 1.)
    rows = searched("best of N", LatentTask(prompts, generator, Compressibility()), measure, budget=9, every=4)
    assert rows[-1]["value"] == pytest.approx(last.rewards.mean())


def test_the_named_probability_is_that_of_the_facts_that_a_prompt_names():
    evaluators = load_evaluators(str(files("rlgen") / "weights" / "judges"))
    prompt = "a photo of one dog and no people in farm"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    for name, evaluator in evaluators.items():
        with torch.no_grad():
            heads = evaluator.eval()(pixels)
        wanted = [heads[i][0].softmax(0)[k].item() for i, k in enumerate(facts(prompt)) if k >= 2]
        assert named_probability([image], [prompt], evaluators)[name][0] == pytest.approx(np.mean(wanted), abs=1e-5)


def test_the_registered_environment_starts_with_the_generators_own_image():
    task = default_latent_task()
    env = gym.make("rlgen.envs:rlgen/Latent-v0", task=task, render_mode="rgb_array").unwrapped
    _, info = env.reset(seed=0, options={"prompt": 2, "start": 0})
    own = task.generator.generate([info["prompt"]], [2])[0]
    assert np.abs(env.render().astype(int) - np.asarray(own)).max() <= 1
    moved = Latent(task, "latent", render_mode="rgb_array")
    moved.reset(options={"prompt": 2})
    assert np.abs(moved.render().astype(int) - np.asarray(own)).max() <= 1
    envs = gym.make_vec("rlgen.envs:rlgen/Latent-v0", num_envs=2, task=task)
    assert envs.reset(seed=0)[0].shape == (2, 13)


def test_the_checks_of_the_exercises():
    assert check_shell_step(shell_step) and not check_shell_step(lambda z, v: z + v)
    assert check_chosen_scores(chosen_scores)
    assert not check_chosen_scores(lambda verifier, held_out: np.maximum.accumulate(verifier))
