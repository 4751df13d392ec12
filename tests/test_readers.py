"""Damaged files, reader by reader: the answer is what was read, or a sentence that names the file and what to do."""
import json
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from standins import GRAMMAR
from test_clone import Fake
from test_damage import damaged

from rlgen.agents.tabular import QLearning
from rlgen.clone.engines import make
from rlgen.clone.manifest import Manifest, write_manifest
from rlgen.clone.plan import Plan, class_names
from rlgen.clone.run import read_config
from rlgen.clone.shards import clone_settings, status
from rlgen.data.prompts import CATEGORIES, open_prompts, read_modifiers
from rlgen.data.readers import image_folder, read_batch
from rlgen.experiments.compression import KIND, decompress
from rlgen.experiments.preference_tables import read_preference_rows
from rlgen.experiments.rldf import SearchResult
from rlgen.experiments.support_set import SupportSettings, load_support_result
from rlgen.experiments.support_tables import read_support_rows
from rlgen.experiments.training_statistics import read_runs
from rlgen.files import load_arrays, save_arrays, write_csv, write_json
from rlgen.grammar import Grammar
from rlgen.images import open_image
from rlgen.models.classifier import Network, load_classifier, save_classifier
from rlgen.models.evaluators import load_evaluators
from rlgen.models.folders import check_folder, transformers_folder
from rlgen.rewards.preference import AnswerLog, FeatureMap, RewardModel
from rlgen.runs import Run, run_curves, run_rows
from rlgen.training.loop import Trainer

SMALL = SupportSettings(arms=("random",), test_classifiers=("probe",))
PAINTER = SimpleNamespace(settings={"model": "x"}, negative="", generate=lambda *_: [])
NOISE = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

def run_folder(folder):
    with Run.create(folder, {"seed": 0}) as run:
        for i in range(3):
            run.log(step=i, reward=.5 * i)
        run.save_checkpoint("walk", {"table": np.eye(3)}, {"steps": 3})

def finished(result) -> Callable[[Path], None]:
    def put(folder):
        run_folder(folder)
        with Run(folder) as run:
            run.finish(result)
    return put

def support_folder(folder):
    tested = {"accuracy": .5, "entropy": .5, "per_class": [.5, None]}
    write_json(folder / "sets.json", {"generated": {"random": 4}, "prompts": [["a dog", 4]], "seconds": 1.5})
    write_json(folder / "tests.json", {SMALL.key("probe", "random"): tested})

def clone_folder(folder):
    plan = Plan({"train": 2}, ("dog", "bus"))
    make(write_manifest(folder / "manifest.parquet", plan, Fake(), batch=4), folder, Fake(), shard=4)

def classifier(folder):
    model = Network("small", 2, 16, device="cpu")
    save_classifier(folder / "classifier.safetensors", model, ("dog", "bus"))

def images(folder):
    Image.fromarray(NOISE[0]).save(folder / "goal.png")
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for i in range(4):
            archive.write(folder / "goal.png", f"{'ab'[i % 2]}/{i}.png")
    (folder / "data_batch_1").write_bytes(
        b"\x80\x02}q\x00(U\x04dataq\x01T\x00\x18\x00\x00" + NOISE[:2].tobytes()
        + b"q\x02U\x06labelsq\x03]q\x04(K\x01K\x02eu."
    )

