"""Every seed from 0 to 2**63 - 1 works wherever a seed goes in, as a NumPy integer too; one thread unless told."""
import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from standins import GRAMMAR, Drawing, goal_image, world_of

import rlgen
from rlgen.agents.base import BaseAgent
from rlgen.agents.ppo import PPO, PPOSettings
from rlgen.agents.softq import SoftQ, SoftQSettings
from rlgen.cli import main
from rlgen.clone.manifest import seed_of
from rlgen.clone.plan import Plan
from rlgen.data.labelled import Labelled, labelled_scenes, long_tail, shifted_scenes, small, stratified
from rlgen.data.prompts import Pair, draw_targets, scene_pairs, split
from rlgen.envs.support import SupportSet, SupportTask
from rlgen.envs.tokens import PromptTokens, TokenTask
from rlgen.experiments.clone_quality import CloneQualitySettings
from rlgen.experiments.feedback import SimulatedPerson, pool_prompts, simulate_answers
from rlgen.experiments.preference import PreferenceSettings
from rlgen.experiments.rldf import AGENTS, RLDFSettings, make_env_and_agent
from rlgen.experiments.sample_efficiency import NoisyGenerator, RelabelledGenerator
from rlgen.experiments.support_arms import random_prompts
from rlgen.experiments.support_set import SupportSettings
from rlgen.grammar import Grammar
from rlgen.metrics import kid
from rlgen.models.captioner import class_dictionary
from rlgen.models.classifier import Network, Recipe
from rlgen.models.generator import Cached
from rlgen.models.prompt_policy import PromptPolicy
from rlgen.reproducibility import MAX_SEED, check_seed, check_seeds, env_seeds, image_seed, short_seed
from rlgen.rewards.preference import FeatureMap, RewardModel
from rlgen.scenes import render_array
from rlgen.statistics import iqm_interval

EDGES = (0, 2**31, 2**32, MAX_SEED)
NOISE = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
DATA = Labelled(NOISE, np.array([0, 0, 1, 1]), ("dog", "cat"))
PAIRS = [Pair(f"{x} dogs", f"{x} dogs, red", ("red",), (Image.new("RGB", (4, 4)),)) for x in "abcd"]
FEATURES = np.random.default_rng(0).normal(size=(8, 3))


class Painter:
    "Generates images whose pixels are the lowest bits of the seed."
    settings, negative, batch_size = {"model": "painter"}, "", 32

    def generate(self, prompts, seeds, negative=None):
        return [Image.new("RGB", (16, 16), tuple((s >> k) % 256 for k in (0, 8, 16))) for s in seeds]


class Learner:
    "A classifier that says nothing."
    def prepare(self, images):
        return images

    def join(self, parts):
        return np.concatenate(parts)

    def fit(self, *data, **options):
        return self

    def state(self):
        return {}

    def evaluate(self, inputs, labels):
        return SimpleNamespace(accuracy=.5, entropy=.5, per_class=np.zeros(2))


def search(agent, seed):
    settings = RLDFSettings(GRAMMAR, agent, "multi", max_steps=3, episode=2, seed=seed, image_seed=seed)
    env, found = make_env_and_agent(world_of(Drawing()), goal_image(), settings)
    steps = [(np.asarray(s.observation).tolist(), s.reward) for s in found.learn_steps(env, 3)]
    return steps, settings


def ppo(seed):
    "On one environment, and on two, each of which gets a seed of its own."
    settings, found = PPOSettings(seed=seed, rollout_steps=4, minibatch=4, epochs=1, hidden=(4,)), []
    for env in (gym.make("CartPole-v1"), gym.make_vec("CartPole-v1", 2, "sync")):
        spaces = [getattr(env, f"single_{kind}", getattr(env, kind)) for kind in ("observation_space", "action_space")]
        agent = PPO(*spaces, settings)
        agent.learn(env, 8)
        found += [p.tolist() for p in agent.policy.parameters()]
    return found


