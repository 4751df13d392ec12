"""A killed search goes on as the unbroken one, bit for bit; a finished one that is called again changes nothing."""
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from standins import GRAMMAR, Drawing, goal_image, world_of

from rlgen.experiments.rldf import AGENTS, RLDFSettings, load_goal, load_world, open_run, search, search_steps
from rlgen.models.generator import Cached
from rlgen.models.loading import ModelSettings
from rlgen.rewards.shaping import REWARD_NAMES
from rlgen.runs import Run
from rlgen.store import Store

class Killed(BaseException):
    "Stands for the end of the process."

def killing(monkeypatch, after: float):
    "Lets the process die at a write into a run folder: before the one of number `after`, or with .5 behind it."
    count = itertools.count()
    def dying(plain):
        def write(*args, **more):
            moment = next(count)
            if moment == after: raise Killed
            plain(*args, **more)
            if moment == after - .5: raise Killed
        return write
    for name in ("log", "save_checkpoint"):
        monkeypatch.setattr(Run, name, dying(getattr(Run, name)))

def contents(folder) -> dict:
    "What a run has written, apart from the time that it took and the images that it did not find in the store."
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found["config.json"] = json.loads(found["config.json"])["config"]
    if "result.json" in found:
        result = json.loads(found["result.json"])
        found["result.json"] = {k: v for k, v in result.items() if k not in ("seconds", "generator_calls", "folder")}
    return found

def walk(folder, settings, goal, make_world):
    "A search in a new process: with a new world, which has perceived nothing."
    with open_run(folder, goal, settings) as run:
        for trace in search_steps(make_world(), goal, settings, run=run):
            pass
        run.finish({"prompt": trace.prompt, "rewards": trace.rewards, "found": trace.found})

@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("reward", REWARD_NAMES)
def test_a_killed_search_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch, agent, reward):
    rng = np.random.default_rng([*AGENTS].index(agent) + 100 * REWARD_NAMES.index(reward))
    settings = RLDFSettings(GRAMMAR, agent, reward, max_steps=50, episode=6, seed=int(rng.integers(9)))
    goal, store = goal_image((1, 2, 1, 3)), Store(":memory:")
    def make_world():
        return world_of(Cached(Drawing(), store))
    walk(tmp_path / "whole", settings, goal, make_world)
    whole = contents(tmp_path / "whole")
    steps = whole["log.jsonl"].count(b"\n")
    for i in range(3):
        folder, kills = tmp_path / f"killed-{i}", 0
        for _ in range(2):
            with monkeypatch.context() as patch:
                killing(patch, rng.integers(2 * steps) / 2)
                try:
                    walk(folder, settings, goal, make_world)
                except Killed:
                    kills += 1
        walk(folder, settings, goal, make_world)
        assert contents(folder) == whole and kills

@pytest.mark.parametrize("agent, reward", [
    ("q-learning", "clip"), ("dyna-q", "shaped-clip"), ("bandit", "clip"), ("sarsa", "shaped-multi"),
])
def test_with_real_models(tmp_path, monkeypatch, agent, reward):
    settings = RLDFSettings(
        agent=agent, reward=reward, max_steps=30, episode=9, seed=5, models=ModelSettings(inference_steps=1)
    )
    goal, store = load_goal()[0], Store(tmp_path / "pictures.sqlite")
    walk(tmp_path / "whole", settings, goal, lambda: load_world(settings, store))
    steps = len(Run(tmp_path / "whole").rows())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, steps - 4)
        walk(tmp_path / "killed", settings, goal, lambda: load_world(settings, store))
    walk(tmp_path / "killed", settings, goal, lambda: load_world(settings, store))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")

@pytest.mark.parametrize("agent", AGENTS)
def test_a_kill_costs_no_more_than_an_episode(tmp_path, monkeypatch, agent):
    "Whatever chooses encodings has no goal to start anew from, but saves a checkpoint as often as the others."
    settings, goal = RLDFSettings(GRAMMAR, agent, "multi", max_steps=50, episode=6, seed=3), goal_image((1, 2, 1, 3))
    saved, log = [], Run.log
    def noting(run, **row):
        path = run.folder / "checkpoints" / "walk.safetensors"
        saved.append(row["step"] - (run.load_checkpoint("walk")[1]["agent"]["steps"] if path.exists() else 0))
        log(run, **row)
    monkeypatch.setattr(Run, "log", noting)
    walk(tmp_path / "run", settings, goal, lambda: world_of(Drawing()))
    assert max(saved) <= 6

def test_a_finished_search_changes_no_byte_and_loads_no_model(tmp_path, monkeypatch):
    settings = RLDFSettings(max_steps=7, episode=5, models=ModelSettings(inference_steps=1))
    first = search(None, settings, tmp_path / "run")
    def state():
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}
    before = state()
    monkeypatch.setattr("rlgen.experiments.rldf.load_world", lambda *_: 1 / 0)
    again = search(None, settings, tmp_path / "run")
    assert state() == before and again.steps == 7
    assert replace(again, seconds=0, generator_calls=0) == replace(first, seconds=0, generator_calls=0)
    with pytest.raises(ValueError, match="another config"):
        search(None, replace(settings, seed=1), tmp_path / "run")
