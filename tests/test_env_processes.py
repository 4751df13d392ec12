"""Environments in other processes, and copies of them that go on bit for bit."""
import copy
import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from forks import fork_server
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from PIL import Image
from refusals import refused

import rlgen.envs  # noqa: F401, registers the environments
from rlgen.envs.grid import SemanticChoice, SemanticGrid, SemanticGridVector, World, default_goal
from rlgen.grammar import Grammar
from rlgen.models.generator import Cached, Generator
from rlgen.models.perception import Perception
from rlgen.models.served import RemoteGenerator
from rlgen.rewards.semantic import Clip
from rlgen.rewards.shaping import Shaped
from rlgen.store import Store

GRAMMAR = Grammar.scenes()


def own_world(path=":memory:"):
    generator = Cached(Generator.load("tiny", inference_steps=2, device="cpu"), Store(path))
    return World(GRAMMAR, generator, Perception.load("tiny", device="cpu"), image_seed=3)


def own_env(Env=SemanticGrid, path=":memory:", **settings):
    world = own_world(path)
    reward = Clip(world.perception, GRAMMAR)
    return Env(world=world, goal=default_goal(), reward=reward if Env is SemanticChoice else Shaped(reward), **settings)


def test_other_processes_give_the_same_rewards():
    "To the first process goes the name of an environment, to the second an environment with a world of its own."
    named, own = partial(gym.make, "rlgen.envs:rlgen/SemanticGrid-v0"), own_env()
    actions, rows = np.random.default_rng(0).integers(8, size=(4, 2)), []
    for make in (partial(AsyncVectorEnv, context=fork_server().get_start_method()), SyncVectorEnv):
        envs = make([named, lambda: own])
        try:
            observations, _ = envs.reset(seed=5)
            rows.append([[observations.tolist()], *([x.tolist() for x in envs.step(a)[:4]] for a in actions)])
        finally:
            envs.close()
    assert rows[0] == rows[1]


def steps_of(env, count=6):
    "What the next steps give, exactly."
    space, rows = env.action_space, []
    space.seed(1)
    for _ in range(count):
        observation, reward, terminated, truncated, info = env.step(space.sample())
        rows.append([np.asarray(x).tolist() for x in (observation, reward, terminated, truncated)] + [repr(info)])
        if env.ended is True:
            env.reset()
    return rows


@pytest.mark.parametrize("Env, settings", [
    (SemanticGrid, {}),
    (SemanticGrid, dict(images_per_state=3, stop_at_goal=False)),
    (SemanticChoice, dict(max_steps=4)),
    (SemanticGridVector, dict(num_envs=3, max_steps=4)),
])
def test_a_copy_goes_on_bit_for_bit(Env, settings, tmp_path):
    for path in (":memory:", tmp_path / "images"):
        env = own_env(Env, path, **settings)
        env.reset(seed=7)
        steps_of(env)
        sent = pickle.dumps(env)
        again = pickle.loads(sent)
        inner, outer = (e.state_values.world.generator for e in (again, env))
        assert len(sent) < 3_000_000 and inner.store.path == outer.store.path  # no weights
        assert (inner.calls, inner.hits, len(inner.store)) == (outer.calls, outer.hits, len(outer.store))
        assert again.state_values.world.perception is again.state_values.potential.perception
        assert steps_of(again) == steps_of(env)


def test_all_registered_environments_are_sent():
    for name in ("SemanticGrid", "SemanticChoice", "PromptTokens", "SupportSet", "Schedule", "Latent"):
        env = gym.make(f"rlgen/{name}-v0")
        env.reset(seed=0)
        again = pickle.loads(pickle.dumps(env))
        env.action_space.seed(0)
        action = env.action_space.sample()
        mine, its = env.step(action), again.step(action)
        assert np.array_equal(mine[0], its[0]) and mine[1:4] == its[1:4]


def test_a_store_is_sent_as_its_file_or_with_its_images(tmp_path):
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    for path in (":memory:", tmp_path / "images"):
        store = Store(path)
        store.put("a", image, {"prompt": "b"})
        for other in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
            assert other.get("a").tobytes() == image.tobytes() and other.meta("a") == {"prompt": "b"}
            other.put("c", image)
            assert ("c" in store) == (path != ":memory:")
            store.discard("c")
        store.close()
        refused(lambda: pickle.dumps(store), "closed")


def test_models_are_loaded_again_and_must_be_the_same(tmp_path):
    import shutil
    from importlib.resources import files
    for cls, name, file in ((Generator, "sd", "scheduler/scheduler_config.json"), (Perception, "clip", None)):
        folder = tmp_path / name
        shutil.copytree(files("rlgen") / "weights" / name, folder)
        model = cls.load(str(folder), device="cpu")
        sent = pickle.dumps(model)
        assert len(sent) < 10_000 and pickle.loads(sent).settings == model.settings
        changed = folder / (file or "open_clip_config.json")
        changed.write_text(changed.read_text().replace("{", "{ ", 1))
        refused(lambda: pickle.loads(sent), str(folder)[:40], "have changed")


def test_a_model_of_your_own_is_sent_with_its_weights():
    loaded = Generator.load("tiny", inference_steps=2, device="cpu")
    own = Generator(loaded.pipe, loaded.settings)
    again = pickle.loads(pickle.dumps(own))
    assert again.generate(["a dog"], [1])[0].tobytes() == own.generate(["a dog"], [1])[0].tobytes()


def test_no_key_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")
    generator = RemoteGenerator("one", base_url="http://localhost:9/v1")
    generator._client = object()
    sent = pickle.dumps(generator)
    assert b"secret" not in sent and pickle.loads(sent)._client is None and generator._client is not None