def wrapped(seed):
    "Our own environments in a vector of Gymnasium's, with the largest seed, too."
    envs = [make_env_and_agent(world_of(Drawing()), goal_image(), RLDFSettings(GRAMMAR))[0] for _ in range(2)]
    env = gym.vector.SyncVectorEnv([lambda env=env: env for env in envs])
    agent = PPO(env.single_observation_space, env.single_action_space,
                PPOSettings(seed=seed, rollout_steps=4, minibatch=4, epochs=1, hidden=(4,)))
    agent.learn(env, 8)
    return [p.tolist() for p in agent.policy.parameters()]


def soft_q(seed):
    policy = PromptPolicy.load("tiny", length=1, seed=seed, device="cpu")
    agent = SoftQ(policy, lambda rows, texts: np.zeros(len(rows)), ["a dog"],
                  SoftQSettings(seed=seed, new_prompts=1, samples_per_prompt=2))
    return [policy.net[0].weight.detach().numpy(), [u.ids.tolist() for u in agent.learn_steps(1)]]


def support(seed):
    task = SupportTask(DATA, DATA, Painter(), Learner(), ("photo",), per_step=2, max_images=4, seed=seed)
    addition = task.generate([0, 0, 0, 0])
    assert all(type(s) is int for s in addition.image_seeds)
    return addition, random_prompts(task, seed), SupportSet(task).reset(seed=seed)


def texts(seed):
    task = TokenTask(PAIRS, Painter(), lambda images, *_: np.zeros(len(images)), 1, image_seeds=[seed])
    images = [np.asarray(image) for image in task.images_of(["a"])]
    return images, PromptTokens(task, length=1).reset(seed=seed), task.state()


def fitted(seed):
    net = Network("small", 2, 16, Recipe(epochs=1, updates=1, batch=4), device="cpu")
    net.fit(net.prepare(NOISE), DATA.labels, seed=seed)
    return {name: value.numpy() for name, value in net.net.state_dict().items()}


def words(seed):
    seeing = SimpleNamespace(embed_images=lambda images: np.array([np.asarray(i).ravel()[:9] for i in images], float))
    said = iter(["a dog", "a cat"] * 4)  # told apart by their order alone
    saying = SimpleNamespace(caption=lambda images: [next(said) for _ in images])
    return class_dictionary([Image.fromarray(i) for i in NOISE], 2, seeing, saying, 1, seed)


def answered(seed):
    model = RewardModel(FeatureMap(np.zeros(3), np.eye(3)), 4, seed=seed)
    return next(simulate_answers(SimulatedPerson({}), model, FEATURES, FEATURES[:, 0], seed)), model.W


