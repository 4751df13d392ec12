"""Damaged files: each kind that a command reads is cut, flipped or edited; the answer is a result or a sentence."""
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from standins import GRAMMAR
from test_odd_values import answer, is_answer

from rlgen.data.prompts import CATEGORIES, MODIFIER_FILES

SEARCH = "search goal.png --inference-steps 1 --max-steps 3 --out out"
PREFER = "--length 2 --budget 4 --inference-steps 1 --agent modifiers --out out"
SUPPORT = (
    "support --small --classes dog bus --real 2 --validation 2 --test 2 --episodes 1 --max-images 4 --per-step 4 "
    "--arms random ours --inference-steps 1 --learning.epochs 1 --out out"
)

def weights(name: str) -> Callable[[Path], None]:
    "Puts shipped weights into a folder."
    def put(folder):
        shutil.copytree(files("rlgen") / "weights" / name, folder / name, copy_function=os.link)
        shutil.copy(files("rlgen") / "assets" / "goal.png", folder)
    return put

def start(command: str) -> Callable[[Path], None]:
    "Makes the files of a first run by giving the command."
    def put(folder):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "goal.png")
        plan = {"out": "out", "classes": ["dog", "bus"], "splits": {"train": 2, "val": 2}, "batch_size": 2, "shard": 2,
                "inference_steps": 1, "format": "folder"}
        (folder / "plan.json").write_text(json.dumps(plan))
        (folder / "grammar.cfg").write_text(GRAMMAR)
        status, error = answer(folder, command.split(), keep=True)
        assert status == 0, error
    return put

def unfinished(folder):
    "A search that was killed."
    start(SEARCH + " --grammar grammar.cfg --agent random")(folder)
    (folder / "out" / "result.json").unlink()

def lists(folder):
    "A plan as TOML, prompts with modifiers as CSV, and labelled images in a zip file."
    (folder / "plan.toml").write_text(
        'out = "out"\nclasses = "names.txt"\nbatch_size = 2\nshard = 2\ninference_steps = 1\n'
        'templates = ["a {class}"]\n[splits]\ntrain = 1\n[axes]\n'
    )
    (folder / "names.txt").write_text("dog\nbus\n")
    rows = [f'"a dog, {", ".join(CATEGORIES["painting"][i:i + 3])}","{{}}"' for i in range(5)]
    (folder / "prompts.csv").write_text("\n".join(["prompt,raw_data", *rows]) + "\n")
    for name in MODIFIER_FILES["painting"]:
        (folder / "lists" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "lists" / name).write_text("\n".join(CATEGORIES["painting"]) + "\n")
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for i in range(12):
            image = Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8))
            image.save(folder / "x.png")
            archive.write(folder / "x.png", f"{'ab'[i % 2]}/{i}.png")

KINDS = {  # kind of files -> what makes them, which of them are damaged, and the commands that read them
    "search": (start(SEARCH + " --grammar grammar.cfg"), ["out/*.json*", "out/*/walk*", "grammar.cfg", "goal.png"],
               [SEARCH + " --grammar grammar.cfg", "runs out --compare --json", "runs . --plot x.png"]),
    "killed search": (unfinished, ["out/*.json*", "out/*/walk*", "pictures.sqlite"],
                      [SEARCH + " --grammar grammar.cfg --agent random", "runs out"]),
    "clone": (start("clone plan.json"),
              ["plan.json", "out/*.json", "out/*.parquet", "out/*/*.parquet", "out/train/*/*"],
              ["clone plan.json", "clone --status out --verify", "clone --status out", "clone plan.json --estimate",
               "compare out out"]),
    "support": (start(SUPPORT), ["out/*.json*", "out/*/*.safetensors"], [SUPPORT, "runs ."]),
    "prefer": (start("prefer goal.png --prompt dog --vocabulary modifiers " + PREFER), ["out/*.json*"],
               ["prefer goal.png --prompt dog --vocabulary modifiers " + PREFER]),
    "lists": (lists, ["plan.toml", "names.txt", "prompts.csv", "lists/*", "data.zip"],
              ["clone plan.toml", "prefer --csv prompts.csv --modifiers lists --category painting --pairs 4 " + PREFER,
               SUPPORT.replace("--classes dog bus --real 2 --validation 2 --test 2", "--data data.zip")]),
    "generator": (weights("sd"), ["sd/*.json", "sd/*/*.json", "sd/*/*.safetensors"], [SEARCH + " --model sd"]),
    "perception": (weights("clip"), ["clip/*.json", "clip/*.safetensors"], [SEARCH + " --perception clip"]),
    "language model": (weights("gpt2"), ["gpt2/*.json", "gpt2/*.safetensors"],
                       ["prefer goal.png --prompt dog --vocabulary all --language-model gpt2 " + PREFER]),
}

@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Callable[[str], Path]:
    "The folder of a kind of files, made when it is first asked for."
    made = {}
    def place(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("damage")
            KINDS[kind][0](made[kind])
        return made[kind]
    return place

ODD_VALUES = (
    None, True, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", "x", "../x", "\udcff", [], {}, [[]], {"a": 1}
)

def edited(data: bytes, draw) -> bytes | None:
    "JSON with one value replaced or removed; None for what is no JSON."
    try:
        value = json.loads(data)
    except ValueError:
        return None
    places = []
    def look(inner):
        for key in inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ():
            places.append((inner, key))
            look(inner[key])
    look(value)
    if not places: return None
    inner, key = draw(st.sampled_from(places))
    if draw(st.booleans()):
        inner[key] = draw(st.sampled_from(ODD_VALUES))
    else:
        del inner[key]
    return json.dumps(value).encode()

def damaged(data: bytes, draw) -> bytes:
    how = draw(st.sampled_from(("edit", "edit", "edit", "flip", "flip", "cut", "insert", "junk", "empty", "swap")))
    if how == "edit":
        lines = data.split(b"\n")
        i = draw(st.integers(0, len(lines) - 1))
        if (whole := edited(data, draw)) is not None: return whole
        if (line := edited(lines[i], draw)) is not None: return b"\n".join([*lines[:i], line, *lines[i + 1:]])
        how = "flip"
    place = draw(st.integers(0, max(0, len(data) - 1)) | st.integers(0, min(300, max(0, len(data) - 1))))
    if how == "flip" and data:
        return data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1:]
    if how == "cut": return data[:place]
    if how == "insert": return data[:place] + draw(st.binary(max_size=9)) + data[place:]
    if how == "swap": return data[place:] + data[:place]
    return draw(st.binary(max_size=40)) if how == "junk" else b""

@settings(max_examples=int(os.environ.get("ODD", 60)), deadline=None, derandomize="ODD" not in os.environ,
          suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from([*KINDS]))
def test_damaged_files(places, data, kind):
    check(places, data.draw, kind)

def check(places, draw, kind):
    "Damages a file of a kind, and gives the commands that read it."
    place, (_, patterns, commands) = places(kind), KINDS[kind]
    paths = [path for pattern in patterns for path in sorted(place.glob(pattern)) if path.is_file()]
    path = draw(st.sampled_from(paths))
    contents, command = damaged(path.read_bytes(), draw), draw(st.sampled_from(commands))
    with tempfile.TemporaryDirectory() as copy:
        folder = Path(copy) / "deep" / "deeper"
        shutil.copytree(place, folder, copy_function=os.link if "generator" in kind else shutil.copy2)
        (folder / path.relative_to(place)).unlink()
        (folder / path.relative_to(place)).write_bytes(contents)
        status, error = answer(folder, command.split(), keep=True)
    assert is_answer(status, error), (command, path.relative_to(place), contents[:300], status, error)
