"""Odd values on the command line: whatever is typed, the answer is a result or a sentence, and never a traceback."""
import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from standins import GRAMMAR

from rlgen.cli import COMMANDS, main

BASE = {  # each command with little to do
    "search": "goal.png --grammar grammar.cfg --inference-steps 1 --max-steps 3 --out out",
    "rldf-table": "goal.png --grammar grammar.cfg --inference-steps 1 --max-steps 2 --agents random --rewards multi "
                  "--epsilons 0.1 --seeds 2 --out out",
    "prefer": "goal.png --prompt dog --length 2 --budget 4 --vocabulary modifiers --agent modifiers "
              "--inference-steps 1 --out out",
    "support": "--small --classes dog bus --real 2 --validation 2 --test 2 --episodes 1 --max-images 4 --per-step 4 "
               "--arms random --inference-steps 1 --learning.epochs 1 --out out",
    "finetune": "--budget 2 --held-out 4 --evaluate-every 0 --inference-steps 2 --learning.prompts 1 "
                "--learning.samples 2 --learning.gradient-steps 1 --out out",
    "clone": "plan.json",
    "compare": "images images",
    "runs": "run",
    "check": "handed-in.ipynb",
    "bench": "luck",
}
ODD = (
    "", " ", "-", "-1", "0", "1", "2", "0.5", "-0.0", "nan", "inf", "-inf", "1e999", "99999999999999999999999", "0x10",
    "1_0", "None", "True", "[]", "{}", "()", "é", "\u732b", "\udcff", "a\nb", ".", "..", "/dev/null/x", "CON", "a:b",
    "x" * 300, "cpu", "meta", "cuda:99", "vulkan", "openai:", "openai:x", "hf-hub:", "hf-hub:a/b", "local-dir:",
    "owner/model", "tiny", "goal.png", "grammar.cfg", "plan.json", "images", "run", "text", "nowhere",
    "module:function", "8", ":", "shaped-", "shaped-clip", "bandit", "dyna-q", "gradient", "linear", "1/0", "0/1",
    "2/1", "1/2", "a/b", "%s", "--",
)
LONG = {  # options whose large values are no mistake and take for ever
    "--max-steps", "--seeds", "--episodes", "--budget", "--pairs", "--length", "--epochs", "--learning.epochs",
    "--updates",
    "--inference-steps", "--real", "--validation", "--test", "--evaluated", "--images-per-prompt", "--evaluate-every",
    "--learning.updates", "--size", "--image-size", "--max-images", "--per-step", "--batch-size",
    "--held-out", "--rank", "--learning.steps", "--learning.prompts", "--learning.samples", "--learning.gradient-steps",
    "--learning.batch-size",
}

def options_of(command: str) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([command, "--help"]) == 0
    found = re.findall(r"(?<=[\s│])--[a-z][a-z.-]*", out.getvalue())
    return sorted(set(found) - {"--help", "--compile"})  # the last one takes minutes

OPTIONS = [(command, option) for command in COMMANDS for option in options_of(command)]

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder, far down, with what the commands of `BASE` need."
    folder = tmp_path_factory.mktemp("odd") / "deep" / "deeper"
    folder.mkdir(parents=True)
    (folder / "grammar.cfg").write_text(GRAMMAR)
    (folder / "text").write_text("neither an image nor a folder")
    (folder / "images").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{i}.png")
    Image.fromarray(noise).save(folder / "goal.png")
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text('{"kind": "run", "config": {"seed": 0}, "versions": {}}')
    (folder / "run" / "log.jsonl").write_text('{"reward": 1.0}\n{"reward": 2.5}\n')
    cell = {"cell_type": "code", "metadata": {}, "source": "check_return(sum)"}
    (folder / "handed-in.ipynb").write_text(json.dumps({"cells": [cell], "nbformat": 4, "nbformat_minor": 5}))
    (folder / "plan.json").write_text(json.dumps({
        "out": "out", "classes": ["dog"], "splits": {"train": 2}, "batch_size": 2, "shard": 2, "inference_steps": 1,
    }))
    return folder

def answer(place: Path, arguments: list[str], keep: bool = False) -> tuple[int, str]:
    "Exit status and error stream of a command, in a folder or in a copy of it that is thrown away."
    here, err = Path.cwd(), io.StringIO()
    with tempfile.TemporaryDirectory() as copy:
        folder = place if keep else Path(copy) / "deep" / "deeper"
        if not keep:
            shutil.copytree(place, folder)
        os.chdir(folder)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(err),
                warnings.catch_warnings(action="ignore"),
                pytest.MonkeyPatch.context() as patch,
            ):
                for name in ("HOME", "USERPROFILE"):  # what is thrown away is the home folder, too
                    patch.setenv(name, str(folder.parents[1]))
                status = main(arguments)
        finally:
            os.chdir(here)
    return status, err.getvalue()

def is_answer(status: int, error: str) -> bool:
    said = [line for line in error.splitlines() if line.startswith("rlgen: ")]
    bug = "bug of rlgen" in error or "Traceback" in error
    return not bug and status in (0, 1, 2) and len(said) == (status == 2)

@settings(max_examples=int(os.environ.get("ODD", 120)), deadline=None, derandomize="ODD" not in os.environ,
          suppress_health_check=list(HealthCheck))
@given(st.sampled_from(OPTIONS), st.lists(st.sampled_from(ODD) | st.text(st.characters(exclude_characters="\0")),
       max_size=2), st.data())
def test_odd_values_of_options(place, chosen, values, data):
    command, option = chosen
    typed = [*BASE[command].split(), option, *values]
    if data.draw(st.booleans()):
        other = data.draw(st.sampled_from([name for of, name in OPTIONS if of == command]))
        typed += [other, *data.draw(st.lists(st.sampled_from(ODD), max_size=2))]
    for i, text in enumerate(typed):
        if text in LONG and len(typed[i + 1:i + 2]) and len(typed[i + 1]) > 9 and typed[i + 1].isdigit():
            typed[i + 1] = "0"
    status, error = answer(place, [command, *typed])
    assert is_answer(status, error), ([command, *typed], status, error)