ENTRIES = {
    **{f"search by {agent}": (lambda seed, agent=agent: search(agent, seed)) for agent in AGENTS},
    "agent": lambda seed: BaseAgent(seed).rng.random(3),
    "ppo": ppo,
    "ppo on our environments": wrapped,
    "soft q": soft_q,
    "support task": support,
    "token task": texts,
    "classifier": fitted,
    "class dictionary": words,
    "reward model": answered,
    "prompts of a pool": lambda seed: pool_prompts(2, seed),
    "kid": lambda seed: kid(FEATURES, FEATURES[::-1] + 1, 3, 4, seed),
    "labelled scenes": lambda seed: labelled_scenes(1, seed, classes=("dog", "cat")).images,
    "shifted scenes": lambda seed: shifted_scenes("crops", 1, seed, ("dog", "cat")).images,
    "stratified": lambda seed: stratified(DATA, (.5, .5), seed)[0].images,
    "small": lambda seed: small(DATA, 1, seed).images,
    "long tail": lambda seed: long_tail(5, 10, 5, seed),
    "split": lambda seed: split(PAIRS, seed, .5),
    "scene pairs": lambda seed: [p.prompt for p in scene_pairs("painting", 2, seed)],
    "targets": lambda seed: [np.asarray(p.targets[0]) for p in draw_targets(PAIRS, Painter(), [seed])],
    "grammar": lambda seed: Grammar.scenes().sample(seed, 3),
    "render": lambda seed: render_array("a photo of one dog and no people in farm", seed),
    "clone": lambda seed: (Plan({"train": 1}, ("dog",), ("a {class}",), seed=seed)).seed,
    "noisy generator": lambda seed: NoisyGenerator(Painter(), Grammar.scenes(), .5, seed).substitute("a", seed),
    "cached": lambda seed: Cached(Painter()).key("a", seed),
    "cached images": lambda seed: np.asarray(Cached(Painter()).generate(["a"], [seed])[0]),
    "preference settings": lambda seed: PreferenceSettings(seed=seed),
    "support settings": lambda seed: SupportSettings(seed=seed, image_seed=seed),
    "clone quality": lambda seed: CloneQualitySettings(seed=seed),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_seed_works_also_as_a_numpy_integer(name):
    entry = ENTRIES[name]
    for seed in EDGES:
        assert repr(entry(seed)) == repr(entry(np.uint64(seed)))
    for wrong in (-1, 2**63, True, 1.5, "1"):
        refused(lambda: entry(wrong), "a whole number from 0 to 2**63 - 1")


@pytest.mark.parametrize("name", ["soft q", "ppo", "ppo on our environments", "classifier", "kid", "cached"])
def test_seeds_that_agree_in_their_lowest_32_bits_are_different_seeds(name):
    assert len({repr(ENTRIES[name](seed)) for seed in (1, 2**32 + 1, 2**33 + 1)}) == 3


def test_a_bootstrap_takes_every_seed():
    assert all(iqm_interval([1., 2., 3.], seed=seed, repetitions=9).low <= 2 for seed in EDGES)


@pytest.mark.parametrize("seed", EDGES[2:])
def test_the_command_line_takes_every_seed(tmp_path, capsys, seed):
    arguments = ["--seed", str(seed), "--image-seed", str(seed), "--max-steps", "2", "--inference-steps", "1"]
    assert main(["search", *arguments, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for name in ("--seed", "--image-seed"):
        assert main(["search", name, str(2**63), "--out", str(tmp_path / "other")]) == 2
        assert "from 0 to 2**63 - 1" in capsys.readouterr().err


# ---- the rules ----

def test_what_is_a_seed():
    assert [check_seed(s) for s in (0, np.int8(3), np.array(4), MAX_SEED)] == [0, 3, 4, MAX_SEED]
    assert all(type(check_seed(s)) is int for s in (np.int64(1), np.uint64(MAX_SEED)))
    for wrong in (-1, 2**63, True, np.True_, 1., "1", None, [1], float("nan"), np.array([1])):
        refused(lambda: check_seed(wrong, "image_seed"), "image_seed is", "from 0 to 2**63 - 1")
    settings = SimpleNamespace(seed=np.int64(1), other=2**63)
    check_seeds(settings, "seed")
    assert type(settings.seed) is int
    refused(lambda: check_seeds(settings, "other"), "other is")


def test_seeds_of_32_bits():
    assert [short_seed(s) for s in (0, 2**31, 2**32 - 1)] == [0, 2**31, 2**32 - 1]
    large = [short_seed(2**32 * i + j) for i in range(1, 60) for j in (0, 1)]
    assert len(set(large)) == len(large) and min(large) >= 2**31 and max(large) < 2**32
    assert short_seed(MAX_SEED) == 2_803_234_495, "another number would change what large seeds give"
    same, other = (torch.rand(3, generator=torch.Generator().manual_seed(s)) for s in (1, 2**32 + 1))
    assert (same == other).all()  # why this is needed; if PyTorch reads more bits one day, it is not


def test_seeds_of_many_images():
    assert [image_seed(0, i) for i in (0, 1, 10**6)] == [0, 1, 10**6]
    assert image_seed(1, 0) == 5_741_303_080_696_278_281, "another number would change the images of stores and runs"
    many = [image_seed(s, i) for s in EDGES + (1, 2) for i in range(1000)]
    assert len(set(many)) == len(many) and max(many) <= MAX_SEED


def test_seeds_of_environments():
    assert env_seeds(None, 2) == [None, None] and env_seeds(MAX_SEED, 3) == [MAX_SEED, 0, 1]
    assert env_seeds([np.int64(4), None], 2) == [4, None]


def test_a_clone_has_seeds_that_pytorch_reads_whole():
    "And the images that it always had: PyTorch reads the lowest 32 bits."
    uid = "0123456789abcdef" * 2
    assert seed_of(uid) == (int(uid[:16], 16) >> 1) % 2**32 == short_seed(seed_of(uid))


def test_what_is_done_to_prompts_is_in_the_key():
    noisy, dialect = NoisyGenerator(Painter(), Grammar.scenes()), RelabelledGenerator(Painter(), {"dog": "cat"})
    for generator, name, value in (noisy, "share", .5), (noisy, "seed", 1), (dialect, "substitutions", {"dog": "bus"}):
        before = Cached(generator).key("a", 1)
        setattr(generator, name, value)
        assert Cached(generator).key("a", 1) != before


# ---- threads ----

def threads(code: str, **environment) -> str:
    "What another Python prints; the settings that tests run under are left out."
    left_out = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    code = "import os\nos.cpu_count = lambda: 5\n" + code
    done = subprocess.run([sys.executable, "-c", code], env=env | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


NUMBER = "\nimport torch; print(torch.get_num_threads())"


@pytest.mark.parametrize("code, environment, expected", [
    ("import rlgen.models.generator", {}, "1"),
    ("import rlgen.agents.ppo", {}, "1"),
    ("import torch\ntorch.set_num_threads(5)\nimport rlgen.agents", {}, "1"),  # as if PyTorch had taken all five
    ("import torch\ntorch.set_num_threads(3)\nimport rlgen.models, rlgen.agents", {}, "3"),
    ("import rlgen.models.generator", {"OMP_NUM_THREADS": "2"}, "2"),
    ("import torch\ntorch.set_num_threads(5)\nimport rlgen.models", {"MKL_NUM_THREADS": "5"}, "5"),
    ("import rlgen.models.generator, torch\ntorch.set_num_threads(4)\nimport rlgen.agents.ppo", {}, "4"),
])
def test_one_thread_unless_the_user_says_otherwise(code, environment, expected):
    assert threads(code + NUMBER, **environment) == expected


def test_the_light_import_leaves_threads_and_environment_alone():
    code = ("import sys\nbefore = dict(os.environ)\nimport rlgen\nfrom rlgen import Grammar, Store\nGrammar.scenes()\n"
            "print(dict(os.environ) == before, 'torch' in sys.modules)")
    assert threads(code) == "True False"


def test_whoever_uses_pytorch_imports_models_or_agents_first():
    "Their packages set the threads; so does whatever imports them as a module, at its top (exercises: in a check)."
    root, imports, users = Path(rlgen.__file__).parent, {}, set()
    for path in root.rglob("*.py"):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {n for node in ast.walk(tree) if isinstance(node, ast.Import) for n in [a.name for a in node.names]}
        if "torch" in found:
            users.add(name)
        imports[name] = {
            ".".join([*(name.split(".")[:-n.level] if n.level else []), *(n.module or "").split(".")])
            for n in (ast.walk(tree) if ".exercises." in name else tree.body) if isinstance(n, ast.ImportFrom)
        }
    def sets_threads(name, seen=()):
        if name.startswith(("rlgen.models", "rlgen.agents")): return True
        return any(sets_threads(other, (*seen, name)) for other in imports.get(name, ()) if other not in seen)
    assert len(users) > 15 and [name for name in sorted(users) if not sets_threads(name)] == []