def weights(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.copytree(files("rlgen") / "weights" / name, folder, dirs_exist_ok=True)

def tables(folder):
    write_csv(folder / "runs.csv", [{"seed": 0, "goal": 1, "steps": 5, "agent": "q", "distances": "1.5 2"}] * 3)
    write_csv(folder / "rows.csv", [{"category": "x", "agent": "q", "seed": 0, "gain": .5, "calls": 3}] * 3)
    write_csv(folder / "arms.csv", [{"regime": "few", "seed": 0, "arm": "ours", "accuracy": 50.5, "generated": 4}] * 3)

def texts(folder):
    (folder / "grammar.cfg").write_text(GRAMMAR)
    (folder / "names.txt").write_text("dog\nbus\n")
    (folder / "words.txt").write_text("\n".join(CATEGORIES["painting"]) + "\n")
    rows = [f'"a dog, {", ".join(CATEGORIES["painting"][i:i + 3])}","{{}}"' for i in range(5)]
    (folder / "prompts.csv").write_text("\n".join(["prompt,raw_data", *rows]) + "\n")
    (folder / "plan.json").write_text(json.dumps({"out": "out", "classes": ["dog"], "splits": {"train": 2}, "seed": 3}))
    (folder / "plan.toml").write_text('out = "out"\nclasses = ["dog"]\nseed = 3\n[splits]\ntrain = 2\n')
    (folder / "answers.jsonl").write_text('["a", "b", 1]\n["c", null, 0]\n')
    (folder / "images.rlgen").write_text(json.dumps({
        "kind": KIND, "version": 1, "generator": PAINTER.settings, "negative": "", "prompts": ["a"], "seeds": [0],
    }))

def agents(folder):
    QLearning(Discrete(3), Discrete(2), seed=0).save(folder / "agent.safetensors")
    RewardModel(FeatureMap(np.zeros(3), np.eye(3)), 2, seed=0).save(folder / "reward.safetensors")
    save_arrays(folder / "arrays.safetensors", {"x": np.eye(3)}, {"seed": 3})

def trained(folder):
    import torch
    trainer = Trainer(folder, {"net": torch.nn.Linear(2, 2)}, 3, .1)
    trainer.save()
    (folder / "log.jsonl").write_text('{"step": -1, "loss": 1.5}\n{"step": 7, "loss": 0.5}\n')

def resume(folder):
    import torch
    Trainer(folder, {"net": torch.nn.Linear(2, 2)}, 3, .1)

FOUND = asdict(SearchResult("a dog", [0, 1], True, "a cat", 3, 1, 3, 3, .5, "run"))

READERS: dict[str, tuple] = {  # file -> what makes it, and what reads it; both get the folder
    "config.json": (run_folder, lambda f: run_rows([Run(f)])),
    "log.jsonl": (run_folder, lambda f: run_curves(Run(f))),
    "checkpoints/walk.safetensors": (run_folder, lambda f: Run(f).load_checkpoint("walk")),
    "result.json": (finished(FOUND), lambda f: (Run(f).result_as(SearchResult), run_rows([Run(f)]))),
    "sets.json": (support_folder, lambda f: str(load_support_result(f, SMALL))),
    "tests.json": (support_folder, lambda f: str(load_support_result(f, SMALL))),
    "clone.json": (clone_folder, clone_settings),
    "manifest.parquet": (clone_folder, lambda f: Manifest(f / "manifest.parquet").uids()),
    "train-000000.parquet": (clone_folder, lambda f: status(f, verify=True)),
    "classifier.safetensors": (classifier, lambda f: load_classifier(f / "classifier.safetensors")),
    "goal.png": (images, lambda f: open_image(f / "goal.png")),
    "data.zip": (images, lambda f: image_folder(f / "data.zip", 16)),
    "data_batch_1": (images, lambda f: read_batch(f / "data_batch_1")),
    "runs.csv": (tables, lambda f: read_runs(f / "runs.csv")),
    "rows.csv": (tables, lambda f: read_preference_rows(f / "rows.csv")),
    "arms.csv": (tables, lambda f: read_support_rows(f / "arms.csv")),
    "grammar.cfg": (texts, lambda f: Grammar.from_file(f / "grammar.cfg")),
    "names.txt": (texts, lambda f: class_names(str(f / "names.txt"))),
    "words.txt": (texts, lambda f: read_modifiers(f / "words.txt")),
    "prompts.csv": (texts, lambda f: open_prompts(f / "prompts.csv", CATEGORIES["painting"])),
    "plan.json": (texts, lambda f: read_config(f / "plan.json")),
    "plan.toml": (texts, lambda f: read_config(f / "plan.toml")),
    "answers.jsonl": (texts, lambda f: AnswerLog(f / "answers.jsonl")),
    "images.rlgen": (texts, lambda f: decompress(f / "images.rlgen", PAINTER)),
    "agent.safetensors": (agents, lambda f: QLearning.load(f / "agent.safetensors")),
    "reward.safetensors": (agents, lambda f: RewardModel.load(f / "reward.safetensors")),
    "arrays.safetensors": (agents, lambda f: load_arrays(f / "arrays.safetensors")),
    "checkpoint.safetensors": (trained, resume),
    "training/log.jsonl": (lambda f: trained(f / "training"), lambda f: resume(f / "training")),
    "judges.safetensors": (weights("judges"), load_evaluators),
    "model_index.json": (weights("sd"), check_folder),
    "gpt2/config.json": (
        lambda f: weights("gpt2")(f / "gpt2"), lambda f: transformers_folder(str(f / "gpt2"), "model", "gpt2")
    ),
}

@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Callable[[str], Path]:
    "The folder of a file, made when it is first asked for."
    made: dict[str, Path] = {}
    def place(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("reader")
            READERS[name][0](made[name])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                READERS[name][1](made[name])
        return made[name]
    return place

def find(folder: Path, name: str) -> Path:
    "The file of a name, at any depth."
    return next(path for path in sorted(folder.rglob("*")) if path.as_posix().endswith(f"/{name}"))

def answer(place: Path, name: str, contents: bytes) -> str | None:
    "What the reader of a file says of other contents; None if it takes them."
    with tempfile.TemporaryDirectory() as copy, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shutil.copytree(place, copy, copy_function=os.link, dirs_exist_ok=True)
        path = find(Path(copy), name)
        path.unlink()
        path.write_bytes(contents)
        try:
            READERS[name][1](Path(copy))
        except (ValueError, OSError) as error:
            said = str(error)
            own = said.endswith(".") and "\n" not in said and path.name in said and len(said) < 600
            assert own, (name, contents[:300], type(error), said)
            return said

SALVAGED = {"log.jsonl", "training/log.jsonl", "words.txt", "names.txt", "answers.jsonl", "train-000000.parquet"}

@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_cut_off_is_named(places, name):
    data = find(places(name), name).read_bytes()
    said = answer(places(name), name, data[:len(data) // 3])
    assert said is not None or name in SALVAGED | {"arms.csv", "rows.csv", "prompts.csv", "grammar.cfg"}
    assert said is None or re.search("[:,.] ", said), "what to do"
    said = answer(places(name), name, b"\xff\xfe\x00 no such file")
    assert said is not None or name in SALVAGED | {"rows.csv", "arms.csv"}

@settings(max_examples=int(os.environ.get("ODD", 250)), deadline=None, derandomize="ODD" not in os.environ,
          suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from([*READERS]))
def test_a_damaged_file_is_read_or_named(places, data, name):
    answer(places(name), name, damaged(find(places(name), name).read_bytes(), data.draw))
